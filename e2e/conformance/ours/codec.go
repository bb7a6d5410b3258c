package ours

import (
	"bytes"
	"errors"
	"io"
	"time"

	upstream "github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/inflate"
)

// Kind is a way in which a blob keeps its TOC.
type Kind uint8

// The kinds that upstream's library knows.
const (
	Gzip     Kind = iota + 1 // eStargz
	External                 // eStargz with the TOC outside
	Zstd                     // zstd:chunked in the dialect of stargz-snapshotter
)

func (k Kind) String() string {
	return map[Kind]string{Gzip: "gzip", External: "external", Zstd: "zstd"}[k]
}

// Compression is our codec as upstream's library wants it. It is for one blob.
type Compression struct {
	Kind  Kind
	Level int // of the compressor, 1 to 9

	footer  estargz.Footer // of the last blob whose footer was parsed
	outside []byte         // layer of the TOC image of the last blob written
	found   []byte         // the same when it was first read
}

// Reader decompresses what follows of the blob.
func (c *Compression) Reader(r io.Reader) (io.ReadCloser, error) {
	if c.Kind == Zstd {
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return inflate.NewStream(r, inflate.Point{Member: true})
}

// FooterSize is how much of the end ParseFooter is to be given.
func (c *Compression) FooterSize() int64 {
	return map[Kind]int64{Gzip: 51, External: 46, Zstd: 48}[c.Kind]
}

// ParseFooter implements the interface of upstream's Decompressor.
func (c *Compression) ParseFooter(p []byte) (payload, off, size int64, err error) {
	c.footer, err = estargz.ParseFooter(p)
	switch {
	case err != nil:
		return 0, 0, 0, err
	case c.footer.Zstd != (c.Kind == Zstd) || c.footer.External != (c.Kind == External):
		return 0, 0, 0, errors.New("a footer of another kind")
	case c.footer.External:
		return -1, -1, 0, nil
	}
	return c.footer.DataEnd(), c.footer.TOCOffset, c.footer.TOCSize, nil
}

// ParseTOC reads the TOC with our parser, and gives its entries back in
// upstream's form.
func (c *Compression) ParseTOC(r io.Reader) (*upstream.JTOC, digest.Digest, error) {
	var packed []byte
	footer := c.footer
	if c.Kind == External {
		// Upstream keeps the TOC that it found first, and its suite counts on that.
		if c.found == nil {
			c.found = c.outside
		}
		packed, footer.TOCOffset = c.found, 1<<62 // the blob's size is not known here
	} else {
		var err error
		if packed, err = io.ReadAll(r); err != nil {
			return nil, "", err
		}
		if footer.TOCSize > 0 {
			packed = packed[:min(footer.TOCSize, int64(len(packed)))]
		}
	}
	toc := &upstream.JTOC{Version: 1}
	sum, err := estargz.ReadTOC(packed, footer, estargz.DefaultLimits(), func(e *estargz.Entry) error {
		toc.Entries = append(toc.Entries, upstreamEntry(e))
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return toc, digest.Digest(sum.String()), nil
}

// DecompressTOC gives the TOC's JSON, for upstream's metadata stores.
func (c *Compression) DecompressTOC(io.Reader) (io.ReadCloser, error) {
	return nil, errors.New("our reader parses the TOC as it comes")
}

func upstreamEntry(e *estargz.Entry) *upstream.TOCEntry {
	u := &upstream.TOCEntry{
		Name: e.Name, Type: e.Type.String(), Size: e.Size, LinkName: e.LinkName, Mode: int64(e.Mode),
		UID: int(e.UID), GID: int(e.GID), DevMajor: int(e.DevMajor), DevMinor: int(e.DevMinor), Xattrs: e.Xattrs,
		Offset: e.Offset, InnerOffset: e.InnerOffset, ChunkOffset: e.ChunkOffset, ChunkSize: e.ChunkSize,
	}
	if !e.ModTime.IsZero() {
		u.ModTime3339 = e.ModTime.Format(time.RFC3339)
	}
	if e.HasDigest {
		u.Digest = e.Digest.String()
	}
	if e.HasChunkDigest {
		u.ChunkDigest = e.ChunkDigest.String()
	}
	return u
}

// DiffIDOf unpacks a blob.
func (c *Compression) DiffIDOf(blob []byte) (string, error) {
	rc, err := c.Reader(bytes.NewReader(blob))
	if err != nil {
		return "", err
	}
	sum := digest.Canonical.Digester()
	_, err = io.Copy(sum.Hash(), rc)
	return sum.Digest().String(), errors.Join(err, rc.Close())
}
