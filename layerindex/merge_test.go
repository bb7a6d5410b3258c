package layerindex_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
)

func TestMergeNames(t *testing.T) {
	tests := []struct {
		name   string
		layers []*toc // bottom first
		want   string
	}{
		{"no layers", nil, ""},
		{"union", []*toc{words("f a", "f d/x"), words("f b", "f d/y")}, "a b d/ d/x d/y"},
		{"whiteout of a file", []*toc{words("f a", "f b"), words("e .wh.a")}, "b"},
		{"whiteout of a directory", []*toc{words("f d/a/b", "f b"), words("e .wh.d")}, "b"},
		{"whiteout below a directory", []*toc{words("f d/a", "f d/b"), words("e d/.wh.a")}, "d/ d/b"},
		{"whiteout of nothing", []*toc{words("f b"), words("e .wh.a", "e c/.wh.d")}, "b c/"},
		{"whiteout holds for all layers below", []*toc{words("f a"), words("f a"), words("e .wh.a")}, ""},
		{"whiteout does not hold above", []*toc{words("f a"), words("e .wh.a"), words("f a")}, "a"},
		{"directory after its whiteout is new", []*toc{words("f d/a"), words("e .wh.d"), words("f d/b")}, "d/ d/b"},
		{"whiteout beside the file", []*toc{words("f a"), words("e .wh.a", "f a")}, "a"},
		{"whiteout beside the directory", []*toc{words("f d/a"), words("f d/b", "e .wh.d")}, "d/ d/b"},
		{"opaque", []*toc{words("f d/a", "f d/s/b"), words("f d/c", "e d/.wh..wh..opq")}, "d/ d/c"},
		{"opaque does not hold above", []*toc{words("f d/a"), words("e d/.wh..wh..opq"), words("f d/b")}, "d/ d/b"},
		{"opaque between", []*toc{words("f d/a"), words("e d/.wh..wh..opq", "f d/m"), words("f d/b"), words("e d/.wh.m")}, "d/ d/b"},
		{"opaque subdirectory", []*toc{words("f d/s/a", "f d/k"), words("e d/s/.wh..wh..opq", "f d/s/n")}, "d/ d/k d/s/ d/s/n"},
		{"opaque root", []*toc{words("f a", "f d/b"), words("e .wh..wh..opq", "f c")}, "c"},
		{"file on directory", []*toc{words("f d/a"), words("f d")}, "d"},
		{"directory on file", []*toc{words("f d"), words("f d/a")}, "d/ d/a"},
		{"file between directories", []*toc{words("f d/a"), words("f d"), words("f d/b")}, "d/ d/b"},
		{"directory on symlink", []*toc{words("f usr/lib/a", "l lib -> usr/lib"), words("f lib/b")}, "lib/ lib/b usr/ usr/lib/ usr/lib/a"},
		{"symlink on directory", []*toc{words("f lib/b"), words("l lib -> x")}, "lib"},
		{"device 0:0 is a device", []*toc{words("f a"), words("c a")}, "a"},
		{"landmarks of every layer", []*toc{words("f .prefetch.landmark", "f a"), words("f stargz.index.json")}, "a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x, layers := view(t, tt.layers...)
			if got := names(t, x); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			for i, l := range layers {
				if got := names(t, l); bytes.Contains([]byte(got), []byte(".wh.")) {
					t.Errorf("layer %d shows %q", i, got)
				}
			}
			if !x.Merged() || len(x.Layers()) != len(tt.layers) {
				t.Errorf("merged: %v, of %d layers", x.Merged(), len(x.Layers()))
			}
		})
	}
}

func TestMergeAttributes(t *testing.T) {
	entry := func(name string, mode uint32, xattr string) *toc {
		return (&toc{}).add(estargz.Entry{Name: name, Type: estargz.TypeDir, Mode: mode,
			Xattrs: map[string][]byte{"user." + xattr: []byte(xattr)}})
	}
	implied := words("f d/x")
	opaque := words("e d/.wh..wh..opq")
	replaced := words("f d/x", "e .wh.d")
	tests := []struct {
		name   string
		layers []*toc
		mode   uint32
		xattrs string
	}{
		{"upper wins", []*toc{entry("d", 0o711, "a"), entry("d", 0o700, "b")}, 0o700, "user.b"},
		{"implied takes from below", []*toc{entry("d", 0o711, "a"), implied}, 0o711, "user.a"},
		{"implied all the way", []*toc{implied, implied}, 0o755, ""},
		{"implied in the middle", []*toc{entry("d", 0o711, "a"), implied, entry("d", 0o700, "b"), implied}, 0o700, "user.b"},
		{"opaque and implied takes from below", []*toc{entry("d", 0o711, "a"), opaque}, 0o711, "user.a"},
		{"replaced and implied is new", []*toc{entry("d", 0o711, "a"), replaced}, 0o755, ""},
		{"implied on replaced is new", []*toc{entry("d", 0o711, "a"), replaced, implied}, 0o755, ""},
		{"implied on a file is new", []*toc{entry("d", 0o711, "a"), words("f d"), implied}, 0o755, ""},
		{"implied after a whiteout is new", []*toc{entry("d", 0o711, "a"), words("e .wh.d"), implied}, 0o755, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x, _ := view(t, tt.layers...)
			n := resolve(t, x, "d")
			if a := attr(t, x, "d"); a.Mode != layerindex.ModeDir|tt.mode {
				t.Errorf("mode %o, want %o", a.Mode, tt.mode)
			}
			if got := xattrNames(t, x, n); got != tt.xattrs {
				t.Errorf("extended attributes %q, want %q", got, tt.xattrs)
			}
		})
	}
	root, _ := view(t, entry("/", 0o700, "a"), words("f x"))
	if a := attr(t, root, ""); a.Mode != layerindex.ModeDir|0o700 || a.NLink != 2 {
		t.Errorf("root %+v", a)
	}
}

func xattrNames(t *testing.T, x *layerindex.Index, n layerindex.Ino) string {
	t.Helper()
	var got [][]byte
	if err := x.XattrNames(n, func(name []byte) bool { got = append(got, name); return true }); err != nil {
		t.Fatal(err)
	}
	return string(bytes.Join(got, []byte(" ")))
}

func TestMergeHardLinks(t *testing.T) {
	linked := words("f a", "h b -> a", "h d/c -> a")
	tests := []struct {
		name   string
		layers []*toc
		want   string
	}{
		{"one node", []*toc{linked}, "a b d/c 3"},
		{"a name whited out", []*toc{linked, words("e .wh.a")}, "b d/c 2"},
		{"a name replaced", []*toc{linked, words("f b")}, "a d/c 2; b 1"},
		{"one name left", []*toc{linked, words("f b", "e .wh.d")}, "a 1; b 1"},
		{"none left", []*toc{linked, words("e .wh.a", "e .wh.b", "e d/.wh.c")}, ""},
		{"equal numbers of other layers are other nodes", []*toc{linked, words("f e", "h f -> e")}, "a b d/c 3; e f 2"},
		{"replaced by links", []*toc{linked, words("f a", "h b -> a")}, "a b 2; d/c 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x, _ := view(t, tt.layers...)
			if got := linkGroups(t, x); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestMergeContent(t *testing.T) {
	x, layers := view(t, words("f a", "f b", "f c"), words("f b", "e e"), words("e .wh.a").chunked("c", 3, 10))
	for path, want := range map[string]struct {
		layer, count int
		digest       string
	}{"b": {1, 1, "b"}, "c": {2, 3, "c0"}, "e": {1, 0, ""}} {
		c, err := x.Content(resolve(t, x, path))
		if err != nil || c.Layer != want.layer || int(c.Count) != want.count {
			t.Fatalf("%s: %+v, %v", path, c, err)
		}
		if ch, ok := layers[c.Layer].Chunk(layers[c.Layer].FindChunk(c, 0)); ok != (want.count > 0) || ok && ch.Digest != sum(want.digest) {
			t.Errorf("%s begins with %+v", path, ch)
		}
	}
	for i, l := range x.Layers() {
		if diff := cmp.Diff(layerOf(i), l); diff != "" {
			t.Errorf("layer %d (-want +got):\n%s", i, diff)
		}
	}
	if diff := cmp.Diff(layerindex.LayerInfo{}, x.Info()); diff != "" {
		t.Errorf("merged index has info:\n%s", diff)
	}
}

func TestMergeManyLayers(t *testing.T) {
	var layers []*toc
	for i := range 200 {
		l := words("e shared/.wh."+fmt.Sprint(i-2), fmt.Sprint("f shared/", i), "f same")
		layers = append(layers, l)
	}
	x, _ := view(t, layers...)
	if got, want := names(t, x), "same shared/ shared/198 shared/199"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if c, err := x.Content(resolve(t, x, "same")); err != nil || c.Layer != 199 {
		t.Errorf("same is of layer %d, %v", c.Layer, err)
	}
}

func TestMergeRefuses(t *testing.T) {
	x := build(t, 0, words("f a"))
	m := merge(t, x)
	closed := build(t, 1, words("f a"))
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	many := make([]*layerindex.Index, 513)
	for i := range many {
		many[i] = x
	}
	for name, tt := range map[string]struct {
		layers []*layerindex.Index
		kind   fserr.Kind
	}{
		"merged":      {[]*layerindex.Index{x, m}, fserr.Invalid},
		"closed":      {[]*layerindex.Index{closed}, fserr.Invalid},
		"nil":         {[]*layerindex.Index{nil}, fserr.Invalid},
		"many layers": {many, fserr.TooLarge},
	} {
		if err := layerindex.Merge(filepath.Join(t.TempDir(), "x"), tt.layers); fserr.KindOf(err) != tt.kind {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestNumbering: numbers are dense, breadth first and a function of the input.
func TestNumbering(t *testing.T) {
	l := words("f z/y/x", "f a", "h m -> z/y/x", "d b/c", "f b/a")
	x, _ := view(t, l)
	want := map[string]layerindex.Ino{"": 1, "a": 2, "b": 3, "m": 4, "z": 5, "b/a": 6, "b/c": 7, "z/y": 8, "z/y/x": 4}
	for path, ino := range want {
		if got := resolve(t, x, path); got != ino {
			t.Errorf("%q is node %d, want %d", path, got, ino)
		}
	}
	for child, dir := range map[string]string{"": "", "b/c": "b", "z/y": "z", "z": ""} {
		if got, err := x.Parent(resolve(t, x, child)); err != nil || got != resolve(t, x, dir) {
			t.Errorf("parent of %q is %d, %v", child, got, err)
		}
	}
	dir := t.TempDir()
	var files [][]byte
	for i := range 2 {
		b, err := addAll(layerOf(0), words("f z/y/x", "f a", "h m -> z/y/x", "d b/c", "f b/a").entries)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, fmt.Sprint(i))
		for range 2 {
			if err := b.WriteFile(path); err != nil {
				t.Fatal(err)
			}
			files = append(files, readFile(t, path))
		}
	}
	for _, f := range files[1:] {
		if !bytes.Equal(f, files[0]) {
			t.Error("the same layer gives different files")
		}
	}
}
