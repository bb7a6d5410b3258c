package layerindex_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
)

func TestLookup(t *testing.T) {
	l := words()
	var all []string
	for _, stem := range []string{"", "a", "lib", "libsomething-", "libsomething-long", "\xff\xff\xff\xff\xff\xff\xff"} {
		for i := range 20 {
			name := fmt.Sprint(stem, i)
			all = append(all, name)
			l.reg("d/"+name, 0)
		}
	}
	for _, x := range []*layerindex.Index{build(t, 0, l), merge(t, build(t, 0, l))} {
		dir := resolve(t, x, "d")
		for _, name := range all {
			if _, err := x.Lookup(dir, []byte(name)); err != nil {
				t.Errorf("%q: %v", name, err)
			}
			for _, absent := range []string{name + "\x00", name + "x", name[:len(name)-1] + "/", "\x00" + name} {
				if n, err := x.Lookup(dir, []byte(absent)); !fserr.Is(err, fserr.NotExist) {
					t.Errorf("%q: node %d, %v", absent, n, err)
				}
			}
		}
		for _, absent := range []string{"", ".", "..", "\xff\xff\xff\xff\xff\xff\xff\xff"} {
			if n, err := x.Lookup(dir, []byte(absent)); !fserr.Is(err, fserr.NotExist) || !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%q: node %d, %v", absent, n, err)
			}
		}
	}
}

func TestReaddir(t *testing.T) {
	x := build(t, 0, words("f d/a", "e d/.wh.b", "e d/.wh.bb", "l d/c -> x", "d d/d", "c d/e", "e d/.wh.f"))
	dir := resolve(t, x, "d")
	got := readdir(t, x, dir)
	want := []struct {
		name string
		typ  uint8
	}{{"a", layerindex.DTReg}, {"c", layerindex.DTSymlink}, {"d", layerindex.DTDir}, {"e", layerindex.DTChar}}
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	pos := uint64(0)
	for i, w := range want {
		if string(got[i].Name) != w.name || got[i].Type != w.typ || got[i].Ino != resolve(t, x, "d/"+w.name) {
			t.Errorf("entry %d is %+v, want %+v", i, got[i], w)
		}
		// A position gives the same entry every time.
		var next uint64
		for range 2 {
			d, n, ok, err := x.Readdir(dir, pos)
			if err != nil || !ok || string(d.Name) != w.name {
				t.Errorf("at %d: %+v, %v, %v", pos, d, ok, err)
			}
			next = n
		}
		pos = next
	}
	for _, p := range []uint64{pos, 100, math.MaxUint32, math.MaxUint64} {
		if d, next, ok, err := x.Readdir(dir, p); ok || err != nil || next < p {
			t.Errorf("behind the end at %d: %+v, %d, %v, %v", p, d, next, ok, err)
		}
	}
}

func TestAccessorErrors(t *testing.T) {
	x := merge(t, build(t, 0, words("d d", "f f", "l l -> t", "c c")))
	d, f, l, c := resolve(t, x, "d"), resolve(t, x, "f"), resolve(t, x, "l"), resolve(t, x, "c")
	tests := []struct {
		name string
		kind fserr.Kind
		err  func(x *layerindex.Index) error
	}{
		{"lookup in a file", fserr.NotDir, func(x *layerindex.Index) error { _, err := x.Lookup(f, []byte("a")); return err }},
		{"lookup in a link", fserr.NotDir, func(x *layerindex.Index) error { _, err := x.Lookup(l, []byte("a")); return err }},
		{"readdir of a file", fserr.NotDir, func(x *layerindex.Index) error { _, _, _, err := x.Readdir(f, 0); return err }},
		{"parent of a file", fserr.NotDir, func(x *layerindex.Index) error { _, err := x.Parent(f); return err }},
		{"readlink of a directory", fserr.Invalid, func(x *layerindex.Index) error { _, err := x.Readlink(d); return err }},
		{"content of a directory", fserr.IsDir, func(x *layerindex.Index) error { _, err := x.Content(d); return err }},
		{"content of a device", fserr.Invalid, func(x *layerindex.Index) error { _, err := x.Content(c); return err }},
		{"content of a link", fserr.Invalid, func(x *layerindex.Index) error { _, err := x.Content(l); return err }},
		{"no such attribute", fserr.NoAttr, func(x *layerindex.Index) error { _, err := x.Xattr(f, []byte("a")); return err }},
	}
	for _, tt := range tests {
		if err := tt.err(x); fserr.KindOf(err) != tt.kind {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.kind)
		}
	}
	strange := []layerindex.Ino{0, layerindex.Ino(x.NumNodes()) + 1, math.MaxUint32, math.MaxUint64}
	for _, n := range strange {
		for i, err := range allErrors(x, n) {
			if fserr.KindOf(err) != fserr.NotExist {
				t.Errorf("accessor %d of node %d: got %v", i, n, err)
			}
		}
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	for i, err := range append(allErrors(x, 1), x.Close()) {
		if fserr.KindOf(err) != fserr.Closed {
			t.Errorf("accessor %d after Close: got %v", i, err)
		}
	}
}

// allErrors asks every accessor for node n.
func allErrors(x *layerindex.Index, n layerindex.Ino) []error {
	_, attr := x.Attr(n)
	_, parent := x.Parent(n)
	_, lookup := x.Lookup(n, []byte("a"))
	_, _, _, readdir := x.Readdir(n, 0)
	_, readlink := x.Readlink(n)
	_, content := x.Content(n)
	_, xattr := x.Xattr(n, []byte("a"))
	names := x.XattrNames(n, func([]byte) bool { return true })
	_, path := x.Path(n)
	return []error{attr, parent, lookup, readdir, readlink, content, xattr, names, path}
}

func TestXattrNamesStops(t *testing.T) {
	x := build(t, 0, (&toc{}).add(estargz.Entry{Name: "a", Type: estargz.TypeFifo,
		Xattrs: map[string][]byte{"b": nil, "a": nil, "c": nil}}))
	var got []string
	err := x.XattrNames(resolve(t, x, "a"), func(name []byte) bool {
		got = append(got, string(name))
		return len(got) < 2
	})
	if err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestViewsCannotGrow: appending to a returned slice must not write to the
// mapping, which would be a fault.
func TestViewsCannotGrow(t *testing.T) {
	x := build(t, 0, xattrs("user.a", "v").symlink("l", "target").reg("z", 0))
	v, err := x.Xattr(resolve(t, x, "a"), []byte("user.a"))
	if err != nil {
		t.Fatal(err)
	}
	target, err := x.Readlink(resolve(t, x, "l"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range [][]byte{v, target, readdir(t, x, 1)[0].Name} {
		if cap(p) != len(p) {
			t.Errorf("%q has capacity %d", p, cap(p))
		}
		if got := append(p, 'x'); got[len(p)] != 'x' {
			t.Error("append failed")
		}
	}
}

func TestAccessorsDoNotAllocate(t *testing.T) {
	l := words("f d/file", "l d/link -> target").add(estargz.Entry{
		Name: "x", Type: estargz.TypeReg, Xattrs: map[string][]byte{"user.a": []byte("v")}})
	layer := build(t, 0, l)
	x := merge(t, layer)
	dir, file, link, withAttr := resolve(t, x, "d"), resolve(t, x, "d/file"), resolve(t, x, "d/link"), resolve(t, x, "x")
	hit, miss, attrName, attrMiss := []byte("file"), []byte("filf"), []byte("user.a"), []byte("user.b")
	content, err := x.Content(file)
	if err != nil {
		t.Fatal(err)
	}
	visit := func([]byte) bool { return true }
	for name, fn := range map[string]func(){
		"lookup":       func() { _, _ = x.Lookup(dir, hit) },
		"lookup miss":  func() { _, _ = x.Lookup(dir, miss) },
		"lookup file":  func() { _, _ = x.Lookup(file, hit) },
		"lookup bad":   func() { _, _ = x.Lookup(9999, hit) },
		"attr":         func() { _, _ = x.Attr(file) },
		"parent":       func() { _, _ = x.Parent(dir) },
		"readdir":      func() { _, _, _, _ = x.Readdir(dir, 0) },
		"readdir end":  func() { _, _, _, _ = x.Readdir(dir, 9) },
		"readlink":     func() { _, _ = x.Readlink(link) },
		"content":      func() { _, _ = x.Content(file) },
		"content dir":  func() { _, _ = x.Content(dir) },
		"xattr":        func() { _, _ = x.Xattr(withAttr, attrName) },
		"xattr miss":   func() { _, _ = x.Xattr(withAttr, attrMiss) },
		"xattr names":  func() { _ = x.XattrNames(withAttr, visit) },
		"find chunk":   func() { _ = layer.FindChunk(content, 3) },
		"chunk":        func() { _, _ = layer.Chunk(0) },
		"chunks from":  func() { _ = layer.ChunksFrom(50) },
		"layer lookup": func() { _, _ = layer.Lookup(1, hit) },
	} {
		if n := testing.AllocsPerRun(100, fn); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := layerindex.Open(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) || fserr.KindOf(err) != fserr.NotExist {
		t.Errorf("absent: %v", err)
	}
	if _, err := layerindex.Open(dir); !errors.Is(err, layerindex.ErrCorrupt) {
		t.Errorf("directory: %v", err)
	}
	for name, content := range map[string]string{"empty": "", "short": "nplyidx\n", "strange": string(make([]byte, 4096))} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := layerindex.Open(path); !errors.Is(err, layerindex.ErrCorrupt) || fserr.KindOf(err) != fserr.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	x, _ := view(t, words("f d/a", "f d/b", "l l -> d"), words("f d/c"))
	want := names(t, x)
	var wg sync.WaitGroup
	got := make([]string, 8)
	for i := range got {
		wg.Go(func() {
			for range 20 {
				got[i] = names(t, x)
			}
		})
	}
	wg.Wait()
	for _, g := range got {
		if g != want {
			t.Errorf("got %q, want %q", g, want)
		}
	}
}
