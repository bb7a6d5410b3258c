package estargz

import (
	"bytes"
	"fmt"
	"math"
)

// FooterSize is the length of the longest footer: reading this many bytes from
// the end of a blob is enough for [ParseFooter].
const FooterSize = zstdFooter64 + skippableHead

// Footer is what the end of a blob says about where its TOC is.
type Footer struct {
	TOCOffset int64 // of the compressed TOC in the blob
	// TOCSize is the compressed TOC's length in bytes; 0: up to the footer.
	TOCSize int64
	// TOCRawSize is the length of the TOC's JSON in bytes; 0: not known.
	TOCRawSize int64
	// Size is the footer's own: 51, 47 or 46 bytes in a gzip blob, 48, 64 or 72,
	// frame header included, in a zstd:chunked one; 0 if the place of the TOC was
	// not learnt from a footer.
	Size int64
	// Zstd: the blob is zstd:chunked.
	Zstd bool
	// External: the blob has no TOC, it is kept in another image. [ReadTOC] takes
	// the member found there when [Footer.Outside] has told where the data ends.
	External bool
}

// Outside completes the footer of a blob of blobSize bytes whose TOC is External:
// the data ends where the footer begins.
func (f Footer) Outside(blobSize int64) Footer {
	f.TOCOffset = blobSize - f.Size
	return f
}

// DataEnd is where the members of the layer's content end.
func (f Footer) DataEnd() int64 {
	if f.Zstd {
		return f.TOCOffset - skippableHead
	}
	return f.TOCOffset
}

// A footer is an empty gzip member whose Extra field carries the offset of the
// TOC in hex. The three forms differ in that field only.
const (
	gzipHead   = "\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"
	emptyBlock = "\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00"
	hexDigits  = 16

	currentHead  = gzipHead + "\x1a\x00SG\x16\x00"
	legacyHead   = gzipHead + "\x16\x00"
	footerTail   = "STARGZ" + emptyBlock
	externalTail = gzipHead + "\x15\x00SG\x11\x00STARGZEXTERNALTOC" + emptyBlock
)

// ParseFooter reads the footer at the end of tail, which is the last
// [FooterSize] bytes of a blob, or the whole blob if it is shorter. Every byte
// that identifies the footer has to be right. It fails with [ErrNotEStargz], or
// with [ErrTOCOffset] or [ErrTOCVersion] if the footer is there and says what
// cannot be; whether the offset lies in the blob is for [Footer.TOCRange].
func ParseFooter(tail []byte) (Footer, error) {
	for _, head := range [...]string{currentHead, legacyHead} {
		size := len(head) + hexDigits + len(footerTail)
		if len(tail) < size {
			continue
		}
		f := tail[len(tail)-size:]
		if !bytes.HasPrefix(f, []byte(head)) || !bytes.HasSuffix(f, []byte(footerTail)) {
			continue
		}
		off, ok := parseHex(f[len(head) : len(head)+hexDigits])
		if !ok || off > math.MaxInt64 {
			return Footer{}, fmt.Errorf("footer: %w", ErrTOCOffset)
		}
		return Footer{TOCOffset: int64(off), Size: int64(size)}, nil
	}
	if bytes.HasSuffix(tail, []byte(externalTail)) {
		return Footer{External: true, Size: int64(len(externalTail))}, nil
	}
	return parseZstdFooter(tail)
}

// appendFooter writes the current form.
func appendFooter(p []byte, tocOffset int64) []byte {
	return fmt.Appendf(p, "%s%016x%s", currentHead, tocOffset, footerTail)
}

func parseHex(p []byte) (v uint64, ok bool) {
	for _, c := range p {
		n := unhex[c]
		if n > 15 {
			return 0, false
		}
		v = v<<4 | uint64(n)
	}
	return v, true
}

// unhex gives the value of a hex digit, and 255 for every other byte.
var unhex = func() (t [256]byte) { //nolint:gochecknoglobals // a constant table
	for i := range t {
		t[i] = 0xff
	}
	for i := range 10 {
		t['0'+i] = byte(i)
	}
	for i := range 6 {
		t['a'+i], t['A'+i] = byte(10+i), byte(10+i)
	}
	return t
}()

// TOCRange gives the place in a blob of blobSize bytes of the compressed TOC, the
// input of [ReadTOC]. It fails with [ErrTOCOffset] if the blob has no such place,
// with [ErrExternalTOC] if it is not in the blob, and with [ErrTOCCompressedSize]
// or [ErrTOCSize] beyond lim.
func (f Footer) TOCRange(blobSize int64, lim Limits) (offset, size int64, err error) {
	lim = lim.withDefaults()
	if f.External {
		return 0, 0, fmt.Errorf("footer: %w", ErrExternalTOC)
	}
	size = blobSize - f.Size - f.TOCOffset
	if f.TOCOffset < 0 || f.DataEnd() < 0 || f.TOCOffset > blobSize || size <= 0 || f.TOCSize < 0 || f.TOCSize > size {
		return 0, 0, fmt.Errorf("footer: %w: %d of %d", ErrTOCOffset, f.TOCOffset, blobSize)
	}
	if f.TOCSize > 0 {
		size = f.TOCSize
	}
	if size > lim.TOCCompressed {
		return 0, 0, fmt.Errorf("footer: %w: %d bytes, limit %d", ErrTOCCompressedSize, size, lim.TOCCompressed)
	}
	if f.TOCRawSize > lim.TOCSize {
		return 0, 0, fmt.Errorf("footer: %w: %d bytes, limit %d", ErrTOCSize, f.TOCRawSize, lim.TOCSize)
	}
	return f.TOCOffset, size, nil
}
