package estargz_test

import (
	"bytes"
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
		{"external TOC", "data" + externalFooter, estargz.Footer{}, estargz.ErrExternalTOC},
		{"external TOC alone", externalFooter, estargz.Footer{}, estargz.ErrExternalTOC},
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

func FuzzParseFooter(f *testing.F) {
	f.Add([]byte(currentFooter(0x174f733)))
	f.Add([]byte(legacyFooter(1)))
	f.Add([]byte(externalFooter))
	f.Fuzz(func(t *testing.T, tail []byte) {
		got, err := estargz.ParseFooter(tail)
		if err != nil {
			if got != (estargz.Footer{}) || fserr.KindOf(err) == fserr.Internal {
				t.Fatalf("%+v, %v", got, err)
			}
			return
		}
		want := currentFooter(got.TOCOffset)
		if got.Size == 47 {
			want = legacyFooter(got.TOCOffset)
		}
		if !bytes.EqualFold(tail[len(tail)-len(want):], []byte(want)) || got.TOCOffset < 0 {
			t.Fatalf("%+v from %q", got, tail)
		}
	})
}
