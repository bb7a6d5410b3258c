package image_test

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/testreg"
	"github.com/nineply/nineply/internal/zran"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestIndexOnFirstUse reads layers that only come whole, forgets their bytes, and
// sees that a read then costs a range and not the layer.
func TestIndexOnFirstUse(t *testing.T) {
	files := make([]file, 0, 42)
	want := map[string]string{}
	for i := range 40 {
		body := noise(t, 200_000)
		files = append(files, file{name: fmt.Sprintf("f%d", i), body: body})
		want[files[i].name] = body
	}
	plain := tarOf(t, files...)
	for _, tt := range []struct {
		format string
		layer  testreg.Layer
	}{
		{"gzip+index", gzipLayer(t, files...)},
		{"tar+index", testreg.Layer{Data: plain, DiffID: digest.FromBytes(plain), MediaType: ocispec.MediaTypeImageLayer}},
		{"whole", zstdLayer(t, files...)},
	} {
		t.Run(tt.format, func(t *testing.T) {
			reg := testreg.New(t)
			reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{tt.layer}})
			ref := "image/" + reg.Ref("app", "v1")
			dir := t.TempDir()
			n, stop := start(t, dir, 0)
			n.visit(t, ref, want)
			if l := n.Layers()[0]; l.Format != tt.format {
				t.Fatalf("%+v", l)
			}
			stop()
			n, _ = start(t, dir, 0)
			n.forget(t)
			n.visit(t, ref, map[string]string{"f24": want["f24"]}) // in the middle of a span
			if l := n.Layers()[0]; l.Format != tt.format || tt.format != "whole" && l.Fetched > int64(len(tt.layer.Data))/3 {
				t.Errorf("after the cache was lost: %+v", l)
			}
			n.visit(t, ref, want)
		})
	}
}

// TestLostCheckpoints reads a layer whole when its checkpoints are gone, and has
// them again afterwards.
func TestLostCheckpoints(t *testing.T) {
	reg := testreg.New(t)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{gzipLayer(t, file{name: "a", body: big})}})
	ref := "image/" + reg.Ref("app", "v1")
	dir := t.TempDir()
	n, stop := start(t, dir, 0)
	n.visit(t, ref, map[string]string{"a": big})
	stop()
	found, err := filepath.Glob(filepath.Join(dir, "*", "layers", "*.zran"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v: %v", found, err)
	}
	for _, damage := range []func(path string) error{
		os.Remove,
		func(path string) error { return os.WriteFile(path, []byte("damage"), 0o600) },
		damageWindow,
	} {
		if err := damage(found[0]); err != nil {
			t.Fatal(err)
		}
		for _, format := range []string{"whole", "gzip+index"} {
			n, stop = start(t, dir, 0)
			n.forget(t)
			n.visit(t, ref, map[string]string{"a": big})
			if l := n.Layers()[0]; l.Format != format {
				t.Errorf("want %s: %+v", format, l)
			}
			awaitCheckpoints(t, found[0])
			stop()
		}
	}
}

// awaitCheckpoints waits until the run that reads a layer whole, which goes on
// behind the last chunk that anybody asked for, has left its checkpoints.
func awaitCheckpoints(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		f, err := os.Open(filepath.Clean(path))
		if err != nil {
			continue
		}
		st, err := f.Stat()
		var x *zran.Index
		if err == nil {
			x, err = zran.Open(f, st.Size())
		}
		if err == nil {
			err = x.Verify()
		}
		if cerr := f.Close(); err == nil && cerr == nil {
			return
		}
	}
	t.Fatal("no checkpoints came")
}

// damageWindow changes the last byte of a checkpoint file.
func damageWindow(path string) error {
	text, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return err
	}
	text[len(text)-1] ^= 1
	return os.WriteFile(path, text, 0o600)
}

// TestSparseLayers reads files whose content is not in one piece in the tar.
func TestSparseLayers(t *testing.T) {
	holes := make([]byte, 1<<20)
	copy(holes[16*4096:], strings.Repeat("A", 4096))
	copy(holes[128*4096:], strings.Repeat("B", 8192))
	want := map[string]string{"etc/hostname": "nineply\n", "last": "after", "holes": string(holes), "nothing": string(make([]byte, 300_000))}
	for name, zipped := range map[string]bool{"sparse-gnu": true, "sparse-pax-0.0": false, "sparse-pax-0.1": true, "sparse-pax-1.0": true} {
		data, err := os.ReadFile(filepath.Join("..", "..", "estargz", "testdata", "tars", name+".tar"))
		if err != nil {
			t.Fatal(err)
		}
		l := testreg.Layer{Data: data, DiffID: digest.FromBytes(data), MediaType: ocispec.MediaTypeImageLayer}
		if zipped {
			var b bytes.Buffer
			zw := gzip.NewWriter(&b)
			_, err = zw.Write(data)
			if err = errors.Join(err, zw.Close()); err != nil {
				t.Fatal(err)
			}
			l.Data, l.MediaType = b.Bytes(), ""
		}
		reg := testreg.New(t)
		reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{l}})
		dir := t.TempDir()
		n, stop := start(t, dir, 0)
		n.visit(t, "image/"+reg.Ref("app", "v1"), want)
		stop()
		n, _ = start(t, dir, 0)
		n.forget(t)
		n.visit(t, "image/"+reg.Ref("app", "v1"), want)
		if l := n.Layers()[0]; l.Format != "whole" {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

// visit opens a tree, checks files of it, and lets it go.
func (n *node) visit(t *testing.T, aname string, want map[string]string) {
	t.Helper()
	tr, release, err := n.Open(t.Context(), aname)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	check(t, tr, want)
}

// forget empties the cache of what was in it when the store was opened.
func (n *node) forget(t *testing.T) {
	t.Helper()
	if _, err := n.store.Evict(t.Context(), 1<<40); err != nil {
		t.Fatal(err)
	}
}

func noise(t *testing.T, n int) string {
	t.Helper()
	p := make([]byte, n)
	if _, err := rand.Read(p); err != nil {
		t.Fatal(err)
	}
	return string(p)
}
