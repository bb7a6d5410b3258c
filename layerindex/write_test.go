package layerindex_test

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
)

// TestWriteOrder: what becomes visible is on disk already.
func TestWriteOrder(t *testing.T) {
	m := newMemFS()
	b, err := addAll(layerOf(0), words("f a").entries)
	if err != nil {
		t.Fatal(err)
	}
	b.SetFS(m)
	if err := b.WriteFile("dir/layer"); err != nil {
		t.Fatal(err)
	}
	want := []string{"create", "write", "write header", "sync", "close", "rename", "sync directory"}
	if diff := cmp.Diff(want, m.log); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if _, err := layerindex.OpenBytes(m.files["dir/layer"]); err != nil || len(m.files) != 1 {
		t.Errorf("%v, files %q", err, slices.Collect(maps.Keys(m.files)))
	}
}

// TestWriteFaults makes each step of writing fail once, for a file of several
// buffers. The name then holds what it held before, nothing is left beside it,
// and a second try succeeds.
func TestWriteFaults(t *testing.T) {
	l := words("f a")
	for i := range 3000 {
		l.reg(strings.Repeat("n", i%200+1)+string(rune('a'+i%26)), 1)
	}
	b, err := addAll(layerOf(0), l.entries)
	if err != nil {
		t.Fatal(err)
	}
	good, err := encode(b)
	if err != nil {
		t.Fatal(err)
	}
	x, err := layerindex.OpenBytes(good)
	if err != nil {
		t.Fatal(err)
	}
	writers := map[string]func(*memFS) error{
		"build": func(m *memFS) error { b.SetFS(m); return b.WriteFile("d/x") },
		"merge": func(m *memFS) error { return layerindex.MergeTo(m, "d/x", []*layerindex.Index{x}) },
	}
	for name, write := range writers {
		steps := 0
		for fail := 1; ; fail++ {
			m := newMemFS()
			m.files["d/x"] = []byte("before")
			m.fail, m.err = fail, syscall.ENOSPC
			err := write(m)
			if err == nil {
				break
			}
			steps++
			last := m.log[fail-1]
			if !errors.Is(err, syscall.ENOSPC) || fserr.KindOf(err) != fserr.NoSpace || !strings.Contains(err.Error(), "d/x") {
				t.Errorf("%s, %s fails: %v", name, last, err)
			}
			kept := string(m.files["d/x"]) == "before"
			if len(m.files) != 1 || kept == (last == "sync directory") {
				t.Errorf("%s, %s fails: %d files, old content kept: %v", name, last, len(m.files), kept)
			}
			if err := write(m); err != nil {
				t.Errorf("%s, %s failed; second try: %v", name, last, err)
			}
			if _, err := layerindex.OpenBytes(m.files["d/x"]); err != nil {
				t.Errorf("%s, %s failed; second try: %v", name, last, err)
			}
		}
		if steps < 8 {
			t.Errorf("%s has only %d steps", name, steps)
		}
	}
}

// TestRemoveFault: the first error is not hidden by the second.
func TestRemoveFault(t *testing.T) {
	b, err := addAll(layerOf(0), nil)
	if err != nil {
		t.Fatal(err)
	}
	b.SetFS(removeFails{newMemFS()})
	if err := b.WriteFile("d/x"); !errors.Is(err, syscall.EIO) || !errors.Is(err, syscall.EROFS) {
		t.Errorf("got %v", err)
	}
}

type removeFails struct{ *memFS }

func (removeFails) Rename(string, string) error { return syscall.EIO }
func (removeFails) Remove(string) error         { return syscall.EROFS }

func TestWriteReal(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "layer")
	b, err := addAll(layerOf(0), words("f a").entries)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	old := open(t, path)
	if err := b.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	// The file that was mapped lives on under the new one.
	if got := names(t, old); got != "a" {
		t.Errorf("old mapping shows %q", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	if st, err := entries[0].Info(); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := b.WriteFile(filepath.Join(dir, "absent", "layer")); fserr.KindOf(err) != fserr.NotExist {
		t.Errorf("no directory: %v", err)
	}
	if !layerindex.IsTemp(".nineply-index-123") || layerindex.IsTemp("layer") {
		t.Error("IsTemp does not know the names of temporary files")
	}
	if err := layerindex.Merge(path, []*layerindex.Index{old}); err != nil || !bytes.HasPrefix(readFile(t, path), []byte("nplyidx\n")) {
		t.Errorf("merge over it: %v", err)
	}
}
