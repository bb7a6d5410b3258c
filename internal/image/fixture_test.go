package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/klauspost/compress/zstd"
	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/layout"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testreg"
	digest "github.com/opencontainers/go-digest"
)

// file is one tar entry: a directory if the name ends in a slash, a symlink if
// link is set, else a regular file.
type file struct{ name, body, link string }

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.body)), Typeflag: tar.TypeReg, ModTime: time.Unix(1_000_000, 0)}
		switch {
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag, h.Mode, h.Size = tar.TypeDir, 0o755, 0
		case f.link != "":
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f.link, 0
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(f.body)[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// lazyLayer is the files as an eStargz layer whose TOC the manifest vouches for.
func lazyLayer(t testing.TB, files ...file) testreg.Layer {
	t.Helper()
	var out bytes.Buffer
	w := estargz.NewWriter(&out, estargz.WriterOptions{MinMemberSize: -1})
	if err := w.AppendTar(t.Context(), bytes.NewReader(tarOf(t, files...))); err != nil {
		t.Fatal(err)
	}
	res, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return testreg.Layer{Data: out.Bytes(), DiffID: digest.Digest(res.DiffID.String()), Annotations: map[string]string{estargz.AnnotationTOCDigest: res.TOCDigest.String()}}
}

func gzipLayer(t testing.TB, files ...file) testreg.Layer {
	t.Helper()
	raw := tarOf(t, files...)
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	if _, err := zw.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return testreg.Layer{Data: out.Bytes(), DiffID: digest.FromBytes(raw)}
}

func zstdLayer(t testing.TB, files ...file) testreg.Layer {
	t.Helper()
	raw := tarOf(t, files...)
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return testreg.Layer{Data: zw.EncodeAll(raw, nil), DiffID: digest.FromBytes(raw), MediaType: ocispec.MediaTypeImageLayerZstd}
}

// node is everything between a registry and the trees.
type node struct {
	*image.Catalog
	store *chunkstore.Store
	dir   string
}

// start opens a catalog on dir, as a daemon does. stop may be called early.
func start(t testing.TB, dir string, maxBytes int64) (n *node, stop func()) {
	t.Helper()
	return startTrusting(t, dir, maxBytes, image.Trust{SOCI: true})
}

func startTrusting(t testing.TB, dir string, maxBytes int64, trust image.Trust) (n *node, stop func()) {
	t.Helper()
	return startWith(t, dir, maxBytes, func(o *image.Options) { o.Trust = trust })
}

// startWith is start with other options.
func startWith(t testing.TB, dir string, maxBytes int64, edit func(*image.Options)) (n *node, stop func()) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	store, err := chunkstore.Open(ctx, chunkstore.Options{Dir: filepath.Join(dir, "chunks"), MaxBytes: maxBytes})
	if err != nil {
		t.Fatal(err)
	}
	reg := registry.New(registry.Options{Attempts: 2, BackoffInitial: time.Millisecond, BackoffMax: time.Millisecond, StallTimeout: 5 * time.Second})
	sched := fetch.New(ctx, store, fetch.Options{})
	o := image.Options{
		Dir: filepath.Join(dir, "index"), Source: source.Mux{Registry: reg, Layout: layout.New()}, Store: store, Records: store.Records(),
		Scheduler: sched, Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
	}
	edit(&o)
	c, err := image.New(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		sched.Close()
		for _, err := range []error{c.Close(), reg.Close(), store.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return &node{c, store, dir}, stop
}

// readFile reads a whole file of a tree.
func readFile(ctx context.Context, tr image.Tree, path string) (string, error) {
	n := tr.Root()
	for name := range strings.SplitSeq(path, "/") {
		var err error
		if n, err = tr.Lookup(n, []byte(name)); err != nil {
			return "", err
		}
	}
	var out bytes.Buffer
	buf := make([]byte, 100_000)
	for {
		m, err := tr.ReadAt(ctx, n, buf, int64(out.Len()))
		if err != nil {
			return "", err
		}
		if m == 0 {
			return out.String(), nil
		}
		out.Write(buf[:m])
	}
}

// tree opens an attach name and releases it with the test.
func (n *node) tree(t testing.TB, aname string) image.Tree {
	t.Helper()
	tr, release, err := n.Open(t.Context(), aname)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return tr
}

func check(t testing.TB, tr image.Tree, want map[string]string) {
	t.Helper()
	for path, body := range want {
		got, err := readFile(t.Context(), tr, path)
		switch {
		case body == "" && !fserr.Is(err, fserr.NotExist):
			t.Errorf("%s: %v, want not found", path, err)
		case body != "" && (err != nil || got != body):
			t.Errorf("%s: %d bytes, %v", path, len(got), err)
		}
	}
}
