package zran_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/inflate"
	"github.com/nineply/nineply/internal/zran"
)

// foreignPoints are checkpoints as other programs make them: none at the header of
// the first member, whole windows, a digest for each span.
func foreignPoints(t testing.TB, blob []byte, span int64) (points []zran.Point, size int64) {
	t.Helper()
	s, err := inflate.NewStream(bytes.NewReader(blob), inflate.Point{Member: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // it only gives memory back
	last := -span
	s.OnPoint = func(p inflate.Point, _ []byte) {
		switch {
		case p.Member && p.In == 0:
			p.In = 10 // the header has no options
		case p.Member || p.Out-last < span:
			return
		}
		last = p.Out
		points = append(points, zran.Point{In: p.In, Bit: p.Bit, Out: p.Out, Window: bytes.Clone(p.Window)})
	}
	if size, err = io.Copy(io.Discard, s); err != nil {
		t.Fatal(err)
	}
	seal(points, blob)
	return points, size
}

// seal sets the digests of the spans.
func seal(points []zran.Point, blob []byte) {
	for i := range points {
		end := int64(len(blob))
		if i+1 < len(points) {
			if end = points[i+1].In; points[i+1].Bit > 0 {
				end++
			}
		}
		points[i].Digest = sha256.Sum256(blob[points[i].In:end])
	}
}

func spansFile(t testing.TB, info zran.Info, points []zran.Point) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := zran.WriteSpans(&b, info, points); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestForeignPoints(t *testing.T) {
	data := content(7, contentSize())
	blobs := gzipFiles(t, data)
	blobs["plain"] = data
	for name, blob := range blobs {
		t.Run(name, func(t *testing.T) {
			var points []zran.Point
			info := zran.Info{BlobSize: int64(len(blob)), Size: int64(len(data)), Plain: name == "plain"}
			if info.Plain {
				for off := int64(0); off < int64(len(blob)); off += testSpan {
					points = append(points, zran.Point{In: off, Out: off})
				}
				seal(points, blob)
			} else {
				points, info.Size = foreignPoints(t, blob, testSpan)
			}
			x := open(t, spansFile(t, info, points))
			if x.Points() < len(data)/testSpan/2 {
				t.Fatalf("%d checkpoints", x.Points())
			}
			r := rand.New(rand.NewPCG(5, 6))
			for range 100 {
				off := r.Int64N(int64(len(data)))
				n := min(1+r.Int64N(300_000), int64(len(data))-off)
				got, err := readAt(t, x, blob, off, n)
				if err != nil || !bytes.Equal(got, data[off:off+n]) {
					t.Fatalf("%d bytes at %d: %v", n, off, err)
				}
			}
			damaged(t, x, blob, points, data)
		})
	}
}

// damaged changes one byte of each span: what is before it comes, and nothing else.
func damaged(t *testing.T, x *zran.Index, blob []byte, points []zran.Point, data []byte) {
	t.Helper()
	for i, p := range points {
		end := int64(len(blob))
		size := int64(len(data))
		if i+1 < len(points) {
			end, size = points[i+1].In, points[i+1].Out
		}
		if p.Out == size {
			continue // nothing comes from there
		}
		bad := bytes.Clone(blob)
		bad[(p.In+end)/2] ^= 1
		got, err := readAt(t, x, bad, p.Out, size-p.Out)
		if len(got) != 0 || !errors.Is(err, zran.ErrDigest) || fserr.KindOf(err) != fserr.Corrupt {
			t.Fatalf("span %d: %d bytes, %v", i, len(got), err)
		}
	}
}

func TestForeignPointsRefused(t *testing.T) {
	_, good := record(t, gzipFiles(t, content(8, 300_000))["go 6"], testSpan)
	size := open(t, good).Info().BlobSize
	for name, points := range map[string][]zran.Point{
		"none": nil, "not at the start": {{In: 10, Out: 5}}, "inside of a byte": {{In: 10, Bit: 1}}, "behind the end": {{In: size}},
		"twice": {{In: 10}, {In: 10}}, "backwards": {{In: 10}, {In: 9, Out: 7}}, "bits": {{In: 10}, {In: 90, Out: 90, Bit: 8}},
	} {
		file := spansFile(t, zran.Info{BlobSize: size, Size: 300_000}, points)
		if _, err := zran.Open(bytes.NewReader(file), int64(len(file))); !errors.Is(err, zran.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := zran.WriteSpans(io.Discard, zran.Info{}, []zran.Point{{Window: make([]byte, 32<<10+1)}}); !errors.Is(err, zran.ErrCorrupt) {
		t.Errorf("a window too long: %v", err)
	}
}
