package zran

import (
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Point is a checkpoint that someone else recorded.
type Point struct {
	In     int64 // offset in the blob of the first byte that is needed
	Bit    uint8 // bits of that byte which belong to what is before, 0 to 7
	Out    int64 // offset in the output
	Window []byte
	// Digest is the sha256 of the blob from In up to the next point: including the
	// byte that point is in if its Bit is not 0. That of the last goes to the end of
	// the blob.
	Digest [32]byte
}

// WriteSpans writes the index file of a blob from points of other origin, in
// ascending order, the first at the start of the output. What is read through that
// file is compared with the digests of the spans; nothing else vouches for it.
func WriteSpans(w io.Writer, info Info, points []Point) error {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return fmt.Errorf("window encoder: %w", err)
	}
	own := make([]point, 0, len(points))
	digests := make([][digestSize]byte, 0, len(points))
	for i := range points {
		p := &points[i]
		if len(p.Window) > windowLen {
			return corrupt("window of %d bytes", len(p.Window))
		}
		pt := point{in: p.In, out: p.Out, bit: p.Bit, window: uint16(len(p.Window))}
		if len(p.Window) > 0 {
			pt.packed = encoder.EncodeAll(p.Window, nil)
		}
		own = append(own, pt)
		digests = append(digests, p.Digest)
	}
	if err := encoder.Close(); err != nil {
		return fmt.Errorf("window encoder: %w", err)
	}
	return writeFile(w, info, own, digests)
}
