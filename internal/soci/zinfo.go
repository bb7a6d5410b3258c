package soci

import (
	"encoding/binary"
	"fmt"
)

const (
	windowLen = 32 << 10
	// pointLen is a checkpoint in the file: two offsets, a number of bits, a window.
	pointLen = 8 + 8 + 1 + windowLen
	// pointsHeader is what is before the checkpoints: their number and the span.
	pointsHeader = 4 + 8
	// gzipHeader is the shortest header of a gzip member, and what the first
	// checkpoint is behind of in the older form, which does not store it.
	gzipHeader = 10
)

// The fields of what stands in the place of checkpoints in an uncompressed layer,
// which is a flatbuffer of its own.
const (
	tarVersion = iota
	tarSpanSize
	tarBlobSize
)

// gzipSpans reads checkpoints in either form: all of them, or all but the first.
func gzipSpans(p []byte, blob int64) ([]Span, error) {
	if len(p) < pointsHeader {
		return nil, fmt.Errorf("%w: %d bytes", ErrCheckpoints, len(p))
	}
	count := int64(binary.LittleEndian.Uint32(p))
	p = p[pointsHeader:]
	have := int64(len(p) / pointLen)
	if len(p)%pointLen != 0 || count == 0 || have != count && have != count-1 {
		return nil, fmt.Errorf("%w: %d of them in %d bytes", ErrCheckpoints, count, len(p))
	}
	spans := make([]Span, 0, have+1)
	if have < count {
		spans = append(spans, Span{Lo: gzipHeader})
	}
	for ; len(p) > 0; p = p[pointLen:] {
		s, in, err := checkpoint(p[:pointLen])
		if err != nil {
			return nil, err
		}
		if n := len(spans); n > 0 {
			if in <= spans[n-1].Lo || s.Out <= spans[n-1].Out {
				return nil, fmt.Errorf("%w: number %d is at %d, not after the one before", ErrCheckpoints, n, in)
			}
			spans[n-1].Hi = in
		}
		spans = append(spans, s)
	}
	if spans[0].Out != 0 || spans[0].Bit != 0 || spans[0].Lo < gzipHeader {
		return nil, fmt.Errorf("%w: the first is not at the start", ErrCheckpoints)
	}
	spans[0].Window = nil // nothing is before it
	end := &spans[len(spans)-1]
	if end.Lo >= blob {
		return nil, fmt.Errorf("%w: at %d of a blob of %d bytes", ErrCheckpoints, end.Lo, blob)
	}
	end.Hi = blob
	return spans, nil
}

// checkpoint reads one checkpoint. in is the first byte that belongs to the span
// alone.
func checkpoint(p []byte) (s Span, in int64, err error) {
	in = int64(binary.LittleEndian.Uint64(p))
	s = Span{Lo: in, Out: int64(binary.LittleEndian.Uint64(p[8:])), Window: p[17:pointLen:pointLen]}
	bits := p[16]
	if in < gzipHeader || s.Out < 0 || bits > 7 {
		return s, in, fmt.Errorf("%w: at %d, bit %d, output %d", ErrCheckpoints, in, bits, s.Out)
	}
	if bits > 0 { // so many bits of the byte before are still to be decoded
		s.Lo, s.Bit = in-1, 8-bits
	}
	return s, in, nil
}

// tarSpans reads what an uncompressed layer has: the size of all spans but the
// last. want is how many there should be.
func tarSpans(p []byte, blob int64, want int) ([]Span, error) {
	b := newBuffer(p)
	root := b.root()
	size, total := root.i64(tarSpanSize), root.i64(tarBlobSize)
	if b.err != nil {
		return nil, b.err
	}
	if size <= 0 || total != blob || blob == 0 || (blob-1)/size != int64(want)-1 {
		return nil, fmt.Errorf("%w: spans of %d bytes in %d of %d", ErrCheckpoints, size, total, blob)
	}
	spans := make([]Span, want)
	for i := range spans {
		lo := int64(i) * size
		spans[i] = Span{Lo: lo, Hi: min(blob-lo, size) + lo, Out: lo}
	}
	return spans, nil
}
