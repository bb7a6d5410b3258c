package image_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/layout"
	"github.com/nineply/nineply/internal/testreg"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// shared is an image of a gzip layer, a plain tar, a lazy layer and a zstd layer,
// in a registry that several nodes use.
type shared struct {
	*testreg.Registry
	added testreg.Added
	want  map[string]string
}

func newShared(t *testing.T) *shared {
	t.Helper()
	reg := testreg.New(t)
	body := map[string]string{"a": noise(t, 5<<20), "b": noise(t, 6<<20), "c": "lazy", "d": "zstd", "e": "tiny"}
	plain := tarOf(t, file{name: "b", body: body["b"]})
	s := &shared{Registry: reg, want: body}
	s.added = reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{
		gzipLayer(t, file{name: "a", body: body["a"]}, file{name: "e", body: body["e"]}),
		{Data: plain, MediaType: ocispec.MediaTypeImageLayer, DiffID: digest.FromBytes(plain)},
		lazyLayer(t, file{name: "c", body: body["c"]}),
		zstdLayer(t, file{name: "d", body: body["d"]}),
	}})
	return s
}

func (s *shared) ref() string { return s.Ref("app", "v1") }

// push has a node of its own publish the index.
func (s *shared) push(t *testing.T) *image.Published {
	t.Helper()
	n, stop := start(t, t.TempDir(), 0)
	out, err := n.Publish(t.Context(), s.ref())
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Layers) != 4 || out.Layers[0].Size == 0 || out.Layers[1].Size == 0 || out.Layers[2].Reason == "" || out.Layers[3].Reason == "" {
		t.Errorf("published %+v", out)
	}
	if again, err := n.Publish(t.Context(), s.ref()); err != nil || again.Digest != out.Digest {
		t.Errorf("pushed again: %+v, %v", again, err)
	}
	list, err := n.Indexes(t.Context(), s.ref())
	if err != nil || len(list) != 2 || list[0].Origin != "made here" || list[0].Size == 0 {
		t.Errorf("indexes %+v, %v", list, err)
	}
	stop()
	return out
}

// checkLazy reads a tiny file and then everything, and fails if that took more of the
// layers that have indexes than it should.
func (s *shared) checkLazy(t *testing.T, n *node, lazy bool) {
	t.Helper()
	before := s.Count(testreg.Match{Digest: s.added.Layers[0].Digest})
	tr := n.tree(t, "image/"+s.ref())
	check(t, tr, map[string]string{"e": "tiny"})
	after := s.Count(testreg.Match{Digest: s.added.Layers[0].Digest})
	if got := after.Bytes - before.Bytes; (got < s.added.Layers[0].Size*3/4) != lazy {
		t.Errorf("%d of %d bytes fetched for a tiny file", got, s.added.Layers[0].Size)
	}
	check(t, tr, s.want)
}

func TestPublishedIndex(t *testing.T) {
	for _, tt := range []struct {
		name string
		tag  bool // the registry has no API for referrers
	}{{"API", false}, {"tag", true}} {
		t.Run(tt.name, func(t *testing.T) {
			s := newShared(t)
			if tt.tag {
				s.Always(testreg.Match{Path: "/referrers/"}, func(x testreg.Exchange) { x.W.WriteHeader(http.StatusNotFound) })
			}
			out := s.push(t)

			off, _ := start(t, t.TempDir(), 0)
			s.checkLazy(t, off, false)

			trusting, _ := startTrusting(t, t.TempDir(), 0, image.Trust{Referrers: true})
			s.checkLazy(t, trusting, true)

			pinned, _ := startTrusting(t, t.TempDir(), 0, image.Trust{Pins: []digest.Digest{digest.Digest(out.Digest)}})
			s.checkLazy(t, pinned, true)
		})
	}
}

func TestPullIndex(t *testing.T) {
	s := newShared(t)
	n, _ := start(t, t.TempDir(), 0)
	if _, err := n.PullIndex(t.Context(), s.ref(), ""); !fserr.Is(err, fserr.NotExist) {
		t.Fatalf("before one was pushed: %v", err)
	}
	out := s.push(t)
	got, err := n.PullIndex(t.Context(), s.ref(), out.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != out.Digest || got.Layers[0].Size == 0 || got.Layers[2].Reason == "" {
		t.Errorf("pulled %+v", got)
	}
	s.checkLazy(t, n, true)
	if _, err := n.RemoveIndexes(t.Context(), s.ref()); !fserr.Is(err, fserr.Busy) {
		t.Errorf("removing what is in use: %v", err)
	}
	list, err := n.Indexes(t.Context(), "")
	if err != nil || len(list) != 2 || !strings.Contains(list[0].Origin, out.Digest) {
		t.Errorf("indexes %+v, %v", list, err)
	}
}

func TestRemoveIndexes(t *testing.T) {
	s := newShared(t)
	s.push(t)
	n, _ := start(t, t.TempDir(), 0)
	if _, err := n.PullIndex(t.Context(), s.ref(), ""); err != nil {
		t.Fatal(err)
	}
	n.visit(t, "image/"+s.ref(), map[string]string{"e": "tiny"})
	if removed, err := n.RemoveIndexes(t.Context(), s.ref()); err != nil || removed != 2 {
		t.Errorf("%d removed, %v", removed, err)
	}
	if list, err := n.Indexes(t.Context(), ""); err != nil || len(list) != 0 {
		t.Errorf("left: %+v, %v", list, err)
	}
	s.checkLazy(t, n, false)
}

// TestForgedIndex: an index that says something wrong of a layer's bytes gives an error,
// and is not used again.
func TestForgedIndex(t *testing.T) {
	s := testreg.New(t)
	body := noise(t, 300_000)
	layer := gzipLayer(t, file{name: "a", body: body})
	added := s.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	ref := s.Ref("app", "v1")
	packed := image.ForgeIndex(t, layer.Data, layer.DiffID, &estargz.Entry{
		Name: "a", Type: estargz.TypeReg, Size: int64(len(body)), Offset: 512, ChunkDigest: estargz.Sum([]byte("something else")), HasChunkDigest: true,
	})
	addIndex(t, s, added, packed)

	n, _ := startTrusting(t, t.TempDir(), 0, image.Trust{Referrers: true})
	tr, release, err := n.Open(t.Context(), "image/"+ref)
	if err != nil {
		t.Fatal(err)
	}
	if l := n.Layers()[0]; !strings.HasPrefix(l.Origin, "index sha256:") {
		t.Errorf("%+v", l)
	}
	if got, err := readFile(t.Context(), tr, "a"); fserr.KindOf(err) != fserr.Corrupt {
		t.Fatalf("%d bytes, right ones: %v, %v", len(got), got == body, err)
	}
	for n.refused(t) == "" { // it is given up in the background
		runtime.Gosched()
	}
	release()
	check(t, n.tree(t, "image/"+ref), map[string]string{"a": body})
	if l := n.Layers()[0]; l.Origin != "" || !strings.Contains(l.Reason, "wrong bytes") {
		t.Errorf("%+v", l)
	}
}

// TestIndexOfAnotherLayer: an index that is not for the image or the layer is no index.
func TestIndexOfAnotherLayer(t *testing.T) {
	body := noise(t, 300_000)
	layer, other := gzipLayer(t, file{name: "a", body: body}), gzipLayer(t, file{name: "a", body: "x"})
	entry := func(size int) *estargz.Entry {
		return &estargz.Entry{Name: "a", Type: estargz.TypeReg, Size: int64(size), Offset: 512, ChunkDigest: estargz.Sum([]byte(body)), HasChunkDigest: true}
	}
	for name, packed := range map[string][]byte{
		"another layer":   image.ForgeIndex(t, other.Data, other.DiffID, entry(1)),
		"another diff ID": image.ForgeIndex(t, layer.Data, other.DiffID, entry(len(body))),
		"too much":        image.ForgeIndex(t, layer.Data, layer.DiffID, entry(len(body)+1<<20)),
		"noise":           []byte(noise(t, 1000)),
		"nothing":         {},
	} {
		t.Run(name, func(t *testing.T) {
			reg := testreg.New(t)
			added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
			addIndex(t, reg, added, packed)
			n, _ := startTrusting(t, t.TempDir(), 0, image.Trust{Referrers: true})
			if _, err := n.PullIndex(t.Context(), reg.Ref("app", "v1"), ""); !fserr.Is(err, fserr.Unsupported) {
				t.Errorf("pulled: %v", err)
			}
			check(t, n.tree(t, "image/"+reg.Ref("app", "v1")), map[string]string{"a": body})
			if l := n.Layers()[0]; l.Format != "gzip+index" || l.Origin != "" {
				t.Errorf("%+v", l)
			}
		})
	}
}

// addIndex has an index of the first layer refer to the image.
func addIndex(t *testing.T, reg *testreg.Registry, added testreg.Added, packed []byte) {
	t.Helper()
	l := reg.AddBlobTo("app", packed)
	l.MediaType = image.IndexMediaType
	l.Annotations = map[string]string{"io.github.nineply.layer.digest": added.Layers[0].Digest.String()}
	data, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: image.ArtifactType,
		Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{l}, Subject: &added.Descriptor,
	})
	if err != nil {
		t.Fatal(err)
	}
	reg.AddManifest("app", "", ocispec.MediaTypeImageManifest, data)
}

// toLayout copies an image of a registry's into a layout.
func toLayout(t *testing.T, reg *testreg.Registry, added testreg.Added, ref string) {
	t.Helper()
	p, err := layout.New().Pusher(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range append([]ocispec.Descriptor{added.Config}, added.Layers...) {
		data, ok := reg.Blob("app", d.Digest)
		if !ok {
			t.Fatalf("no blob %s", d.Digest)
		}
		if err := p.PushBlob(t.Context(), d, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.PushManifest(t.Context(), "v1", added.Descriptor.MediaType, added.ManifestBytes); err != nil {
		t.Fatal(err)
	}
}

func TestPublishedIndexInLayout(t *testing.T) {
	s := newShared(t)
	ref := source.LayoutPrefix + t.TempDir() + ":v1"
	toLayout(t, s.Registry, s.added, ref)
	n, stop := start(t, t.TempDir(), 0)
	out, err := n.Publish(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	n, _ = start(t, t.TempDir(), 0)
	got, err := n.PullIndex(t.Context(), ref, "")
	if err != nil || got.Digest != out.Digest {
		t.Fatalf("pulled %+v, %v", got, err)
	}
	check(t, n.tree(t, "image/"+ref), s.want)
	if list, err := n.Indexes(t.Context(), ref); err != nil || len(list) != 2 {
		t.Errorf("indexes %+v, %v", list, err)
	}
}

// TestTrustIsTakenBack: what was used by a configuration that allowed it is not used by
// one that does not; what was pulled by hand is.
func TestTrustIsTakenBack(t *testing.T) {
	s := newShared(t)
	s.push(t)
	dir := t.TempDir()
	n, stop := startTrusting(t, dir, 0, image.Trust{Referrers: true})
	chain := addChain(t, n, s.ref(), s.added)
	n.visit(t, "chain/"+chain, map[string]string{"e": "tiny"})
	stop()
	n, _ = start(t, dir, 0)
	check(t, n.tree(t, "chain/"+chain), s.want)
	check(t, n.tree(t, "image/"+s.ref()), s.want)
	for _, l := range n.Layers() {
		if l.Origin != "" {
			t.Errorf("it is used still: %+v", l)
		}
	}
}
