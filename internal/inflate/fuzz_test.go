package inflate_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"testing"

	"github.com/nineply/nineply/internal/inflate"
)

// FuzzInflate holds the decoder against compress/flate: the first n bytes are
// the same, or both fail before they have n.
func FuzzInflate(f *testing.F) {
	for _, data := range samples() {
		data = data[:min(len(data), 3000)]
		for _, level := range []int{flate.HuffmanOnly, 0, 1, 9} {
			f.Add(deflate(f, level, data), uint32(len(data)))
		}
	}
	f.Fuzz(func(t *testing.T, src []byte, n uint32) {
		n %= 1 << 18
		want := make([]byte, n)
		k, wantErr := io.ReadFull(flate.NewReader(bytes.NewReader(src)), want)
		got := make([]byte, n)
		err := inflate.Deflate(got, src)
		if err == nil && errors.Is(wantErr, io.ErrUnexpectedEOF) {
			// compress/flate wants some bits more than the last symbol has.
			padded := append(bytes.Clone(src), make([]byte, 8)...)
			k, wantErr = io.ReadFull(flate.NewReader(bytes.NewReader(padded)), want)
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("first %d bytes: %v, compress/flate got %d bytes: %v", n, err, k, wantErr)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatal("output differs")
		}
		if err == nil && (int64(len(src))+1)*inflate.MaxExpansion < int64(n) {
			t.Fatalf("%d bytes made %d", len(src), n)
		}
	})
}

// FuzzReader holds the streaming decoder against compress/gzip.
func FuzzReader(f *testing.F) {
	for _, data := range samples() {
		f.Add(member(f, 6, data[:min(len(data), 3000)], gzip.Header{Name: "n"}))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		r, err := inflate.NewReader(src)
		if err != nil {
			return
		}
		const limit = 1 << 20
		got, err := io.ReadAll(io.LimitReader(r, limit))
		if cerr := r.Close(); cerr != nil {
			t.Error(cerr)
		}
		std, stdErr := gzip.NewReader(bytes.NewReader(src))
		if stdErr != nil {
			return // it refuses names longer than 511 bytes
		}
		std.Multistream(false)
		want, stdErr := io.ReadAll(io.LimitReader(std, limit))
		if (err == nil) != (stdErr == nil) {
			t.Fatalf("%v, compress/gzip: %v", err, stdErr)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatal("output differs")
		}
	})
}
