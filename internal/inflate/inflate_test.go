package inflate_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/inflate"
)

// samples are contents that drive different parts of the decoder.
func samples() map[string][]byte {
	rng := rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 200_000)
	for i := range random {
		random[i] = byte(rng.Uint32())
	}
	words := bytes.Fields([]byte("the quick brown fox jumps over a lazy dog and runs along 0x7f ELF lib usr bin"))
	var text []byte
	for len(text) < 300_000 {
		text = append(append(text, words[rng.IntN(len(words))]...), ' ')
	}
	var short []byte // runs of every small period
	for p := 1; p <= 20; p++ {
		short = append(short, bytes.Repeat(random[p:2*p], 400/p)...)
	}
	skewed := make([]byte, 100_000) // long codes
	for i := range skewed {
		skewed[i] = byte(rng.ExpFloat64() * 8)
	}
	return map[string][]byte{
		"empty": nil, "one": {7}, "zeros": make([]byte, 1<<20), "random": random,
		"text": text, "short": short, "skewed": skewed,
		"mixed": append(append(append([]byte(nil), text[:70_000]...), random[:70_000]...), skewed...),
	}
}

func deflate(tb testing.TB, level int, data []byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w, err := flate.NewWriter(&buf, level)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func member(tb testing.TB, level int, data []byte, h gzip.Header) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w, err := gzip.NewWriterLevel(&buf, level)
	if err != nil {
		tb.Fatal(err)
	}
	w.Header = h
	if _, err := w.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func TestDeflateAllLevelsAndPrefixes(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for name, data := range samples() {
		for _, level := range []int{flate.HuffmanOnly, flate.NoCompression, 1, 6, 9} {
			src := deflate(t, level, data)
			for _, n := range []int{0, len(data) / 2, rng.IntN(len(data) + 1), max(0, len(data)-1), len(data)} {
				dst := make([]byte, n)
				if err := inflate.Deflate(dst, src); err != nil {
					t.Fatalf("%s level %d first %d bytes: %v", name, level, n, err)
				}
				if !bytes.Equal(dst, data[:n]) {
					t.Fatalf("%s level %d first %d bytes: differs", name, level, n)
				}
			}
			if err := inflate.Deflate(make([]byte, len(data)+1), src); !errors.Is(err, inflate.ErrShort) {
				t.Errorf("%s level %d one byte more: %v, want ErrShort", name, level, err)
			}
		}
	}
}

func TestReaderAllSamples(t *testing.T) {
	for name, data := range samples() {
		src := append(member(t, 6, data, gzip.Header{Name: name, Comment: "c", Extra: []byte("SG\x01\x00x")}), "behind"...)
		r, err := inflate.NewReader(src)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(data))
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if _, err := r.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: read after Close succeeded", name)
		}
	}
}

func TestReaderDiscard(t *testing.T) {
	data := samples()["mixed"]
	r, err := inflate.NewReader(member(t, 6, data, gzip.Header{}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := r.Discard(150_000); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1000)
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, data[150_000:151_000]) {
		t.Fatalf("after Discard: %v", err)
	}
	if err := r.Discard(1 << 40); !errors.Is(err, io.EOF) {
		t.Errorf("Discard past the end: %v, want EOF", err)
	}
}

func TestReaderChecksTrailer(t *testing.T) {
	src := member(t, 6, []byte("hello, hello, hello"), gzip.Header{})
	for i := 1; i <= 8; i++ {
		bad := bytes.Clone(src)
		bad[len(bad)-i] ^= 1
		if err := readAll(bad); !errors.Is(err, inflate.ErrChecksum) {
			t.Errorf("trailer byte %d changed: %v, want ErrChecksum", i, err)
		}
		if err := readAll(src[:len(src)-i]); !errors.Is(err, inflate.ErrTruncated) {
			t.Errorf("%d bytes cut off: %v, want ErrTruncated", i, err)
		}
	}
}

func readAll(src []byte) error {
	r, err := inflate.NewReader(src)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

func TestMemberHeader(t *testing.T) {
	const text = "payload"
	plain := member(t, 6, []byte(text), gzip.Header{})
	withCRC := append([]byte{0x1f, 0x8b, 8, 2, 0, 0, 0, 0, 0, 255, 0x05, 0x74}, plain[10:]...)
	edit := func(i int, b byte) []byte { p := bytes.Clone(plain); p[i] = b; return p }
	tests := []struct {
		name string
		src  []byte
		want error
	}{
		{"plain", plain, nil},
		{"all fields", member(t, 6, []byte(text), gzip.Header{Name: "n", Comment: "c", Extra: make([]byte, 65535)}), nil},
		{"header CRC wrong", withCRC, inflate.ErrHeader},
		{"empty", nil, inflate.ErrHeader},
		{"cut", plain[:9], inflate.ErrHeader},
		{"magic", edit(0, 0x1e), inflate.ErrHeader},
		{"method", edit(2, 7), inflate.ErrHeader},
		{"reserved flag", edit(3, 0x80), inflate.ErrHeader},
		{"extra without length", edit(3, 4)[:11], inflate.ErrHeader},
		{"extra beyond the end", append(edit(3, 4)[:10], 255, 255, 1), inflate.ErrHeader},
		{"name without end", append(edit(3, 8)[:10], 'x'), inflate.ErrHeader},
		{"comment without end", append(edit(3, 16)[:10], 'x'), inflate.ErrHeader},
		{"no stream", plain[:10], inflate.ErrTruncated},
		{"stream cut", plain[:13], inflate.ErrTruncated},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dst := make([]byte, len(text))
			err := inflate.Member(dst, tt.src)
			if !errors.Is(err, tt.want) {
				t.Fatalf("Member: %v, want %v", err, tt.want)
			}
			if err != nil && fserr.KindOf(err) != fserr.Corrupt {
				t.Errorf("kind %v", fserr.KindOf(err))
			}
			if err == nil && string(dst) != text {
				t.Errorf("got %q", dst)
			}
		})
	}
}

// Streams a compressor does not make. Bits are given lowest first, as deflate
// packs them.
func TestHostileStreams(t *testing.T) {
	tests := []struct {
		name string
		src  []byte
		want error
	}{
		{"nothing", nil, inflate.ErrTruncated},
		{"block type 3", []byte{0x07}, inflate.ErrCorrupt},
		{"stored length complement", []byte{0x01, 1, 0, 0, 0, 'x'}, inflate.ErrCorrupt},
		{"stored cut", []byte{0x01, 2, 0, 0xfd, 0xff, 'x'}, inflate.ErrTruncated},
		{"stored header cut", []byte{0x01, 2, 0, 0xfd}, inflate.ErrTruncated},
		{"empty stored blocks for ever", bytes.Repeat([]byte{0, 0, 0, 0xff, 0xff}, 1000), inflate.ErrTruncated},
		{"match before the start", []byte{0x03, 0x02}, inflate.ErrCorrupt},
		{"too many length codes", []byte{0xfd, 0x00, 0x00, 0x00}, inflate.ErrCorrupt},
		{"dynamic header cut", []byte{0x05, 0xc0}, inflate.ErrTruncated},
		{"all lengths of the length code zero", []byte{0x05, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, inflate.ErrCorrupt},
		{"code length code over-subscribed", append([]byte{0x05, 0xe0}, bytes.Repeat([]byte{0xff}, 10)...), inflate.ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := inflate.Deflate(make([]byte, 4), tt.src); !errors.Is(err, tt.want) {
				t.Errorf("Deflate: %v, want %v", err, tt.want)
			}
		})
	}
}

func TestDeflateDoesNotAllocate(t *testing.T) {
	data := samples()["text"]
	src, dst := deflate(t, 6, data), make([]byte, len(data))
	got := testing.AllocsPerRun(20, func() {
		if err := inflate.Deflate(dst, src); err != nil {
			t.Fatal(err)
		}
	})
	if got >= 1 && !raceEnabled {
		t.Errorf("%v allocations per call", got)
	}
}
