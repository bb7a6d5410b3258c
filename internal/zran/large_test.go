package zran_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"

	"github.com/nineply/nineply/internal/inflate"
	"github.com/nineply/nineply/internal/zran"
)

// largeLayer gives the tar that NINEPLY_BENCH_LAYER names, and the same with .gz
// behind the name.
func largeLayer(b *testing.B) (tar, blob []byte) {
	b.Helper()
	path := os.Getenv("NINEPLY_BENCH_LAYER")
	if path == "" {
		b.Skip("NINEPLY_BENCH_LAYER is not set")
	}
	for _, f := range []struct {
		path string
		into *[]byte
	}{{path, &tar}, {path + ".gz", &blob}} {
		var err error
		if *f.into, err = os.ReadFile(filepath.Clean(f.path)); err != nil {
			b.Fatal(err)
		}
	}
	return tar, blob
}

// BenchmarkLayerIndex records the checkpoints of a large layer, and tells how
// large they are.
func BenchmarkLayerIndex(b *testing.B) {
	_, blob := largeLayer(b)
	b.SetBytes(int64(len(blob)))
	var size, kept, dropped int
	for b.Loop() {
		r := zran.NewRecorder(0)
		if err := r.Start(bytes.NewReader(blob)); err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, onlyReader{r}); err != nil {
			b.Fatal(err)
		}
		var file bytes.Buffer
		if err := r.WriteTo(&file, [32]byte{}); err != nil {
			b.Fatal(err)
		}
		kept, dropped = r.Points()
		size = file.Len()
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(size), "index-bytes")
	b.ReportMetric(100*float64(size)/float64(len(blob)), "index-%")
	b.ReportMetric(1, "index-%-max")
	b.ReportMetric(float64(kept), "checkpoints")
	b.ReportMetric(float64(dropped), "dropped")
}

// BenchmarkLayerGunzip is what reading the layer costs without checkpoints.
func BenchmarkLayerGunzip(b *testing.B) {
	_, blob := largeLayer(b)
	open := map[string]func(r io.Reader) (io.ReadCloser, error){
		"own": func(r io.Reader) (io.ReadCloser, error) {
			return inflate.NewStream(r, inflate.Point{Member: true})
		},
		"klauspost": func(r io.Reader) (io.ReadCloser, error) { return kgzip.NewReader(r) },
	}
	for _, name := range []string{"own", "klauspost"} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(blob)))
			for b.Loop() {
				r, err := open[name](bytes.NewReader(blob))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, onlyReader{r}); err != nil {
					b.Fatal(err)
				}
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// onlyReader hides io.WriterTo.
type onlyReader struct{ io.Reader }

// BenchmarkLayerReads reads 4 KiB at 10,000 places of a large layer, and tells
// what each costs.
func BenchmarkLayerReads(b *testing.B) {
	const reads, length = 10_000, 4096
	tar, blob := largeLayer(b)
	out, file := record(b, blob, 0)
	if !bytes.Equal(out, tar) {
		b.Fatal("the layer is not that tar")
	}
	x := open(b, file)
	var wrong, inflated, fetched int64
	for b.Loop() {
		r := rand.New(rand.NewPCG(1, 2))
		wrong, inflated, fetched = 0, 0, 0
		for range reads {
			off := r.Int64N(int64(len(tar)) - length)
			lo, hi := x.Extent(off, length)
			fetched += hi - lo
			inflated += off + length - x.First(off)
			got, err := readAt(b, x, blob, off, length)
			if err != nil || !bytes.Equal(got, tar[off:off+length]) {
				wrong++
			}
		}
	}
	b.ReportMetric(reads, "reads")
	b.ReportMetric(float64(wrong), "wrong")
	b.ReportMetric(0, "wrong-max")
	b.ReportMetric(float64(inflated)/reads, "inflated-B/read")
	b.ReportMetric(float64(x.Info().Span), "inflated-B/read-max")
	b.ReportMetric(float64(fetched)/reads, "fetched-B/read")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/reads, "ns/read")
}
