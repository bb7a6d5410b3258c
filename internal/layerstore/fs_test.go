package layerstore_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nineply/nineply/internal/layerstore"
)

// mountFS mounts a store, or skips the test.
func mountFS(t *testing.T, s *layerstore.Store, dir string) *layerstore.FS {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip(err)
	}
	m, err := layerstore.Mount(s, dir, layerstore.FSOptions{})
	must(t, err)
	return m
}

func unmount(t *testing.T, m *layerstore.FS, dir string) {
	t.Helper()
	must(t, m.Unmount(dir))
	m.Wait()
}

// TestFS does what containers/storage does.
func TestFS(t *testing.T) {
	f, dir := newFake(), t.TempDir()
	f.blob = bytes.Repeat([]byte("blob"), 5)
	s := open(t, f, dir)
	store := filepath.Join(dir, "store")
	m := mountFS(t, s, store)
	layer := filepath.Join(store, base64.StdEncoding.EncodeToString([]byte(ref)), upper.Digest)
	for _, name := range []string{"diff", "info", "blob"} {
		_, err := os.Stat(filepath.Join(layer, name))
		must(t, err)
	}
	want(t, "mounts and chains", []int{1, 1}, f.held())
	text, err := os.ReadFile(filepath.Join(layer, "info"))
	must(t, err)
	var info map[string]any
	must(t, json.Unmarshal(text, &info))
	want(t, "info", map[string]any{
		"compressed-diff-digest": upper.Digest, "compressed-size": 20., "diff-digest": upper.DiffID, "diff-size": 20.,
		"compression": 4., "readonly": true, "flags": map[string]any{"expected-layer-diffid": upper.DiffID},
	}, info)
	blob, err := os.ReadFile(filepath.Join(layer, "blob"))
	must(t, err)
	want(t, "blob", string(f.blob), string(blob))

	_, err = os.Create(filepath.Join(layer, "use"))
	want(t, "use", true, errors.Is(err, syscall.ENOENT))
	want(t, "uses", map[string]int{upper.Digest: 1}, used(s))
	if err := os.WriteFile(filepath.Join(layer, "other"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("creating another file: %v", err)
	}
	if err := os.Mkdir(filepath.Join(layer, "dir"), 0o700); err == nil {
		t.Error("a directory was made")
	}
	unmount(t, m, store)

	m = mountFS(t, open(t, f, dir), store)
	defer unmount(t, m, store)
	names, err := os.ReadDir(filepath.Dir(layer))
	must(t, err)
	want(t, "layers", 1, len(names))
	want(t, "release", true, errors.Is(syscall.Rmdir(layer), syscall.ENOENT))
	want(t, "mounts and chains", []int{0, 0}, f.held())
	names, err = os.ReadDir(store)
	must(t, err)
	want(t, "images", 0, len(names))
}

func TestFSHasNoSuchLayer(t *testing.T) {
	f, dir := newFake(), t.TempDir()
	store := filepath.Join(dir, "store")
	m := mountFS(t, open(t, f, dir), store)
	defer unmount(t, m, store)
	image := base64.StdEncoding.EncodeToString([]byte(ref))
	for _, path := range []string{"not base64!", image + "/x", image + "/" + digest("9"), digest("1") + "/diff", image + "/" + lower.Digest + "/use"} {
		if _, err := os.Stat(filepath.Join(store, path)); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
