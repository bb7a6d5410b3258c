package image_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/testreg"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// halfFilled is a node that was stopped while it filled a layer.
type halfFilled struct {
	*testreg.Registry
	dir   string
	layer ocispec.Descriptor
}

// fillHalf fills a layer up to its n-th chunk. The layer may need an index, which is
// published beside its image then.
func fillHalf(t *testing.T, layer testreg.Layer, n int, publish bool) *halfFilled {
	t.Helper()
	h := &halfFilled{Registry: testreg.New(t), dir: t.TempDir()}
	added := h.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	h.layer = added.Layers[0]
	if publish {
		other, stop := start(t, t.TempDir(), 0)
		if _, err := other.Publish(t.Context(), h.Ref("app", "v1")); err != nil {
			t.Fatal(err)
		}
		stop()
	}
	g := newGate(n)
	f, stop := startFilling(t, h.dir, image.Trust{Referrers: true}, g)
	if _, err := f.AddLayer(t.Context(), image.LayerRequest{Ref: h.Ref("app", "v1"), Digest: h.layer.Digest.String(), ChainID: digest.FromString("x").String()}); err != nil {
		t.Fatal(err)
	}
	<-g.reached
	if s := f.state(h.layer.Digest); s.State != image.FillRunning || s.Done == 0 {
		t.Errorf("state %+v", s)
	}
	f.Cancel()
	stop()
	h.ResetCounts()
	return h
}

// goOn starts the node again, and waits until the layer is verified, which nobody has
// to ask for. It tells how many bytes were asked for.
func (h *halfFilled) goOn(t *testing.T) int64 {
	t.Helper()
	n, _ := startFilling(t, h.dir, image.Trust{Referrers: true}, nil)
	n.event(image.EventVerified)
	return h.Count(testreg.Match{Digest: h.layer.Digest}).Bytes
}

// TestFillResumes: after a restart it goes on where it was, and does not ask again for
// what was read before that.
func TestFillResumes(t *testing.T) {
	z := newZstdBuilder(t)
	for i := range 6 {
		z.add(string(rune('a'+i)), random("piece", 700<<10), random(string(rune('a'+i)), 100<<10))
	}
	z.sameTimes()
	lazy, _ := bigLayer(t)
	files := []file{{name: "a", body: noise(t, 5<<20)}, {name: "b/"}, {name: "b/c", body: noise(t, 1<<20)}}
	plain := tarOf(t, files...)
	for name, tt := range map[string]struct {
		layer   testreg.Layer
		n       int // of the chunk where it is stopped
		publish bool
	}{
		"estargz":      {lazy, 4, false},
		"zstd:chunked": {z.finish(false), 8, false},
		"tar":          {testreg.Layer{Data: plain, DiffID: digest.FromBytes(plain), MediaType: ocispec.MediaTypeImageLayer}, 4, true},
		"gzip":         {gzipLayer(t, files...), 4, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := fillHalf(t, tt.layer, tt.n, tt.publish)
			if got := h.goOn(t); got > h.layer.Size*9/10 {
				t.Errorf("%d of %d bytes were asked for again", got, h.layer.Size)
			}
		})
	}
}

// TestFillFromDamagedState: what an earlier run left is not believed. If it is of no
// use, or leads to something wrong, the layer is read from its start.
func TestFillFromDamagedState(t *testing.T) {
	change := func(key string, by func(any) any) func(state map[string]any) {
		return func(state map[string]any) { state[key] = by(state[key]) }
	}
	for name, damage := range map[string]func(map[string]any){
		"no state of a hash": change("tarHash", func(any) any { return []byte("x") }),
		"another hash":       func(s map[string]any) { s["tarHash"] = s["blobHash"] },
		"another place":      change("in", func(v any) any { return v.(float64) + 7 }),
		"no place":           change("in", func(any) any { return 1e15 }),
		"below zero":         change("at", func(any) any { return -5 }),
		"further in the tar": change("at", func(v any) any { return v.(float64) + 512 }),
		"no entries":         nil,
		"no record":          func(s map[string]any) { clear(s); s["in"] = "x" },
	} {
		t.Run(name, func(t *testing.T) {
			layer, _ := bigLayer(t)
			h := fillHalf(t, layer, 4, false)
			if damage == nil {
				files, err := filepath.Glob(filepath.Join(h.dir, "index", "fill", "*.entries"))
				if err != nil || len(files) != 1 {
					t.Fatal(files, err)
				}
				if err := os.Truncate(files[0], 10); err != nil {
					t.Fatal(err)
				}
			} else {
				h.edit(t, damage)
			}
			h.goOn(t)
		})
	}
}

// edit changes the record of how far a layer was read.
func (h *halfFilled) edit(t *testing.T, damage func(map[string]any)) {
	t.Helper()
	store, err := chunkstore.Open(t.Context(), chunkstore.Options{Dir: filepath.Join(h.dir, "chunks")})
	if err != nil {
		t.Fatal(err)
	}
	changed := map[string][]byte{}
	err = store.Records().Walk(t.Context(), "fillstate/", func(key string, val []byte) error {
		state := map[string]any{}
		if err := json.Unmarshal(val, &state); err != nil {
			return err
		}
		damage(state)
		text, err := json.Marshal(state)
		changed[key] = text
		return err
	})
	if err != nil || len(changed) != 1 {
		t.Fatalf("%d records, %v", len(changed), err)
	}
	for key, text := range changed {
		if err := store.Records().Put(t.Context(), key, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestForgedIndexIsFoundOut: an index from elsewhere, with the digest of every chunk
// right and a name wrong. The tree that was attached by it is given up, and the layer
// read whole when it is attached again.
func TestForgedIndexIsFoundOut(t *testing.T) {
	s := testreg.New(t)
	body := noise(t, 300_000)
	layer := gzipLayer(t, file{name: "a", body: body})
	added := s.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	addIndex(t, s, added, image.ForgeIndex(t, layer.Data, layer.DiffID, &estargz.Entry{
		Name: "evil", Type: estargz.TypeReg, Size: int64(len(body)), Offset: 512, ChunkDigest: estargz.Sum([]byte(body)), HasChunkDigest: true,
	}))
	g := newGate(1)
	n, _ := startFilling(t, t.TempDir(), image.Trust{Referrers: true}, g)
	tr := n.tree(t, "image/"+s.Ref("app", "v1"))
	check(t, tr, map[string]string{"evil": body})
	<-g.reached
	g.release()
	if e := n.event(image.EventPoisoned); !strings.Contains(e.Text, "/a is in the tar, but not in the index") || !strings.Contains(e.Text, "/evil is in the index") {
		t.Errorf("%+v", e)
	}
	if _, err := tr.Lookup(1, []byte("evil")); !fserr.Is(err, fserr.Corrupt) {
		t.Errorf("still served: %v", err)
	}
	n.until("the index is given up", func() bool { return n.refused(t) != "" })
	check(t, n.tree(t, "image/"+s.Ref("app", "v1")), map[string]string{"a": body, "evil": ""})
}

// TestFillWithoutRoom: a cache that is full is no reason not to verify.
func TestFillWithoutRoom(t *testing.T) {
	reg := testreg.New(t)
	layer, _ := bigLayer(t)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	n, _ := startFillingWith(t, t.TempDir(), nil, func(o *image.Options) { o.Fill.Room = func(int64) bool { return false } })
	n.tree(t, "image/"+reg.Ref("app", "v1"))
	n.event(image.EventVerified)
	if st := n.FillStats(); st.Kept != 0 || st.Verified != 1 {
		t.Errorf("%+v", st)
	}
}

// brokenRecords cannot be written while broken.
type brokenRecords struct {
	image.Records
	broken atomic.Bool
	tries  atomic.Int64
}

func (r *brokenRecords) Put(ctx context.Context, key string, val []byte) error {
	if strings.HasPrefix(key, "fill") && r.broken.Load() {
		r.tries.Add(1)
		return fserr.Newf(fserr.NoSpace, "put", key, "full")
	}
	return r.Records.Put(ctx, key, val)
}

// TestFillOnFullDisk: nothing is concluded from a disk that is full, and it is tried
// again.
func TestFillOnFullDisk(t *testing.T) {
	reg := testreg.New(t)
	layer, want := bigLayer(t)
	added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	r := new(brokenRecords)
	r.broken.Store(true)
	n, _ := startFillingWith(t, t.TempDir(), nil, func(o *image.Options) { r.Records, o.Records = o.Records, r })
	tr := n.tree(t, "image/"+reg.Ref("app", "v1"))
	n.until("it was tried again", func() bool { return r.tries.Load() > 2 })
	n.until("it says why it waits", func() bool { return strings.Contains(n.state(added.Layers[0].Digest).Reason, "full") })
	check(t, tr, want)
	r.broken.Store(false)
	n.event(image.EventVerified)
}

// TestFillWithoutSource: a source that is away is waited for.
func TestFillWithoutSource(t *testing.T) {
	reg := testreg.New(t)
	layer, want := bigLayer(t)
	added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	g := newGate(2)
	n, _ := startFilling(t, t.TempDir(), image.Trust{}, g)
	tr := n.tree(t, "image/"+reg.Ref("app", "v1"))
	<-g.reached
	reg.Always(testreg.Match{Digest: added.Layers[0].Digest}, testreg.Status(503))
	g.release()
	n.until("it waits for its source", func() bool {
		s := n.state(added.Layers[0].Digest)
		return s.State == image.FillWaiting && s.Reason != ""
	})
	reg.Heal()
	n.event(image.EventVerified)
	check(t, tr, want)
}

// TestFillLeavesNothing: what is only needed while a layer is read is removed then, or
// by the next start.
func TestFillLeavesNothing(t *testing.T) {
	layer, _ := bigLayer(t)
	h := fillHalf(t, layer, 4, false)
	fill := filepath.Join(h.dir, "index", "fill")
	if err := os.WriteFile(filepath.Join(fill, "old.made.tree"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n, _ := startFilling(t, h.dir, image.Trust{}, nil)
	n.event(image.EventVerified)
	n.until("all is removed", func() bool {
		left, err := os.ReadDir(fill)
		return err == nil && len(left) == 0
	})
}

// TestFillForgetsOldState: what nobody went on with for long is removed.
func TestFillForgetsOldState(t *testing.T) {
	layer, _ := bigLayer(t)
	h := fillHalf(t, layer, 4, false)
	files, err := filepath.Glob(filepath.Join(h.dir, "index", "fill", "*.entries"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	old := time.Now().Add(-30 * 24 * time.Hour)
	if err := os.Chtimes(files[0], old, old); err != nil {
		t.Fatal(err)
	}
	if got := h.goOn(t); got < h.layer.Size {
		t.Errorf("%d of %d bytes were asked for: it went on from what was old", got, h.layer.Size)
	}
}

// TestVerifiedOnce: an image that is removed and pulled again is not read again, since
// its layers are what they were.
func TestVerifiedOnce(t *testing.T) {
	reg := testreg.New(t)
	layer, want := bigLayer(t)
	added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	n, _ := startFilling(t, t.TempDir(), image.Trust{}, nil)
	id := digest.FromString("x").String()
	add := image.LayerRequest{Ref: reg.Ref("app", "v1"), Digest: added.Layers[0].Digest.String(), ChainID: id}
	if _, err := n.AddLayer(t.Context(), add); err != nil {
		t.Fatal(err)
	}
	n.event(image.EventVerified)
	if err := n.RemoveChain(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	reg.ResetCounts()
	info, err := n.AddLayer(t.Context(), add)
	if err != nil || info.Fill.State != image.FillVerified {
		t.Errorf("%+v, %v", info.Fill, err)
	}
	check(t, n.tree(t, "chain/"+id), want)
	if got := reg.Count(testreg.Match{Digest: added.Layers[0].Digest}); got.Bytes > 0 {
		t.Errorf("%d bytes were fetched again", got.Bytes)
	}
}
