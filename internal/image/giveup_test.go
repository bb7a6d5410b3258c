package image_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/testreg"
)

// hookedRecords calls hook before and after a record is written that refuses an index.
type hookedRecords struct {
	image.Records
	hook func(when string)
}

func (r *hookedRecords) Put(ctx context.Context, key string, val []byte) error {
	if !bytes.Contains(val, []byte(`"refused"`)) {
		return r.Records.Put(ctx, key, val)
	}
	r.hook("before")
	defer r.hook("after")
	return r.Records.Put(ctx, key, val)
}

// TestNobodyFindsAnIndexThatIsGivenUp opens the image while the record that refuses
// its index is being written.
func TestNobodyFindsAnIndexThatIsGivenUp(t *testing.T) {
	s := testreg.New(t)
	body := noise(t, 300_000)
	layer := gzipLayer(t, file{name: "a", body: body})
	added := s.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	addIndex(t, s, added, image.ForgeIndex(t, layer.Data, layer.DiffID, &estargz.Entry{
		Name: "a", Type: estargz.TypeReg, Size: int64(len(body)), Offset: 512, ChunkDigest: estargz.Sum([]byte("something else")), HasChunkDigest: true,
	}))
	aname := "image/" + s.Ref("app", "v1")
	var n *node
	done := make(chan struct{})
	hook := func(when string) {
		tr, release, err := n.Open(context.WithoutCancel(t.Context()), aname)
		if err != nil {
			t.Errorf("%s: %v", when, err)
			return
		}
		if got, err := readFile(context.WithoutCancel(t.Context()), tr, "a"); err != nil || got != body {
			t.Errorf("%s the record is written: %d bytes, %v", when, len(got), err)
		}
		release()
		if when == "after" {
			close(done)
		}
	}
	n, _ = startWith(t, t.TempDir(), 0, func(o *image.Options) {
		o.Trust, o.Records = image.Trust{Referrers: true}, &hookedRecords{o.Records, hook}
	})
	tr, release, err := n.Open(t.Context(), aname)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readFile(t.Context(), tr, "a"); fserr.KindOf(err) != fserr.Corrupt {
		t.Fatalf("forged: %v", err)
	}
	<-done
	release()
}

// TestCollectTakesAllLayersAtOnce: a tree that is only kept open holds none of them.
func TestCollectTakesAllLayersAtOnce(t *testing.T) {
	reg := testreg.New(t)
	twice := lazyLayer(t, file{name: "a", body: "of a"})
	layers := []testreg.Layer{twice, lazyLayer(t, file{name: "b", body: "of b"}), lazyLayer(t, file{name: "c", body: "of c"}), twice}
	reg.AddImage("app", "v1", testreg.Image{Layers: layers})
	n, _ := start(t, t.TempDir(), 0)
	for _, name := range []string{"a", "b", "c"} {
		n.read(t, "image/"+reg.Ref("app", "v1"), name)
	}
	if got := n.collect(t, n.cache(t), image.CollectOptions{Target: -1, Unused: true}); got.Images != 1 || got.Layers != 3 {
		t.Errorf("%+v", got)
	}
	if st := n.store.Stats(); st.Chunks != 0 {
		t.Errorf("%d chunks left", st.Chunks)
	}
	for _, dir := range []string{"layers", "merged"} {
		if left, err := os.ReadDir(filepath.Join(n.dir, "index", dir)); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", dir, left, err)
		}
	}
}
