package inflate_test

import (
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"

	"github.com/nineply/nineply/internal/inflate"
)

// text is compressible, with matches near and far.
func text(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	words := make([][]byte, 500)
	for i := range words {
		w := make([]byte, 2+r.IntN(20))
		for j := range w {
			w[j] = byte('a' + r.IntN(26))
		}
		words[i] = w
	}
	p := make([]byte, 0, n+32)
	for len(p) < n {
		switch r.IntN(40) {
		case 0:
			p = append(p, make([]byte, r.IntN(3000))...)
		case 1:
			for range r.IntN(500) {
				p = append(p, byte(r.Uint32()))
			}
		default:
			p = append(p, words[r.IntN(len(words))]...)
		}
	}
	return p[:n]
}

func gzipped(t testing.TB, level int, parts ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, p := range parts {
		zw, err := gzip.NewWriterLevel(&b, level)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := zw.Write(p); err != nil {
			t.Fatal(err)
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func stdGzipped(t testing.TB, level int, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	zw, err := stdgzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	zw.Name, zw.Comment, zw.Extra = "name", "comment", make([]byte, 3000)
	if _, err := zw.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// blobs are of all kinds that a stream must follow.
func blobs(t testing.TB) map[string][2][]byte {
	t.Helper()
	data := text(1, 3<<20)
	small := text(2, 5000)
	all := map[string][2][]byte{
		"empty member":   {{}, gzipped(t, 6, nil)},
		"members":        {bytes.Join([][]byte{small, data[:1<<20], small, nil, data[5:200000]}, nil), gzipped(t, 6, small, data[:1<<20], small, nil, data[5:200000])},
		"zeros":          {make([]byte, 4<<20), gzipped(t, 9, make([]byte, 4<<20))},
		"padded":         {small, append(gzipped(t, 6, small), make([]byte, 700000)...)},
		"header fields":  {data, stdGzipped(t, 6, data)},
		"huffman only":   {data, stdGzipped(t, stdgzip.HuffmanOnly, data)},
		"random, stored": {noise(1 << 20), stdGzipped(t, 6, noise(1<<20))},
	}
	for _, level := range []int{0, 1, 5, 9} {
		all[fmt.Sprint("level ", level)] = [2][]byte{data, gzipped(t, level, data)}
	}
	return all
}

func noise(n int) []byte {
	p := make([]byte, n)
	for i, r := 0, rand.New(rand.NewPCG(3, 4)); i < n; i++ {
		p[i] = byte(r.Uint32())
	}
	return p
}

func decode(t testing.TB, r io.Reader, p inflate.Point, on func(inflate.Point, []byte)) ([]byte, error) {
	t.Helper()
	s, err := inflate.NewStream(r, p)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	s.OnPoint = on
	return io.ReadAll(s)
}

var start = inflate.Point{Member: true}

func TestStream(t *testing.T) {
	for name, b := range blobs(t) {
		t.Run(name, func(t *testing.T) {
			for kind, r := range map[string]io.Reader{
				"whole": bytes.NewReader(b[1]), "halves": iotest.HalfReader(bytes.NewReader(b[1])),
				"data with the end": iotest.DataErrReader(bytes.NewReader(b[1])),
			} {
				got, err := decode(t, r, start, nil)
				if err != nil || !bytes.Equal(got, b[0]) {
					t.Fatalf("%s: %d bytes, want %d: %v", kind, len(got), len(b[0]), err)
				}
			}
		})
	}
}

func TestStreamByteByByte(t *testing.T) {
	p := text(9, 60000)
	got, err := decode(t, iotest.OneByteReader(bytes.NewReader(gzipped(t, 6, p, p[:100]))), start, nil)
	if want := append(bytes.Clone(p), p[:100]...); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, want %d: %v", len(got), len(want), err)
	}
}

// TestStreamPoints starts at every point that is reported.
func TestStreamPoints(t *testing.T) {
	for name, b := range blobs(t) {
		t.Run(name, func(t *testing.T) {
			var points []inflate.Point
			_, err := decode(t, bytes.NewReader(b[1]), start, func(p inflate.Point, ahead []byte) {
				if !bytes.HasPrefix(b[1][p.In:], ahead) || len(ahead) == 0 {
					t.Errorf("%d bytes ahead of %d are others", len(ahead), p.In)
				}
				p.Window = bytes.Clone(p.Window)
				points = append(points, p)
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(points) == 0 || points[0].In != 0 || !points[0].Member {
				t.Fatalf("the first of %d points is not the start", len(points))
			}
			for i, p := range points {
				if i%(1+len(points)/40) != 0 {
					continue
				}
				got, err := decode(t, bytes.NewReader(b[1][p.In:]), p, nil)
				if err != nil || !bytes.Equal(got, b[0][p.Out:]) {
					t.Fatalf("from %+v: %d bytes, want %d: %v", p.In, len(got), len(b[0])-int(p.Out), err)
				}
			}
		})
	}
}

func TestStreamErrors(t *testing.T) {
	p := text(4, 300000)
	z := gzipped(t, 6, p)
	flip := func(at int) []byte {
		c := bytes.Clone(z)
		c[at] ^= 0x55
		return c
	}
	lost := errors.New("lost")
	for name, tt := range map[string]struct {
		r    io.Reader
		want error
	}{
		"nothing":         {bytes.NewReader(nil), inflate.ErrHeader},
		"no gzip":         {bytes.NewReader(p), inflate.ErrHeader},
		"half a header":   {bytes.NewReader(z[:5]), inflate.ErrHeader},
		"cut":             {bytes.NewReader(z[:len(z)/2]), inflate.ErrTruncated},
		"cut trailer":     {bytes.NewReader(z[:len(z)-1]), inflate.ErrTruncated},
		"bad crc":         {bytes.NewReader(flip(len(z) - 6)), inflate.ErrChecksum},
		"bad length":      {bytes.NewReader(flip(len(z) - 1)), inflate.ErrChecksum},
		"garbage follows": {bytes.NewReader(append(bytes.Clone(z), "garbage"...)), inflate.ErrHeader},
		"source fails":    {io.MultiReader(bytes.NewReader(z[:len(z)/2]), iotest.ErrReader(lost)), lost},
		"no progress":     {stuck{}, io.ErrNoProgress},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := decode(t, tt.r, start, nil); !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
		})
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func TestStreamDiscard(t *testing.T) {
	p := text(5, 1<<20)
	s, err := inflate.NewStream(bytes.NewReader(gzipped(t, 6, p)), start)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // below
	if err := s.Discard(700001); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, p[700001:]) {
		t.Fatalf("%d bytes: %v", len(got), err)
	}
	if err := s.Discard(1); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); err == nil {
		t.Fatal("read after close")
	}
}

// FuzzStream holds Stream against compress/gzip, and every point it reports
// against the rest of its own output.
func FuzzStream(f *testing.F) {
	f.Add(gzipped(f, 6, text(1, 9000), nil, text(2, 100)))
	f.Add(gzipped(f, 0, text(1, 900)))
	f.Add(stdGzipped(f, stdgzip.HuffmanOnly, text(3, 3000)))
	reserved := gzipped(f, 6, text(1, 900), text(2, 100))
	reserved[3] |= 0x80
	f.Add(reserved)
	f.Fuzz(func(t *testing.T, blob []byte) {
		var points []inflate.Point
		got, err := decode(t, io.LimitReader(bytes.NewReader(blob), 1<<16), start, func(p inflate.Point, _ []byte) {
			p.Window = bytes.Clone(p.Window)
			points = append(points, p)
		})
		want, werr := stdRead(blob)
		if werr == nil && (err != nil || !bytes.Equal(got, want)) {
			t.Fatalf("%d bytes and %v, want %d", len(got), err, len(want))
		}
		if err == nil && werr != nil && !bytes.HasPrefix(got, want) {
			t.Fatalf("read what compress/gzip does not: %v", werr)
		}
		if err != nil || len(points) == 0 {
			return
		}
		p := points[len(points)/2]
		rest, err := decode(t, bytes.NewReader(blob[p.In:]), p, nil)
		if err != nil || !bytes.Equal(rest, got[p.Out:]) {
			t.Fatalf("from %+v: %v", p, err)
		}
	})
}

// stdRead is what compress/gzip makes of the blob, but for reserved header
// flags: it ignores them, and RFC 1952, 2.3.1.2 demands an error.
func stdRead(blob []byte) ([]byte, error) {
	const reserved = 0xe0
	var all []byte
	r := bytes.NewReader(blob)
	zr := new(stdgzip.Reader)
	for first := true; ; first = false {
		member := blob[len(blob)-r.Len():]
		if err := zr.Reset(r); errors.Is(err, io.EOF) && !first {
			return all, nil
		} else if err != nil {
			return all, err
		}
		if member[3]&reserved != 0 {
			return all, stdgzip.ErrHeader
		}
		zr.Multistream(false)
		p, err := io.ReadAll(zr)
		all = append(all, p...)
		if err != nil {
			return all, err
		}
	}
}
