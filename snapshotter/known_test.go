package snapshotter_test

import (
	"context"
	"maps"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/snapshotter"
)

// claim gives the labels of another image that claims the chain of a layer.
func claim(l testLayer, change map[string]string) []snapshots.Opt {
	labels := maps.Clone(l.labels)
	labels[snapshotter.LabelImageRef] = "registry.test/other:1"
	labels[snapshotter.LabelManifestDigest] = digest.FromString("another manifest").String()
	maps.Copy(labels, change)
	return []snapshots.Opt{snapshots.WithLabels(labels)}
}

// TestKnownChainOfAnotherImage: the backend decides whether a second image may have what
// the first brought; if not, containerd unpacks the layer into a snapshot of its own.
func TestKnownChainOfAnotherImage(t *testing.T) {
	other := digest.FromString("other blob").String()
	for _, tt := range []struct {
		name   string
		change map[string]string
		answer error
		shared bool
		back   string
		code   func(error) bool
	}{
		{name: "the same blob", shared: true},
		{name: "another blob that proves to be the same files", change: map[string]string{snapshotter.LabelLayerDigest: other}, shared: true},
		{name: "the same blob with another table of contents", change: map[string]string{snapshotter.LabelTOCDigest: other}, shared: true},
		{name: "what is there is forged", answer: fserr.New(fserr.Corrupt, "serve", "layer", nil), back: snapshotter.ReasonOtherLayer},
		{name: "what is there has another parent", answer: fserr.New(fserr.Busy, "chain", "x", nil), back: snapshotter.ReasonOtherLayer},
		{name: "it cannot be told", answer: fserr.New(fserr.Unavailable, "registry", "x", nil), back: snapshotter.ReasonUnavailable},
		{name: "this machine fails", answer: fserr.New(fserr.NoSpace, "store", "x", nil), code: errdefs.IsResourceExhausted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			layers := r.b.addImage("a", 2)
			r.pull(layers)
			r.b.mu.Lock()
			r.b.files[other] = map[string]string{}
			r.b.mu.Unlock()
			if tt.answer != nil {
				r.b.setHook(failing("AddLayer", tt.answer))
			}
			before := r.b.calls("AddLayer")
			_, err := r.Prepare(r.ctx, "two/1/extract", "", claim(layers[0], tt.change)...)
			switch {
			case tt.shared && !errdefs.IsAlreadyExists(err):
				t.Errorf("%v, want AlreadyExists", err)
			case tt.back != "" && (err != nil || r.Stats().HandedBack[tt.back] != 1):
				t.Errorf("%v, handed back %v; want %s", err, r.Stats().HandedBack, tt.back)
			case tt.code != nil && !tt.code(err):
				t.Errorf("%v", err)
			}
			if r.b.calls("AddLayer") == before {
				t.Error("the backend was not asked")
			}
			r.b.setHook(nil)
			if tt.back != "" {
				r.commit("two/2/"+layers[0].chain, "two/1/extract")
				r.remove("two/2/" + layers[0].chain)
			}
			r.removeImage(layers)
			r.cleanup()
			r.wantState(state{})
		})
	}
}

// TestKnownChainOfTheSameImage: nobody is asked twice about one manifest.
func TestKnownChainOfTheSameImage(t *testing.T) {
	r := newRig(t)
	layers := r.b.addImage("a", 3)
	r.pull(layers)
	r.b.setHook(func(_ context.Context, method, _ string) error {
		t.Errorf("%s was called", method)
		return nil
	})
	r.pull(layers)
	r.b.setHook(nil)
}
