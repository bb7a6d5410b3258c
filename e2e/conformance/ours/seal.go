package ours

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"io"

	upstream "github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
)

func newMember(w io.Writer, kind Kind, level int) (upstream.WriteFlushCloser, error) {
	if kind == Zstd {
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1))
	}
	return gzip.NewWriterLevel(w, level)
}

// WriteTOCAndFooter ends a blob.
func (c *Compression) WriteTOCAndFooter(w io.Writer, off int64, toc *upstream.JTOC, diff hash.Hash) (digest.Digest, error) {
	text, err := json.Marshal(toc)
	if err != nil {
		return "", err
	}
	tee := io.Discard
	if diff != nil { // upstream's builder leaves it out
		tee = diff
	}
	var end bytes.Buffer
	switch c.Kind {
	case Gzip:
		err = packTOC(&end, tee, text)
		fmt.Fprintf(&end, "\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x1a\x00SG\x16\x00%016xSTARGZ%s", off, emptyBlock)
	case External:
		var outside bytes.Buffer
		err = packTOC(&outside, io.Discard, text)
		c.outside = outside.Bytes()
		end.WriteString("\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x15\x00SG\x11\x00STARGZEXTERNALTOC" + emptyBlock)
	case Zstd:
		err = sealZstd(&end, off, text)
	}
	if err != nil {
		return "", err
	}
	_, err = w.Write(end.Bytes())
	return digest.FromBytes(text), err
}

// emptyBlock ends a gzip member without content.
const emptyBlock = "\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00"

func sealZstd(end *bytes.Buffer, off int64, text []byte) error {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	packed := e.EncodeAll(text, nil)
	p := binary.LittleEndian.AppendUint64(nil, 0x184d2a50|uint64(len(packed))<<32)
	p = append(p, packed...)
	for _, v := range []int64{0x184d2a50 | 40<<32, off + 8, int64(len(packed)), int64(len(text)), 1} {
		p = binary.LittleEndian.AppendUint64(p, uint64(v))
	}
	end.Write(append(p, "GnUlInUx"...))
	return nil
}
