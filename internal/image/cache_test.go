package image_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/testreg"
)

func (n *node) cache(t *testing.T) *image.Cache {
	t.Helper()
	h, err := image.NewCache(t.Context(), n.Catalog, n.store)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// indexFiles lists the index files that are older than any that is spared because
// of its age.
func (n *node) indexFiles(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, dir := range []string{"layers", "merged"} {
		list, err := filepath.Glob(filepath.Join(n.dir, "index", dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, list...)
	}
	old := time.Now().Add(-2 * time.Hour)
	for _, name := range names {
		if err := os.Chtimes(name, old, old); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

func (n *node) collect(t *testing.T, h *image.Cache, o image.CollectOptions) image.Collected {
	t.Helper()
	n.indexFiles(t)
	got, err := h.Collect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// read attaches an image, reads one of its files, and lets it go.
func (n *node) read(t *testing.T, aname, path string) {
	t.Helper()
	tr, release, err := n.Open(t.Context(), aname)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, err := readFile(t.Context(), tr, path); err != nil {
		t.Fatal(err)
	}
}

// TestCollectKeepsWhatIsUsed has four images: of a chain, attached, pinned, and of
// nothing. The last goes, and what it shares with others stays.
func TestCollectKeepsWhatIsUsed(t *testing.T) {
	reg := testreg.New(t)
	base := lazyLayer(t, file{name: "base", body: "shared"})
	added := map[string]testreg.Added{}
	for _, name := range []string{"chained", "attached", "pinned", "unused"} {
		added[name] = reg.AddImage(name, "v1", testreg.Image{Layers: []testreg.Layer{base, lazyLayer(t, file{name: name, body: "of " + name})}})
	}
	n, stop := start(t, t.TempDir(), 0)
	for _, name := range []string{"chained", "attached", "pinned", "unused"} {
		n.read(t, "image/"+reg.Ref(name, "v1"), name)
	}
	n.read(t, "image/"+reg.Ref("unused", "v1"), "base")
	addChain(t, n, reg.Ref("chained", "v1"), added["chained"])
	tr := n.tree(t, "image/"+reg.Ref("attached", "v1"))
	h := n.cache(t)
	if _, chunks, err := h.Pin(t.Context(), reg.Ref("pinned", "v1")); err != nil || chunks != 2 {
		t.Fatalf("pinned %d chunks, %v", chunks, err)
	}
	list, err := h.Images(t.Context(), "")
	if err != nil || len(list) != 4 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, img := range list {
		inUse := img.Ref == reg.Ref("chained", "v1") || img.Ref == reg.Ref("attached", "v1")
		if img.InUse != inUse || img.Pinned != (img.Ref == reg.Ref("pinned", "v1")) || len(img.Layers) != 2 || img.Layers[1].Local != 1 || img.Layers[0].Local != 1 {
			t.Errorf("%+v", img)
		}
	}
	if got := n.collect(t, h, image.CollectOptions{Target: -1}); got.Images != 1 || got.Layers != 1 || got.Files < 2 || got.FreedBytes != 0 {
		t.Errorf("%+v", got)
	}
	if got := n.collect(t, h, image.CollectOptions{Target: -1, Unused: true}); got.Images != 0 || got.Files != 0 {
		t.Errorf("all unused: %+v", got)
	}
	if st := n.store.Stats(); st.Chunks != 4 {
		t.Errorf("%d chunks left", st.Chunks)
	}
	if got := n.collect(t, h, image.CollectOptions{Target: 0}); n.store.Stats().Chunks != 2 || n.store.Stats().EvictedChunks != 3 {
		t.Errorf("nothing but pins: %+v, %+v", got, n.store.Stats())
	}
	check(t, tr, map[string]string{"attached": "of attached", "base": "shared"}) // fetched again
	stop()

	// After a restart, without a registry, what stayed is served.
	n, _ = start(t, n.dir, 0)
	reg.Close()
	h = n.cache(t)
	if st := n.store.Stats(); st.Pinned != 2 {
		t.Errorf("%d pinned after a restart", st.Pinned)
	}
	n.read(t, "image/"+list[3-1].Manifest, "pinned")
	if _, err := h.Unpin(t.Context(), reg.Ref("pinned", "v1")); err != nil {
		t.Error(err)
	}
	if _, err := h.Unpin(t.Context(), reg.Ref("pinned", "v1")); !fserr.Is(err, fserr.NotExist) {
		t.Errorf("unpinned twice: %v", err)
	}
	if st := n.store.Stats(); st.Pinned != 0 {
		t.Errorf("%d pinned", st.Pinned)
	}
}

// TestCollectRemovesStrays removes index files that no record is about, but not
// those that are being written.
func TestCollectRemovesStrays(t *testing.T) {
	n, _ := start(t, t.TempDir(), 0)
	h := n.cache(t)
	for _, name := range []string{"layers/stray.idx", "layers/stray.zran", "merged/stray.idx", "layers/.nineply-index-1"} {
		if err := os.WriteFile(filepath.Join(n.dir, "index", name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.collect(t, h, image.CollectOptions{Target: -1}); got.Files != 3 || got.FileBytes != 3 {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(filepath.Join(n.dir, "index", "layers", ".nineply-index-1")); err != nil {
		t.Errorf("a file that is being written: %v", err)
	}
	if err := os.WriteFile(filepath.Join(n.dir, "index", "layers", "new.idx"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := h.Collect(t.Context(), image.CollectOptions{Target: -1}); err != nil || got.Files != 0 {
		t.Errorf("a young file: %+v, %v", got, err)
	}
}
