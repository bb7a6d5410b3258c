package zran_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/zran"
)

const testSpan = 128 << 10

// content is text with repeats near and far, runs, and stretches of noise.
func content(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 11))
	words := make([][]byte, 3000)
	for i := range words {
		w := make([]byte, 3+r.IntN(12))
		for j := range w {
			w[j] = byte('a' + r.IntN(26))
		}
		words[i] = w
	}
	p := make([]byte, 0, n+8192)
	for len(p) < n {
		switch r.IntN(400) {
		case 0:
			p = append(p, make([]byte, r.IntN(8000))...)
		case 1:
			for range r.IntN(4000) {
				p = append(p, byte(r.Uint32()))
			}
		default:
			p = append(append(p, words[r.IntN(len(words))]...), ' ')
		}
	}
	return p[:n]
}

// contentSize is how much content is worth testing with, bytes.
func contentSize() int {
	if testing.Short() {
		return 600 << 10
	}
	return 2 << 20
}

// gzipFiles makes one blob of each kind; those of foreign programs only where
// the programs are.
func gzipFiles(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	blobs := map[string][]byte{}
	for name, level := range map[string]int{"go stored": 0, "go 1": 1, "go 6": 6, "go huffman": gzip.HuffmanOnly} {
		var b bytes.Buffer
		zw, err := gzip.NewWriterLevel(&b, level)
		if err != nil {
			t.Fatal(err)
		}
		write(t, zw, data)
		blobs[name] = b.Bytes()
	}
	var members bytes.Buffer
	for p := data; len(p) > 0; p = p[min(len(p), 300001):] {
		write(t, kgzip.NewWriter(&members), p[:min(len(p), 300001)])
		write(t, kgzip.NewWriter(&members), nil)
	}
	blobs["members"] = members.Bytes()
	blobs["padded"] = append(bytes.Clone(members.Bytes()), make([]byte, 4096)...)
	for name, args := range map[string][]string{"gzip -1": {"gzip", "-1"}, "gzip -6": {"gzip"}, "gzip -9": {"gzip", "-9"}, "pigz": {"pigz"}, "pigz -i": {"pigz", "-i", "-b", "128"}} {
		path, err := exec.LookPath(args[0])
		if err != nil {
			t.Logf("no %s here", args[0])
			continue
		}
		cmd := exec.CommandContext(t.Context(), path, append(args[1:], "-c")...)
		cmd.Stdin = bytes.NewReader(data)
		if blobs[name], err = cmd.Output(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if testing.Short() { // one of each kind of trouble
		maps.DeleteFunc(blobs, func(name string, _ []byte) bool {
			return !slices.Contains([]string{"go stored", "go 6", "padded", "pigz -i"}, name)
		})
	}
	return blobs
}

func write(t *testing.T, w io.WriteCloser, p []byte) {
	t.Helper()
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// record reads blob and gives its output and its index file.
func record(t testing.TB, blob []byte, span int64) (out, index []byte) {
	t.Helper()
	r := zran.NewRecorder(span)
	if err := r.Start(bytes.NewReader(blob)); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, dropped := r.Points(); dropped > 0 {
		t.Errorf("%d checkpoints failed their trial", dropped)
	}
	var b bytes.Buffer
	if err := r.WriteTo(&b, [32]byte{1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	return out, b.Bytes()
}

func open(t testing.TB, index []byte) *zran.Index {
	t.Helper()
	x, err := zran.Open(bytes.NewReader(index), int64(len(index)))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// readAt reads through the index, from no more of the blob than the extent.
func readAt(t testing.TB, x *zran.Index, blob []byte, off, n int64) ([]byte, error) {
	t.Helper()
	lo, hi := x.Extent(off, n)
	s, out, err := x.Start(bytes.NewReader(blob[lo:hi]), lo)
	if err != nil {
		return nil, err
	}
	defer s.Close() //nolint:errcheck // it only gives memory back
	if out > off || x.First(off) != out {
		t.Fatalf("the extent of %d begins at %d, First says %d", off, out, x.First(off))
	}
	if err := s.Discard(off - out); err != nil {
		return nil, err
	}
	p := make([]byte, n)
	k, err := io.ReadFull(s, p)
	return p[:k], err
}

func TestRandomReads(t *testing.T) {
	data := content(1, contentSize())
	for name, blob := range gzipFiles(t, data) {
		t.Run(name, func(t *testing.T) {
			out, index := record(t, blob, testSpan)
			if !bytes.Equal(out, data) {
				t.Fatal("the recorder's own output is wrong")
			}
			x := open(t, index)
			if i := x.Info(); i.BlobSize != int64(len(blob)) || i.Size != int64(len(data)) || i.Blob != [32]byte{1, 2, 3} {
				t.Fatalf("info %+v", i)
			}
			if x.Points() < len(data)/testSpan/2 {
				t.Fatalf("%d checkpoints", x.Points())
			}
			r := rand.New(rand.NewPCG(5, 6))
			skipped := int64(0)
			for range 100 {
				off := r.Int64N(int64(len(data)))
				n := min(1+r.Int64N(50000), int64(len(data))-off)
				got, err := readAt(t, x, blob, off, n)
				if err != nil || !bytes.Equal(got, data[off:off+n]) {
					t.Fatalf("%d bytes at %d: %v", n, off, err)
				}
				skipped += off - x.First(off)
			}
			if mean := skipped / 100; mean > testSpan {
				t.Errorf("a read decompresses %d bytes in front of it, the span is %d", mean, testSpan)
			}
			if got, err := readAt(t, x, blob, 0, int64(len(data))); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("all of it: %v", err)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	_, good := record(t, gzipFiles(t, content(2, 1<<20))["go 6"], testSpan)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		x, err := zran.Open(bytes.NewReader(bad), int64(len(bad)))
		if err != nil {
			if k := fserr.KindOf(err); k != fserr.Corrupt && k != fserr.Unsupported {
				t.Fatalf("byte %d: %v has kind %v", i, err, k)
			}
			continue
		}
		if err := x.Verify(); !errors.Is(err, zran.ErrCorrupt) {
			t.Fatalf("byte %d of %d changed: %v", i, len(good), err)
		}
	}
	if err := open(t, good).Verify(); err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, err := zran.Open(bytes.NewReader(good[:n]), int64(n)); err == nil {
			t.Fatalf("opened the first %d of %d bytes", n, len(good))
		}
	}
}

// TestSlowStart has more compressed bytes in front than are kept for a trial.
func TestSlowStart(t *testing.T) {
	data := content(6, 1<<20)
	var empty, b bytes.Buffer
	write(t, kgzip.NewWriter(&empty), nil)
	b.Write(bytes.Repeat(empty.Bytes(), 3<<20/empty.Len()))
	write(t, kgzip.NewWriter(&b), data)
	out, index := record(t, b.Bytes(), testSpan)
	if !bytes.Equal(out, data) {
		t.Fatal("the recorder's own output is wrong")
	}
	x := open(t, index)
	for _, off := range []int64{0, 1, 500_000, int64(len(data)) - 100} {
		if got, err := readAt(t, x, b.Bytes(), off, 100); err != nil || !bytes.Equal(got, data[off:off+100]) {
			t.Fatalf("at %d: %v", off, err)
		}
	}
}

// TestTrailingBytes: zeros may follow the last member, anything else is damage.
func TestTrailingBytes(t *testing.T) {
	blob := gzipFiles(t, content(3, 1000))["go 6"]
	for tail, good := range map[string]bool{"": true, "\x00": true, "\x00\x00\x00\x01": false, "garbage": false, "\x1f\x8b": false} {
		r := zran.NewRecorder(0)
		if err := r.Start(bytes.NewReader(append(bytes.Clone(blob), tail...))); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r); (err == nil) != good {
			t.Errorf("%q behind it: %v", tail, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRecorderMisuse(t *testing.T) {
	r := zran.NewRecorder(0)
	if err := r.Start(bytes.NewReader(gzipFiles(t, content(3, 100))["go 6"])); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(bytes.NewReader(nil)); err == nil {
		t.Error("started twice")
	}
	if err := r.WriteTo(io.Discard, [32]byte{}); err == nil {
		t.Error("wrote an index before the end")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
