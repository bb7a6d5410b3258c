package estargz

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
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
