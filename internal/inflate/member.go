package inflate

import (
	"encoding/binary"
	"hash/crc32"
	"sync"
)

// decoders keeps decoder states, some 15 KiB each, between calls.
var decoders = sync.Pool{New: func() any { return new(decoder) }} //nolint:gochecknoglobals // a pool keeps nothing that matters

func getDecoder(src []byte) *decoder {
	d := decoders.Get().(*decoder)
	d.reset(src)
	return d
}

func putDecoder(d *decoder) {
	d.src = nil
	decoders.Put(d)
}

// MaxExpansion bounds what deflate can make of its input: no stream of n bytes
// decodes to more than (n+1)*MaxExpansion bytes.
const MaxExpansion = 1032

// Member fills dst with the first bytes of what the gzip member at the start of
// src holds. What comes after these bytes is not looked at: neither the rest of
// the member nor its checksum. It fails with [ErrHeader], [ErrCorrupt],
// [ErrTruncated], or [ErrShort] when the member ends before dst is full.
func Member(dst, src []byte) error {
	n, err := headerLen(src)
	if err != nil {
		return err
	}
	return Deflate(dst, src[n:])
}

// Deflate is [Member] for a raw deflate stream.
func Deflate(dst, src []byte) error {
	d := getDecoder(src)
	n, err := d.run(dst, 0)
	putDecoder(d)
	if err != nil {
		return err
	}
	if n < len(dst) {
		return ErrShort
	}
	return nil
}

// Flag bits of the gzip header, RFC 1952.
const (
	flagCRC     = 1 << 1
	flagExtra   = 1 << 2
	flagName    = 1 << 3
	flagComment = 1 << 4
	flagUnknown = 0xe0

	fixedHeader  = 10
	trailerBytes = 8
)

// headerLen checks the gzip header at the start of p and gives its length.
func headerLen(p []byte) (int, error) {
	if len(p) < fixedHeader || p[0] != 0x1f || p[1] != 0x8b || p[2] != 8 || p[3]&flagUnknown != 0 {
		return 0, ErrHeader
	}
	flags, n := p[3], fixedHeader
	if flags&flagExtra != 0 {
		if len(p)-n < 2 {
			return 0, ErrHeader
		}
		n += 2 + int(binary.LittleEndian.Uint16(p[n:]))
	}
	for _, flag := range [...]byte{flagName, flagComment} {
		if flags&flag == 0 {
			continue
		}
		if n = endOfText(p, n); n < 0 {
			return 0, ErrHeader
		}
	}
	if flags&flagCRC != 0 {
		if n > len(p)-2 || uint16(crc32.ChecksumIEEE(p[:n])) != binary.LittleEndian.Uint16(p[n:]) {
			return 0, ErrHeader
		}
		n += 2
	}
	if n > len(p) {
		return 0, ErrHeader
	}
	return n, nil
}

// endOfText finds the place after the zero byte at or after p[n], or -1.
func endOfText(p []byte, n int) int {
	for ; n < len(p); n++ {
		if p[n] == 0 {
			return n + 1
		}
	}
	return -1
}
