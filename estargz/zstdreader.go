package estargz

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	// maxZstdWindow bounds the memory that a frame can ask for: what the strongest
	// level of the encoders in use for layers needs, bytes.
	maxZstdWindow = 32 << 20
	// keepWindow is the largest window whose memory is kept for the next reader.
	keepWindow = 8 << 20
	// zstdSlack is how much more than what is wanted of it a frame may become and
	// still be decompressed to its end, in one go and without a window, bytes.
	zstdSlack = 1 << 20
)

// zstdReader decompresses frames held in memory, without goroutines.
type zstdReader struct {
	dec    *zstd.Decoder
	src    bytes.Reader
	window int64 // of the first frame
}

var zstdReaders = sync.Pool{New: func() any { return new(zstdReader) }} //nolint:gochecknoglobals // a pool keeps nothing that matters

func newZstdReader() (*zstdReader, error) {
	z := zstdReaders.Get().(*zstdReader)
	if z.dec != nil {
		return z, nil
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	z.dec = dec
	return z, nil
}

// frames fills dst from the frames at the start of p, if it can do so in the
// capacity of dst: that is faster than to read them, and needs no window. What is
// wrong with the frames is for the reader to say.
func (z *zstdReader) frames(dst, p []byte) bool {
	for n := 0; n < len(dst); {
		f, ok := parseFrame(p)
		if !ok || f.size > int64(len(p)) || f.bound > int64(cap(dst)-n) {
			return false
		}
		out, err := z.dec.DecodeAll(p[:f.size], dst[n:n])
		if err != nil {
			return false
		}
		n += len(out)
		p = p[f.size:]
	}
	return true
}

// start begins to read the frames at the start of p.
func (z *zstdReader) start(p []byte) error {
	f, _ := parseFrame(p)
	z.window = f.window
	z.src.Reset(p)
	// Hidden behind a plain reader, for the decoder would decompress a small
	// buffer whole, however much it is to become.
	if err := z.dec.Reset(struct{ io.Reader }{&z.src}); err != nil {
		return zstdError(err)
	}
	return nil
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
	if err := z.dec.Reset(nil); err != nil || z.window > keepWindow {
		z.dec.Close()
		return nil //nolint:nilerr // a decoder that cannot be emptied is left to the collector
	}
	z.window = 0
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
