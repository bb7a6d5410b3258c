package ours

import (
	"encoding/json"
	"hash"
	"io"

	upstream "github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"

	"github.com/nineply/nineply/estargz"
)

// options are those of our writer for the kind.
func (c *Compression) options() estargz.WriterOptions {
	o := estargz.WriterOptions{Level: c.Level, KeepDiffID: c.Kind == External}
	if c.Kind == Zstd {
		o.Format = estargz.FormatZstdChunked
	}
	return o
}

// Writer starts a member, with the compressors that our writer uses.
func (c *Compression) Writer(w io.Writer) (upstream.WriteFlushCloser, error) {
	if c.Kind == Zstd {
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(c.Level)), zstd.WithEncoderConcurrency(1))
	}
	return gzip.NewWriterLevel(w, c.Level)
}

// WriteTOCAndFooter ends a blob as our writer does.
func (c *Compression) WriteTOCAndFooter(w io.Writer, off int64, toc *upstream.JTOC, diff hash.Hash) (digest.Digest, error) {
	text, err := json.Marshal(toc)
	if err != nil {
		return "", err
	}
	plain := io.Discard
	if diff != nil { // upstream's builder leaves it out
		plain = diff
	}
	res, err := estargz.WriteTOC(w, plain, off, text, c.options())
	c.outside = res.ExternalTOC
	return digest.Digest(res.TOCDigest.String()), err
}
