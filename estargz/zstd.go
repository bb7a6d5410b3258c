package estargz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// A zstd:chunked blob ends in skippable frames (RFC 8878, 3.1.2), which an
// ordinary decompressor passes over: one with the compressed TOC, in the dialect
// of containers/storage one with tar-split data, and the footer.
const (
	skippableMagic = "\x50\x2a\x4d\x18"
	skippableHead  = 8 // magic and little-endian length
	zstdMagic      = "\x28\xb5\x2f\xfd"

	// The footer is a list of little-endian 64-bit numbers that ends in a magic:
	// TOC offset, its compressed and uncompressed length, its type, and in the
	// longer ones the same of the tar-split data. containers/storage changed one
	// letter of the magic when it added the last number.
	zstdFooter40  = 40
	zstdFooter56  = 56
	zstdFooter64  = 64
	zstdEnd       = "GnUlInUx"
	zstdEnd64     = "GNUlInUx"
	zstdTOCofCRFS = 1
)

// maxZstdWindow bounds the memory that a frame can ask for: what the strongest
// level of the encoders in use for layers needs, bytes.
const maxZstdWindow = 32 << 20

// parseZstdFooter knows both dialects.
func parseZstdFooter(tail []byte) (Footer, error) {
	for _, form := range [...]struct {
		size int
		end  string
	}{{zstdFooter40, zstdEnd}, {zstdFooter56, zstdEnd}, {zstdFooter64, zstdEnd64}} {
		head := binary.LittleEndian.AppendUint32([]byte(skippableMagic), uint32(form.size))
		if len(tail) < len(head)+form.size {
			continue
		}
		f := tail[len(tail)-len(head)-form.size:]
		if !bytes.HasPrefix(f, head) || !bytes.HasSuffix(f, []byte(form.end)) {
			continue
		}
		var v [4]int64
		for i := range v {
			n := binary.LittleEndian.Uint64(f[len(head)+8*i:])
			if n > math.MaxInt64 {
				return Footer{}, fmt.Errorf("footer: %w", ErrTOCOffset)
			}
			v[i] = int64(n)
		}
		return zstdPlace(v, int64(len(f)))
	}
	return Footer{}, ErrNotEStargz
}

// zstdPlace makes a footer of the four numbers that say where the TOC is.
func zstdPlace(v [4]int64, size int64) (Footer, error) {
	if v[3] != zstdTOCofCRFS {
		return Footer{}, fmt.Errorf("footer: %w: type %d", ErrTOCVersion, v[3])
	}
	if v[1] == 0 || v[2] == 0 {
		return Footer{}, fmt.Errorf("footer: %w: empty TOC", ErrTOCOffset)
	}
	return Footer{TOCOffset: v[0], TOCSize: v[1], TOCRawSize: v[2], Size: size, Zstd: true}, nil
}

// appendZstdFooter writes the footer of 40 bytes in its frame.
func appendZstdFooter(p []byte, f Footer) []byte {
	p = appendSkippable(p, zstdFooter40)
	for _, v := range [...]int64{f.TOCOffset, f.TOCSize, f.TOCRawSize, zstdTOCofCRFS} {
		p = binary.LittleEndian.AppendUint64(p, uint64(v))
	}
	return append(p, zstdEnd...)
}

// appendSkippable adds the header of a skippable frame of n bytes.
func appendSkippable(p []byte, n int) []byte {
	return binary.LittleEndian.AppendUint32(append(p, skippableMagic...), uint32(n))
}

func isZstd(p []byte) bool { return bytes.HasPrefix(p, []byte(zstdMagic)) }

// zstdReader decompresses frames held in memory, without goroutines.
type zstdReader struct {
	dec *zstd.Decoder
	src bytes.Reader
}

var zstdReaders = sync.Pool{New: func() any { return new(zstdReader) }} //nolint:gochecknoglobals // a pool keeps nothing that matters

// newZstdReader starts at the beginning of p.
func newZstdReader(p []byte) (*zstdReader, error) {
	z := zstdReaders.Get().(*zstdReader)
	z.src.Reset(p)
	if z.dec == nil {
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		z.dec = dec
	}
	// Hidden behind a plain reader, for the decoder would decompress a small
	// buffer whole, however much it is to become.
	if err := z.dec.Reset(struct{ io.Reader }{&z.src}); err != nil {
		return nil, zstdError(err)
	}
	return z, nil
}

// Read fails with [ErrZstd] for what is not zstd, and ends in [io.EOF].
func (z *zstdReader) Read(p []byte) (int, error) {
	n, err := z.dec.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = zstdError(err)
	}
	return n, err
}

// Discard skips n bytes.
func (z *zstdReader) Discard(n int64) error {
	_, err := io.CopyN(io.Discard, z, n)
	return err
}

// Close gives the decoder back. The reader must not be used after it.
func (z *zstdReader) Close() error {
	z.src.Reset(nil)
	if err := z.dec.Reset(nil); err != nil {
		return nil //nolint:nilerr // a decoder that cannot be emptied is left to the collector
	}
	zstdReaders.Put(z)
	return nil
}

// zstdError is what is wrong with a frame: its bytes, or what it asks for.
func zstdError(err error) error {
	switch {
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return fmt.Errorf("%w: %w", ErrZstdWindow, err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: truncated", ErrZstd)
	}
	return fmt.Errorf("%w: %w", ErrZstd, err)
}
