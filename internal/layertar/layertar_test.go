package layertar_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/layertar"
)

func gz(t *testing.T, parts ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, part := range parts {
		zw := gzip.NewWriter(&out)
		if _, err := zw.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func zst(t *testing.T, text string) []byte {
	t.Helper()
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = zw.Close() }()
	return zw.EncodeAll([]byte(text), nil)
}

func TestOpen(t *testing.T) {
	text := strings.Repeat("some content ", 1000)
	skippable := append([]byte{0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0}, "xyz"...)
	tests := []struct {
		name, compression string
		blob              []byte
	}{
		{"gzip", "gzip", gz(t, text)},
		{"gzip members", "gzip", gz(t, text[:100], text[100:5000], text[5000:])},
		{"zstd", "zstd", zst(t, text)},
		{"zstd behind a skippable frame", "zstd", append(skippable, zst(t, text)...)},
		{"none", "tar", []byte(text)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := layertar.Open(iotest.OneByteReader(bytes.NewReader(tt.blob)))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			got, err := io.ReadAll(s)
			if err != nil || string(got) != text || s.Compression() != tt.compression {
				t.Errorf("%s: %d bytes, %v", s.Compression(), len(got), err)
			}
			if err := s.Drain(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDamageIsCorrupt(t *testing.T) {
	text := strings.Repeat("some content ", 1000)
	for name, blob := range map[string][]byte{"gzip": gz(t, text), "zstd": zst(t, text)} {
		for _, damaged := range [][]byte{blob[:len(blob)/2], append(append([]byte{}, blob[:20]...), make([]byte, 50)...)} {
			s, err := layertar.Open(bytes.NewReader(damaged))
			if err == nil {
				_, err = io.ReadAll(s)
				s.Close()
			}
			if !fserr.Is(err, fserr.Corrupt) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestSourceErrorsKeepTheirKind(t *testing.T) {
	cause := fserr.New(fserr.Unauthorized, "read", "blob", errors.New("401"))
	blob := gz(t, strings.Repeat("abc", 100000))
	s, err := layertar.Open(io.MultiReader(bytes.NewReader(blob[:len(blob)/2]), iotest.ErrReader(cause)))
	if err == nil {
		_, err = io.ReadAll(s)
	}
	if !fserr.Is(err, fserr.Unauthorized) {
		t.Errorf("kind %v: %v", fserr.KindOf(err), err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte("plain"))
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1, 0, 0, 0xff, 0xff})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0})
	f.Fuzz(func(_ *testing.T, blob []byte) {
		s, err := layertar.Open(bytes.NewReader(blob))
		if err != nil {
			return
		}
		defer s.Close()
		_, _ = io.Copy(io.Discard, io.LimitReader(s, 1<<20))
	})
}
