// Package layertar turns the blob of a layer, however it is compressed, into its
// tar stream. The compression is told by the first bytes, not by what a
// manifest claims. Bytes are untrusted: memory is bounded whatever they say, and
// damage is reported as an fserr.Corrupt error, while errors of the underlying
// reader keep their kind.
package layertar

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/inflate"
)

// maxWindow bounds the memory that a zstd frame may ask for, bytes.
const maxWindow = 128 << 20

const readBuffer = 256 << 10

// Stream is the tar of one layer.
type Stream struct {
	raw   *bufio.Reader
	plain io.Reader
	close func()
	name  string
}

// Gunzip decompresses the members of a gzip blob.
type Gunzip func(blob io.Reader) (io.ReadCloser, error)

// Open starts decompressing blob: gzip (any number of members), zstd (any number
// of frames), or no compression.
func Open(blob io.Reader) (*Stream, error) {
	return OpenWith(blob, func(blob io.Reader) (io.ReadCloser, error) {
		return inflate.NewStream(blob, inflate.Point{Member: true})
	})
}

// OpenWith is [Open] with a way of one's own to decompress gzip.
func OpenWith(blob io.Reader, gunzip Gunzip) (*Stream, error) {
	s := &Stream{raw: bufio.NewReaderSize(blob, readBuffer), close: func() {}}
	magic, err := s.raw.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		zr, err := gunzip(s.raw)
		if err != nil {
			return nil, fserr.New(kind(err), "decompress", "gzip", err)
		}
		s.plain, s.name = zr, "gzip"
		s.close = func() { _ = zr.Close() } // read side; the digest decides
	case isZstd(magic):
		zr, err := zstd.NewReader(s.raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fserr.New(kind(err), "decompress", "zstd", err)
		}
		s.plain, s.name, s.close = zr, "zstd", zr.Close
	default:
		s.plain, s.name = s.raw, "tar"
	}
	return s, nil
}

// isZstd knows the magic numbers of data and of skippable frames (RFC 8878).
func isZstd(magic []byte) bool {
	if len(magic) < 4 {
		return false
	}
	skippable := magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte{0x2a, 0x4d, 0x18})
	return skippable || bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd})
}

// Compression is "gzip", "zstd" or "tar" for none.
func (s *Stream) Compression() string { return s.name }

// Read reads the tar stream.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.plain.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fserr.New(kind(err), "decompress", s.name, err)
	}
	return n, err
}

// Drain reads on to the end of the blob, so that whoever hashes it has seen
// every byte.
func (s *Stream) Drain() error {
	_, err := io.Copy(io.Discard, s.raw)
	return err
}

// Close releases the decompressor. The blob is the caller's to close.
func (s *Stream) Close() { s.close() }

// Wrap classifies an error that a parser of the tar stream met: an error of the
// source keeps its kind, anything else means damaged bytes.
func Wrap(op string, err error) error { return fserr.New(kind(err), op, "tar", err) }

func kind(err error) fserr.Kind {
	if k := fserr.KindOf(err); k != fserr.Internal {
		return k
	}
	return fserr.Corrupt
}
