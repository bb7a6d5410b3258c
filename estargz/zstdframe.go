package estargz

import (
	"encoding/binary"
	"math"
)

// Frames and blocks of zstd (RFC 8878, 3.1.1).
const (
	maxZstdBlock  = 128 << 10
	blockHead     = 3
	minWindowLog  = 10
	skippableTail = "\x2a\x4d\x18" // behind 0x50 to 0x5f
)

// The types of a block.
const (
	blockRaw = iota
	blockRLE
	blockCompressed
)

// zstdFrame is what a frame says of itself without being decompressed.
type zstdFrame struct {
	size   int64 // bytes of the frame; larger than the input if its end is missing
	window int64 // memory it asks for, bytes
	bound  int64 // the most it can become, bytes
}

// parseFrame reads the outlines of the frame at the start of p, as far as p goes.
// It fails for what is no frame, and for blocks that no frame can have.
func parseFrame(p []byte) (f zstdFrame, ok bool) {
	if n, ok := skippableFrame(p); ok {
		return zstdFrame{size: n}, true
	}
	if !isZstd(p) || len(p) < 6 {
		return f, false
	}
	flags := p[4]
	f.size = 5
	single := flags&0x20 != 0
	if !single {
		exp, mantissa := p[5]>>3, int64(p[5]&7)
		f.window = 1 << (minWindowLog + exp)
		f.window += f.window / 8 * mantissa
		f.size++
	}
	f.size += [...]int64{0, 1, 2, 4}[flags&3]
	content := int64(math.MaxInt64)
	width := [...]int64{0, 2, 4, 8}[flags>>6]
	if single && width == 0 {
		width = 1
	}
	if f.size+width > int64(len(p)) {
		return f, false
	}
	if width > 0 {
		content = contentSize(p[f.size:][:width])
	}
	if single {
		f.window = content
	}
	f.size += width
	if !f.blocks(p) {
		return f, false
	}
	if flags&4 != 0 {
		f.size += 4 // checksum
	}
	if content < 0 {
		return f, false
	}
	f.bound = min(f.bound, content)
	return f, true
}

// contentSize reads the number of bytes that a frame becomes.
func contentSize(p []byte) int64 {
	switch len(p) {
	case 1:
		return int64(p[0])
	case 2:
		return int64(binary.LittleEndian.Uint16(p)) + 256
	case 4:
		return int64(binary.LittleEndian.Uint32(p))
	}
	return int64(binary.LittleEndian.Uint64(p))
}

// blocks adds up the blocks from f.size on.
func (f *zstdFrame) blocks(p []byte) bool {
	for {
		if f.size+blockHead > int64(len(p)) {
			f.size = int64(len(p)) + 1
			return true
		}
		b := p[f.size:]
		head := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
		n := int64(head >> 3)
		if n > maxZstdBlock {
			return false
		}
		f.size += blockHead
		switch head >> 1 & 3 {
		case blockRaw:
			f.size += n
			f.bound += n
		case blockRLE:
			f.size++
			f.bound += n
		case blockCompressed:
			f.size += n
			f.bound += maxZstdBlock
		default:
			return false
		}
		if head&1 != 0 {
			return true
		}
	}
}

// skippableFrame gives the length of the skippable frame at the start of p.
func skippableFrame(p []byte) (int64, bool) {
	if len(p) < skippableHead || p[0]&0xf0 != 0x50 || string(p[1:4]) != skippableTail {
		return 0, false
	}
	return skippableHead + int64(binary.LittleEndian.Uint32(p[4:])), true
}

// zstdBound is the most that the frames at the start of p can become, bytes.
func zstdBound(p []byte) (n int64) {
	for len(p) > 0 {
		f, ok := parseFrame(p)
		if n += f.bound; !ok || f.size >= int64(len(p)) {
			return n // a frame that is damaged ends here, at the latest
		}
		p = p[f.size:]
	}
	return n
}
