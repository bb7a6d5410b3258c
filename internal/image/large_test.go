package image_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/testreg"
	digest "github.com/opencontainers/go-digest"
)

// BenchmarkLayerFirstUse opens a large gzip layer for the first time: it is read
// whole, checked, cut up, stored and indexed. Then the cache is emptied, and files
// are read at random, each from its start to its end.
//
// NINEPLY_BENCH_LAYER names the layer's tar; the layer has .gz behind the name.
func BenchmarkLayerFirstUse(b *testing.B) {
	path := os.Getenv("NINEPLY_BENCH_LAYER")
	if path == "" {
		b.Skip("NINEPLY_BENCH_LAYER is not set")
	}
	raw, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		b.Fatal(err)
	}
	blob, err := os.ReadFile(filepath.Clean(path + ".gz"))
	if err != nil {
		b.Fatal(err)
	}
	reg := testreg.New(b)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{{Data: blob, DiffID: digest.FromBytes(raw)}}})
	aname := "image/" + reg.Ref("app", "v1")
	var dir string
	for b.Loop() {
		dir = b.TempDir()
		n, stop := start(b, dir, 0)
		_, release, err := n.Open(b.Context(), aname)
		if err != nil {
			b.Fatal(err)
		}
		release()
		stop()
	}
	b.SetBytes(int64(len(blob)))
	reportFiles(b, filepath.Join(dir, "index", "layers"), len(blob), digest.FromBytes(raw))
	n, _ := start(b, dir, 0)
	if _, err := n.store.Evict(b.Context(), 1<<40); err != nil {
		b.Fatal(err)
	}
	tr := n.tree(b, aname)
	files := tarFiles(b, raw)
	const reads = 1000
	r := rand.New(rand.NewPCG(1, 2))
	wrong := 0
	for range reads {
		f := files[r.IntN(len(files))]
		got, err := readFile(b.Context(), tr, f.name)
		if err != nil || got != f.body {
			wrong++
		}
	}
	b.ReportMetric(float64(wrong), "wrong-files")
	b.ReportMetric(0, "wrong-files-max")
	b.ReportMetric(100*float64(n.Layers()[0].Fetched)/float64(len(blob)), "refetched-%")
}

// reportFiles reports how large the files of the only layer's index are, and what
// is pushed of them.
func reportFiles(b *testing.B, dir string, blob int, diffID digest.Digest) {
	b.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			b.Fatal(err)
		}
		name := strings.TrimPrefix(filepath.Ext(e.Name()), ".")
		b.ReportMetric(float64(st.Size()), name+"-bytes")
		b.ReportMetric(100*float64(st.Size())/float64(blob), name+"-%")
	}
	layer, err := filepath.Glob(filepath.Join(dir, "*.idx"))
	if err != nil || len(layer) != 1 {
		b.Fatal(layer, err)
	}
	f, err := os.Create(filepath.Join(b.TempDir(), "packed"))
	if err != nil {
		b.Fatal(err)
	}
	err = image.PackIndex(f, layer[0], strings.TrimSuffix(layer[0], "idx")+"zran", diffID.String())
	st, serr := f.Stat()
	if err = errors.Join(err, serr, f.Close()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(st.Size()), "packed-bytes")
	b.ReportMetric(100*float64(st.Size())/float64(blob), "packed-%")
}

// tarFiles lists the regular files of a tar.
func tarFiles(b *testing.B, raw []byte) []file {
	b.Helper()
	var files []file
	tr := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			b.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg || h.Size == 0 {
			continue
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			b.Fatal(err)
		}
		files = append(files, file{name: strings.TrimPrefix(h.Name, "./"), body: string(body)})
	}
}
