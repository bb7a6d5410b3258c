package image_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/testreg"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// request asks for the lowest layer of an image by the chain ID that its config leads to.
func request(reg *testreg.Registry, name string, added testreg.Added, diffID digest.Digest) image.LayerRequest {
	return image.LayerRequest{
		Ref: reg.Ref(name, "v1"), Manifest: added.Descriptor.Digest.String(), Digest: added.Layers[0].Digest.String(),
		ChainID: identity.ChainID([]digest.Digest{diffID}).String(), DiffID: diffID.String(),
	}
}

// TestChainIsNotPoisoned: an image that claims the diff ID of another one for bytes of
// its own does not reach who pulls the other, whichever background work is on, also when
// the first pull asks for its chain to be checked before.
func TestChainIsNotPoisoned(t *testing.T) {
	genuine := lazyLayer(t, file{name: "a", body: "genuine"})
	evil := lazyLayer(t, file{name: "a", body: "forged"})
	evil.DiffID = genuine.DiffID
	for _, background := range []bool{false, true} {
		t.Run(fmt.Sprint("background ", background), func(t *testing.T) {
			reg := testreg.New(t)
			good := reg.AddImage("good", "v1", testreg.Image{Layers: []testreg.Layer{genuine}})
			bad := reg.AddImage("bad", "v1", testreg.Image{Layers: []testreg.Layer{evil}})
			n, _ := startWith(t, t.TempDir(), 0, func(o *image.Options) { o.Fill.Enabled = background })
			ctx := t.Context()
			if err := n.CheckImage(ctx, reg.Ref("bad", "v1"), bad.Descriptor.Digest.String()); err != nil {
				t.Errorf("a chain that nobody has: %v", err)
			}
			if _, err := n.AddLayer(ctx, request(reg, "bad", bad, genuine.DiffID)); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				_, err := n.AddLayer(ctx, request(reg, "good", good, genuine.DiffID))
				if !fserr.Is(err, fserr.Corrupt) || !strings.Contains(err.Error(), "poisoned") {
					t.Errorf("%v, want a poisoned layer", err)
				}
				if err := n.CheckImage(ctx, reg.Ref("good", "v1"), good.Descriptor.Digest.String()); !fserr.Is(err, fserr.Corrupt) {
					t.Errorf("asked before: %v", err)
				}
			}
			if _, _, err := n.Open(ctx, "chain/"+request(reg, "bad", bad, genuine.DiffID).ChainID); !fserr.Is(err, fserr.Corrupt) {
				t.Errorf("the poisoned chain: %v", err)
			}
			if err := n.RemoveChain(ctx, request(reg, "bad", bad, genuine.DiffID).ChainID); err != nil {
				t.Fatal(err)
			}
			if _, err := n.AddLayer(ctx, request(reg, "good", good, genuine.DiffID)); err != nil {
				t.Fatalf("after the other was removed: %v", err)
			}
			check(t, n.tree(t, "chain/"+request(reg, "good", good, genuine.DiffID).ChainID), map[string]string{"a": "genuine"})
		})
	}
}

// TestChainIsShared: another compression of the same tar shares the chain, once what is
// served was verified, and is not fetched itself.
func TestChainIsShared(t *testing.T) {
	files := []file{{name: "a", body: "same"}}
	one, other := zstdLayer(t, files...), gzipLayer(t, files...)
	reg := testreg.New(t)
	first := reg.AddImage("one", "v1", testreg.Image{Layers: []testreg.Layer{one}})
	second := reg.AddImage("other", "v1", testreg.Image{Layers: []testreg.Layer{other}})
	n, _ := start(t, t.TempDir(), 0)
	for name, added := range map[string]testreg.Added{"one": first, "other": second} {
		if err := n.CheckImage(t.Context(), reg.Ref(name, "v1"), added.Descriptor.Digest.String()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.AddLayer(t.Context(), request(reg, "one", first, one.DiffID)); err != nil {
		t.Fatal(err)
	}
	info, err := n.AddLayer(t.Context(), request(reg, "other", second, one.DiffID))
	if err != nil || info.Digest != first.Layers[0].Digest.String() {
		t.Errorf("%+v, %v", info, err)
	}
	if got := reg.Requests(testreg.Match{Digest: second.Layers[0].Digest}); len(got) > 0 {
		t.Errorf("the second blob was asked for %d times", len(got))
	}
}

// TestStrict: nothing is used before it was read to its end.
func TestStrict(t *testing.T) {
	good := lazyLayer(t, file{name: "a", body: "genuine"})
	bad := lazyLayer(t, file{name: "a", body: "forged"})
	bad.DiffID = good.DiffID
	reg := testreg.New(t)
	goodImage := reg.AddImage("good", "v1", testreg.Image{Layers: []testreg.Layer{good}})
	badImage := reg.AddImage("bad", "v1", testreg.Image{Layers: []testreg.Layer{bad}})
	n, _ := startWith(t, t.TempDir(), 0, func(o *image.Options) { o.Strict = true })
	if _, err := n.AddLayer(t.Context(), request(reg, "bad", badImage, good.DiffID)); !fserr.Is(err, fserr.Corrupt) {
		t.Errorf("a layer that is not what its image claims: %v", err)
	}
	if _, _, err := n.Open(t.Context(), "image/"+reg.Ref("bad", "v1")); !fserr.Is(err, fserr.Corrupt) {
		t.Errorf("its image: %v", err)
	}
	if _, err := n.AddLayer(t.Context(), request(reg, "good", goodImage, good.DiffID)); err != nil {
		t.Fatal(err)
	}
	check(t, n.tree(t, "image/"+reg.Ref("good", "v1")), map[string]string{"a": "genuine"})
	for _, l := range n.Layers() {
		if l.Digest == goodImage.Layers[0].Digest.String() && l.Fill.State != image.FillVerified {
			t.Errorf("%+v", l)
		}
	}
}

// TestEncryptedLayerIsRefused: the reason is told.
func TestEncryptedLayerIsRefused(t *testing.T) {
	reg := testreg.New(t)
	layer := gzipLayer(t, file{name: "a", body: "secret"})
	layer.MediaType = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
	added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	var events []image.Event
	n, _ := startWith(t, t.TempDir(), 0, func(o *image.Options) { o.Fill.Event = func(e image.Event) { events = append(events, e) } })
	if _, err := n.AddLayer(t.Context(), request(reg, "app", added, layer.DiffID)); !fserr.Is(err, fserr.Unsupported) {
		t.Errorf("%v", err)
	}
	if len(events) != 1 || events[0].Kind != image.EventRefused || !strings.Contains(events[0].Text, "encrypted") || events[0].Layer != added.Layers[0].Digest.String() {
		t.Errorf("%+v", events)
	}
}
