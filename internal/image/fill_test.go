package image_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/testreg"
	digest "github.com/opencontainers/go-digest"
)

// filling is a node that fills its layers, and what it told of them.
type filling struct {
	*node
	t      testing.TB
	events chan image.Event
	gate   *gate
}

// gate holds up the background where it keeps a chunk, from the n-th on.
type gate struct {
	mu      sync.Mutex
	n       int
	once    sync.Once
	reached chan struct{}
	open    chan struct{}
}

func newGate(n int) *gate {
	return &gate{n: n, reached: make(chan struct{}), open: make(chan struct{})}
}

// release opens the gate.
func (g *gate) release() { g.once.Do(func() { close(g.open) }) }

func (g *gate) room(int64) bool {
	g.mu.Lock()
	g.n--
	n := g.n
	g.mu.Unlock()
	if n == 0 {
		close(g.reached)
	}
	if n <= 0 {
		<-g.open
	}
	return true
}

// startFilling starts a node whose background does not wait. g may be nil.
func startFilling(t testing.TB, dir string, trust image.Trust, g *gate) (*filling, func()) {
	t.Helper()
	return startFillingWith(t, dir, g, func(o *image.Options) { o.Trust = trust })
}

func startFillingWith(t testing.TB, dir string, g *gate, edit func(*image.Options)) (*filling, func()) {
	t.Helper()
	f := &filling{t: t, events: make(chan image.Event, 64), gate: g}
	o := image.Fill{
		Enabled: true, Delay: time.Millisecond, Share: 100, Piece: 64 << 10, Checkpoint: 128 << 10, Retry: time.Millisecond,
		Event: func(e image.Event) { f.events <- e },
	}
	if g != nil {
		o.Room = g.room
	}
	var stop func()
	f.node, stop = startWith(t, dir, 0, func(opts *image.Options) {
		opts.Fill = o
		edit(opts)
	})
	if g == nil {
		return f, stop
	}
	t.Cleanup(g.release) // before the node's own, or it would wait for ever
	return f, func() { g.release(); stop() }
}

// event waits for the next one, which must be of a kind.
func (f *filling) event(kind string) image.Event {
	f.t.Helper()
	select {
	case e := <-f.events:
		if e.Kind != kind {
			f.t.Fatalf("event %+v, want one that is %s", e, kind)
		}
		return e
	case <-time.After(time.Minute):
		f.t.Fatalf("nothing happened; layers: %+v", f.Layers())
		return image.Event{}
	}
}

func (f *filling) state(d digest.Digest) image.FillInfo {
	for _, l := range f.Layers() {
		if l.Digest == d.String() {
			return l.Fill
		}
	}
	return image.FillInfo{}
}

// until polls, for what has no event.
func (f *filling) until(what string, fn func() bool) {
	f.t.Helper()
	for end := time.Now().Add(time.Minute); !fn(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("%s: never; layers: %+v", what, f.Layers())
		}
	}
}

// sameTimes has the table of contents say the times of the tar.
func (b *zstdBuilder) sameTimes() {
	for _, e := range b.entries {
		if e["modtime"] != nil {
			e["modtime"] = "1970-01-01T00:00:00Z"
		}
	}
}

// bigLayer is a lazy layer of several members, links and names that repeat.
func bigLayer(t testing.TB) (testreg.Layer, map[string]string) {
	t.Helper()
	want := map[string]string{"a": random("a", 900<<10), "d/b": random("b", 300<<10), "d/c": "tiny", "z": random("z", 2<<20)}
	return lazyLayer(t,
		file{name: "a", body: want["a"]}, file{name: "d/"}, file{name: "d/b", body: want["d/b"]},
		file{name: "d/c", body: "tiny"}, file{name: "d/l", link: "../a"}, file{name: "d/.wh.gone"},
		file{name: "z", body: want["z"]}), want
}

// TestFill: whatever a layer's format, all of it is brought, verified, and served
// without its source from then on.
func TestFill(t *testing.T) {
	lazy, want := bigLayer(t)
	z := newZstdBuilder(t)
	z.add("a", strings.Repeat("alpha", 1000), 5000, random("a", 200<<10))
	z.add("z", random("z", 2<<20), random("y", 1<<20))
	z.sameTimes()
	zwant := map[string]string{"a": strings.Repeat("alpha", 1000) + strings.Repeat("\x00", 5000) + random("a", 200<<10), "z": random("z", 2<<20) + random("y", 1<<20)}
	for name, tt := range map[string]struct {
		layer testreg.Layer
		want  map[string]string
	}{
		"estargz":      {lazy, want},
		"zstd:chunked": {z.finish(true), zwant},
		"gzip":         {gzipLayer(t, file{name: "a", body: want["a"]}), map[string]string{"a": want["a"]}},
	} {
		t.Run(name, func(t *testing.T) {
			reg := testreg.New(t)
			added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{tt.layer}})
			n, _ := startFilling(t, t.TempDir(), image.Trust{}, nil)
			tr := n.tree(t, "image/"+reg.Ref("app", "v1"))
			if name != "gzip" { // which is read whole at once
				n.event(image.EventVerified)
			}
			if s := n.state(added.Layers[0].Digest); s.State != image.FillVerified {
				t.Errorf("state %+v", s)
			}
			reg.RemoveBlob(added.Layers[0].Digest)
			check(t, tr, tt.want)
			if st := n.FillStats(); name != "gzip" && (st.Bytes < added.Layers[0].Size || st.Verified != 1 || st.Kept == 0) {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestFillForeignIndexes: layers that are reached through an index from outside are
// held against it.
func TestFillForeignIndexes(t *testing.T) {
	for _, layer := range []string{"layer.tar.gz", "members.tar.gz", ""} {
		s := goldenSOCI(t, "v2", layer, map[string]string{"layer.tar.gz": "layer.ztoc.gz", "members.tar.gz": "members.ztoc.gz", "": "plain.ztoc.gz"}[layer])
		n, _ := startFilling(t, t.TempDir(), image.Trust{SOCI: true}, nil)
		tr := n.tree(t, s.ref())
		if got := n.format(t); got != "soci" {
			t.Fatalf("opened as %s", got)
		}
		n.event(image.EventVerified)
		s.RemoveBlob(s.layer.Digest)
		check(t, tr, s.want)
	}
}

// TestPoison: a DiffID that is not that of the tar ends the tree that was attached by
// it, and no other.
func TestPoison(t *testing.T) {
	reg := testreg.New(t)
	layer, want := bigLayer(t)
	good := reg.AddImage("app", "good", testreg.Image{Layers: []testreg.Layer{layer}})
	layer.DiffID = digest.FromString("something else")
	bad := reg.AddImage("app", "bad", testreg.Image{Layers: []testreg.Layer{layer}})
	dir := t.TempDir()
	g := newGate(1)
	n, stop := startFilling(t, dir, image.Trust{}, g)
	goodTree, badTree := n.tree(t, "image/"+reg.Ref("app", "good")), n.tree(t, "image/"+reg.Ref("app", "bad"))
	check(t, badTree, want)
	chain := digest.FromString("bad chain").String()
	add := image.LayerRequest{Ref: reg.Ref("app", "bad"), Manifest: bad.Descriptor.Digest.String(), Digest: bad.Layers[0].Digest.String(), ChainID: chain}
	if _, err := n.AddLayer(t.Context(), add); err != nil {
		t.Fatal(err)
	}
	g.release()
	n.event(image.EventVerified)
	if e := n.event(image.EventPoisoned); !strings.Contains(e.Text, "diff ID") || e.Layer != good.Layers[0].Digest.String() {
		t.Errorf("%+v", e)
	}
	corrupt := func(err error) {
		t.Helper()
		if !fserr.Is(err, fserr.Corrupt) || !strings.Contains(err.Error(), "poisoned") {
			t.Errorf("%v, want a poisoned layer", err)
		}
	}
	n.until("the tree is poisoned", func() bool { _, err := badTree.Lookup(1, []byte("a")); return err != nil })
	ino, err := goodTree.Lookup(1, []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = badTree.TryReadAt(ino, make([]byte, 10), 0)
	corrupt(err)
	_, err = badTree.ReadAt(t.Context(), ino, make([]byte, 10), 0)
	corrupt(err)
	check(t, goodTree, want)
	if s := n.FillStats(); s.Poisoned != 1 {
		t.Errorf("%+v", s)
	}
	refused := func(n *node) {
		t.Helper()
		for _, aname := range []string{"image/" + reg.Ref("app", "bad"), "chain/" + chain} {
			_, _, err := n.Open(t.Context(), aname)
			corrupt(err)
		}
		_, err := n.AddLayer(t.Context(), add)
		corrupt(err)
		check(t, n.tree(t, "image/"+reg.Ref("app", "good")), want)
	}
	n.until("the chain is marked", func() bool { _, err := n.AddLayer(t.Context(), add); return err != nil })
	refused(n.node)
	stop()
	again, _ := startFilling(t, dir, image.Trust{}, nil)
	refused(again.node)
}

// TestForgedTOC: a table of contents that the manifest vouches for, with the digests
// of all chunks right, and something else in it that is not in the tar. When the
// image is removed, that is forgotten.
func TestForgedTOC(t *testing.T) {
	reg := testreg.New(t)
	added := reg.AddImage("app", "forged", testreg.Image{Layers: []testreg.Layer{forgeTOC(t, `"mode":420`, `"mode":493`)}})
	n, _ := startFilling(t, t.TempDir(), image.Trust{}, nil)
	ref := reg.Ref("app", "forged")
	add := image.LayerRequest{Ref: ref, Manifest: added.Descriptor.Digest.String(), Digest: added.Layers[0].Digest.String(), ChainID: digest.FromString("x").String()}
	for range 2 {
		if info, err := n.AddLayer(t.Context(), add); err != nil || !info.Lazy {
			t.Fatalf("%+v, %v", info, err)
		}
		if e := n.event(image.EventPoisoned); !strings.Contains(e.Text, "mode") {
			t.Errorf("%+v", e)
		}
		n.until("the layer is refused", func() bool { _, err := n.AddLayer(t.Context(), add); return fserr.Is(err, fserr.Corrupt) })
		if _, _, err := n.Open(t.Context(), "chain/"+add.ChainID); !fserr.Is(err, fserr.Corrupt) {
			t.Errorf("attached: %v", err)
		}
		if s := n.state(added.Layers[0].Digest); s.State != image.FillPoisoned || s.Reason == "" {
			t.Errorf("state %+v", s)
		}
		n.until("the job is over", func() bool { return n.RemoveChain(t.Context(), add.ChainID) == nil && n.FillStats().Poisoned == 0 })
	}
}

// TestFillIsCancelled: nothing more is asked for when the image is removed, or nobody
// uses it any more.
func TestFillIsCancelled(t *testing.T) {
	for name, chain := range map[string]bool{"chain": true, "tree": false} {
		t.Run(name, func(t *testing.T) {
			reg := testreg.New(t)
			layer, _ := bigLayer(t)
			added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
			g := newGate(1)
			n, stop := startFilling(t, t.TempDir(), image.Trust{}, g)
			id := digest.FromString("x").String()
			end := func() error { return n.RemoveChain(t.Context(), id) }
			if chain {
				if _, err := n.AddLayer(t.Context(), image.LayerRequest{Ref: reg.Ref("app", "v1"), Digest: added.Layers[0].Digest.String(), ChainID: id}); err != nil {
					t.Fatal(err)
				}
			} else {
				_, release, err := n.Open(t.Context(), "image/"+reg.Ref("app", "v1"))
				if err != nil {
					t.Fatal(err)
				}
				end = func() error { release(); return nil }
			}
			<-g.reached
			before := n.FillStats().Bytes
			if err := end(); err != nil {
				t.Fatal(err)
			}
			n.until("nothing is filled", func() bool { return n.state(added.Layers[0].Digest).State == image.FillOff })
			stop()
			if got := n.FillStats().Bytes; got != before {
				t.Errorf("%d bytes more", got-before)
			}
			select {
			case e := <-n.events:
				t.Errorf("event %+v", e)
			default:
			}
		})
	}
}

// TestFillWrongBytes: a source that serves something else is no fault of the image:
// it is asked again.
func TestFillWrongBytes(t *testing.T) {
	reg := testreg.New(t)
	layer, want := bigLayer(t)
	added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	g := newGate(1)
	n, _ := startFilling(t, t.TempDir(), image.Trust{}, g)
	ref := "image/" + reg.Ref("app", "v1")
	_, release, err := n.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	<-g.reached
	reg.Always(testreg.Match{Digest: added.Layers[0].Digest}, testreg.WrongBytes())
	g.release()
	n.event(image.EventUnverified)
	if s := n.state(added.Layers[0].Digest); s.State != image.FillFailed || s.Reason == "" {
		t.Errorf("state %+v", s)
	}
	reg.Heal()
	tr := n.tree(t, ref) // asks anew
	n.event(image.EventVerified)
	check(t, tr, want)
}
