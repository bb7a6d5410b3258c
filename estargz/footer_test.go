package estargz_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

const (
	gzipHead   = "\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"
	emptyBlock = "\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00"
)

func currentFooter(offset int64) string {
	return gzipHead + "\x1a\x00SG\x16\x00" + fmt.Sprintf("%016x", offset) + "STARGZ" + emptyBlock
}

func legacyFooter(offset int64) string {
	return gzipHead + "\x16\x00" + fmt.Sprintf("%016x", offset) + "STARGZ" + emptyBlock
}

const externalFooter = gzipHead + "\x15\x00SG\x11\x00STARGZEXTERNALTOC" + emptyBlock

func TestParseFooter(t *testing.T) {
	valid := currentFooter(0x174f733)
	digits := func(s string) string { return strings.Replace(valid, "000000000174f733", s, 1) }
	tests := []struct {
		name string
		tail string
		want estargz.Footer
		err  error
	}{
		{"current", valid, estargz.Footer{TOCOffset: 0x174f733, Size: 51}, nil},
		{"upper case digits", digits("000000000174F733"), estargz.Footer{TOCOffset: 0x174f733, Size: 51}, nil},
		{"legacy", "data" + legacyFooter(0x174f733), estargz.Footer{TOCOffset: 0x174f733, Size: 47}, nil},
		{"legacy alone", legacyFooter(1), estargz.Footer{TOCOffset: 1, Size: 47}, nil},
		{"external TOC", "data" + externalFooter, estargz.Footer{Size: 46, External: true}, nil},
		{"external TOC alone", externalFooter, estargz.Footer{Size: 46, External: true}, nil},
		{"empty", "", estargz.Footer{}, estargz.ErrNotEStargz},
		{"zeros", strings.Repeat("\x00", 51), estargz.Footer{}, estargz.ErrNotEStargz},
		{"cut", valid[1:], estargz.Footer{}, estargz.ErrNotEStargz},
		{"signed offset", digits("-000000000000001"), estargz.Footer{}, estargz.ErrTOCOffset},
		{"blank in offset", digits(" 00000000174f733"), estargz.Footer{}, estargz.ErrTOCOffset},
		{"negative offset", digits("8000000000000000"), estargz.Footer{}, estargz.ErrTOCOffset},
		{"Extra of 4 bytes that says 22", gzipHead + "\x04\x00SG\x16\x00" + valid[16:], estargz.Footer{}, estargz.ErrNotEStargz},
		{"no Extra at all", "\x1f\x8b\x08\x00" + strings.Repeat("\x00", 42), estargz.Footer{}, estargz.ErrNotEStargz},
		{"zstd:chunked", strings.Repeat("\xff", 43) + "GnUlInUx", estargz.Footer{}, estargz.ErrNotEStargz},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := estargz.ParseFooter([]byte(tt.tail))
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %+v, %v; want %+v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestParseFooterComparesEveryByte(t *testing.T) {
	for _, valid := range []string{currentFooter(0xabc), legacyFooter(0xabc), externalFooter} {
		digits := strings.Index(valid, "0000000000000abc")
		for i := range len(valid) {
			bad := []byte(valid)
			bad[i] ^= 0x80
			_, err := estargz.ParseFooter(bad)
			inDigits := digits >= 0 && i >= digits && i < digits+16
			switch {
			case inDigits && !errors.Is(err, estargz.ErrTOCOffset),
				!inDigits && !errors.Is(err, estargz.ErrNotEStargz):
				t.Errorf("byte %d of %d changed: %v", i, len(valid), err)
			}
		}
	}
}

func TestTOCRange(t *testing.T) {
	tests := []struct {
		offset, blob int64
		want         error
	}{
		{0, 100, nil},
		{48, 100, nil},
		{49, 100, estargz.ErrTOCOffset},
		{100, 100, estargz.ErrTOCOffset},
		{1 << 62, 100, estargz.ErrTOCOffset},
		{-1, 100, estargz.ErrTOCOffset},
		{0, 51, estargz.ErrTOCOffset},
		{0, 51 + 64<<20, nil},
		{0, 52 + 64<<20, estargz.ErrTOCCompressedSize},
	}
	for _, tt := range tests {
		f := estargz.Footer{TOCOffset: tt.offset, Size: 51}
		off, size, err := f.TOCRange(tt.blob, estargz.Limits{})
		if !errors.Is(err, tt.want) {
			t.Errorf("TOC at %d in %d: %v, want %v", tt.offset, tt.blob, err, tt.want)
		}
		if err == nil && (off != tt.offset || off+size+51 != tt.blob) {
			t.Errorf("TOC at %d in %d: %d+%d", tt.offset, tt.blob, off, size)
		}
	}
}

func TestFooterErrorKinds(t *testing.T) {
	for err, kind := range map[error]fserr.Kind{
		estargz.ErrNotEStargz: fserr.Unsupported, estargz.ErrExternalTOC: fserr.Unsupported,
		estargz.ErrTOCOffset: fserr.Corrupt, estargz.ErrTOCCompressedSize: fserr.TooLarge,
	} {
		if got := fserr.KindOf(err); got != kind {
			t.Errorf("%v is %v, want %v", err, got, kind)
		}
	}
}

// zstdFooter is a footer in its skippable frame, of any length: the numbers, then
// the magic.
func zstdFooter(magic string, numbers ...uint64) string {
	p := make([]byte, 0, 80)
	p = append(p, 0x50, 0x2a, 0x4d, 0x18)
	p = binary.LittleEndian.AppendUint32(p, uint32(8*len(numbers)+len(magic)))
	for _, n := range numbers {
		p = binary.LittleEndian.AppendUint64(p, n)
	}
	return string(p) + magic
}

func TestParseZstdFooter(t *testing.T) {
	const stargz, containers = "GnUlInUx", "GNUlInUx"
	place := func(size int64) estargz.Footer {
		return estargz.Footer{TOCOffset: 1000, TOCSize: 300, TOCRawSize: 5000, Size: size, Zstd: true}
	}
	tests := []struct {
		name string
		tail string
		want estargz.Footer
		err  error
	}{
		{"stargz", zstdFooter(stargz, 1000, 300, 5000, 1), place(48), nil},
		{"containers", zstdFooter(containers, 1000, 300, 5000, 1, 1308, 40, 90), place(72), nil},
		{"containers of old", zstdFooter(stargz, 1000, 300, 5000, 1, 1308, 40), place(64), nil},
		{"behind data", "some data" + zstdFooter(stargz, 1000, 300, 5000, 1), place(48), nil},
		{"length 2^40", zstdFooter(stargz, 1000, 1<<40, 5000, 1), estargz.Footer{TOCOffset: 1000, TOCSize: 1 << 40, TOCRawSize: 5000, Size: 48, Zstd: true}, nil},
		{"offset 2^63", zstdFooter(stargz, 1<<63, 300, 5000, 1), estargz.Footer{}, estargz.ErrTOCOffset},
		{"length 2^64-1", zstdFooter(containers, 1000, 1<<64-1, 5000, 1, 0, 0, 0), estargz.Footer{}, estargz.ErrTOCOffset},
		{"raw length 2^63", zstdFooter(stargz, 1000, 300, 1<<63, 1), estargz.Footer{}, estargz.ErrTOCOffset},
		{"empty TOC", zstdFooter(stargz, 1000, 0, 5000, 1), estargz.Footer{}, estargz.ErrTOCOffset},
		{"empty JSON", zstdFooter(stargz, 1000, 300, 0, 1), estargz.Footer{}, estargz.ErrTOCOffset},
		{"type 2", zstdFooter(stargz, 1000, 300, 5000, 2), estargz.Footer{}, estargz.ErrTOCVersion},
		{"magic of the other length", zstdFooter(containers, 1000, 300, 5000, 1), estargz.Footer{}, estargz.ErrNotEStargz},
		{"unknown magic", zstdFooter("GnUlInUX", 1000, 300, 5000, 1), estargz.Footer{}, estargz.ErrNotEStargz},
		{"no frame", zstdFooter(stargz, 1000, 300, 5000, 1)[8:], estargz.Footer{}, estargz.ErrNotEStargz},
		{"other frame", "\x51" + zstdFooter(stargz, 1000, 300, 5000, 1)[1:], estargz.Footer{}, estargz.ErrNotEStargz},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := estargz.ParseFooter([]byte(tt.tail))
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %+v, %v; want %+v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

// FuzzParseFooter holds what is accepted against the forms there are.
func FuzzParseFooter(f *testing.F) {
	for _, seed := range []string{
		currentFooter(0x174f733), legacyFooter(1), externalFooter,
		zstdFooter("GnUlInUx", 1000, 300, 5000, 1), zstdFooter("GnUlInUx", 1000, 300, 5000, 1, 1308, 40),
		zstdFooter("GNUlInUx", 1000, 300, 5000, 1, 1308, 40, 90), zstdFooter("GnUlInUx", 1<<63, 1<<40, 1<<62, 1),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, tail []byte) {
		got, err := estargz.ParseFooter(tail)
		if err != nil {
			if got != (estargz.Footer{}) || fserr.KindOf(err) == fserr.Internal {
				t.Fatalf("%+v, %v", got, err)
			}
			return
		}
		if got.TOCOffset < 0 || got.TOCSize < 0 || got.TOCRawSize < 0 || got.Size > int64(len(tail)) {
			t.Fatalf("%+v from %q", got, tail)
		}
		end := tail[int64(len(tail))-got.Size:]
		var want string
		switch got.Size {
		case 46:
			want = externalFooter
		case 47:
			want = legacyFooter(got.TOCOffset)
		case 51:
			want = currentFooter(got.TOCOffset)
		default:
			numbers := []uint64{uint64(got.TOCOffset), uint64(got.TOCSize), uint64(got.TOCRawSize), 1}
			for i := 8 + 8*len(numbers); i < len(end)-8; i += 8 {
				numbers = append(numbers, binary.LittleEndian.Uint64(end[i:]))
			}
			want = zstdFooter(string(end[len(end)-8:]), numbers...)
		}
		if !bytes.EqualFold(end, []byte(want)) || got.External != (got.Size == 46) || got.Zstd != (got.Size == 48 || got.Size == 64 || got.Size == 72) {
			t.Fatalf("%+v from %q", got, tail)
		}
		if off, n, err := got.TOCRange(int64(len(tail)), estargz.Limits{}); err == nil && (off < 0 || n <= 0 || off > int64(len(tail))-n) {
			t.Fatalf("TOC at %d+%d of %d", off, n, len(tail))
		}
	})
}
