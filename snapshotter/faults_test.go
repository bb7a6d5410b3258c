package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/snapshotter"
)

// TestAddLayerFailure: what containerd is told for each way a layer can fail.
func TestAddLayerFailure(t *testing.T) {
	handBack, fail := snapshotter.HandBack, snapshotter.Fail
	for _, tt := range []struct {
		kind   fserr.Kind
		policy snapshotter.SourcePolicy
		check  func(error) bool // nil: handed back
		reason string
	}{
		{fserr.Unsupported, handBack, nil, snapshotter.ReasonUnsupported},
		{fserr.Unsupported, fail, nil, snapshotter.ReasonUnsupported},
		{fserr.TooLarge, fail, nil, snapshotter.ReasonTooLarge},
		{fserr.Unavailable, handBack, nil, snapshotter.ReasonUnavailable},
		{fserr.Unavailable, fail, errdefs.IsUnavailable, ""},
		{fserr.Unauthorized, handBack, nil, snapshotter.ReasonUnauthorized},
		{fserr.Unauthorized, fail, errdefs.IsUnavailable, ""},
		{fserr.NotExist, handBack, nil, snapshotter.ReasonNotFound},
		{fserr.NotExist, fail, errdefs.IsUnavailable, ""},
		{fserr.Corrupt, handBack, errdefs.IsFailedPrecondition, ""},
		{fserr.Permission, handBack, errdefs.IsFailedPrecondition, ""},
		{fserr.NoSpace, handBack, errdefs.IsResourceExhausted, ""},
		{fserr.Invalid, handBack, errdefs.IsInvalidArgument, ""},
		{fserr.Closed, handBack, errdefs.IsUnavailable, ""},
		{fserr.Canceled, handBack, errdefs.IsAborted, ""},
		{fserr.Internal, handBack, errdefs.IsInternal, ""},
	} {
		t.Run(fmt.Sprintf("%s policy %d", tt.kind, tt.policy), func(t *testing.T) {
			r := newRig(t, func(o *snapshotter.Options) { o.OnSourceFailure = tt.policy })
			layers := r.b.addImage("app", 1)
			// A class inside the cause must not leak out.
			r.b.setHook(failing("AddLayer", fserr.New(tt.kind, "get", "layer", errdefs.ErrAlreadyExists)))
			m, err := prepareLayer(r.ctx, r, layers, 0)
			if tt.check == nil && (err != nil || len(m) != 1) {
				t.Fatalf("mounts %v, error %v; want a writable snapshot", m, err)
			}
			if tt.check != nil && (!tt.check(err) || errdefs.IsAlreadyExists(err)) {
				t.Fatalf("error %v has the wrong class", err)
			}
			want := map[string]uint64{}
			if tt.reason != "" {
				want[tt.reason] = 1
				r.remove("ns/0/extract " + layers[0].chain)
			}
			if diff := cmp.Diff(want, r.Stats().HandedBack); diff != "" {
				t.Errorf("handed back (-want +got):\n%s", diff)
			}
			r.cleanup()
			r.wantState(state{})
			r.b.setHook(nil)
			r.pull(layers)
		})
	}
}

// TestFailureLeavesNothing: after a failed call the host is as before it, and the
// same call succeeds once the cause is gone.
func TestFailureLeavesNothing(t *testing.T) {
	needRoot(t)
	boom := fserr.New(fserr.Internal, "boom", "", nil)
	for _, tt := range []struct {
		method string
		before func(r *rig, layers []testLayer)
		call   func(r *rig, layers []testLayer) error
	}{
		{"AddLayer", nil, func(r *rig, layers []testLayer) error {
			if _, err := prepareLayer(r.ctx, r, layers, 0); !errdefs.IsAlreadyExists(err) {
				return err
			}
			return nil
		}},
		{"Mount", pullAll, func(r *rig, layers []testLayer) error {
			_, err := r.Prepare(r.ctx, "ns/9/c", remote(layers[1].chain))
			return err
		}},
		{"Mount", pullAll, func(r *rig, layers []testLayer) error {
			_, err := r.View(r.ctx, "ns/9/v", remote(layers[0].chain))
			return err
		}},
		{"Mount", func(r *rig, layers []testLayer) {
			r.prepare("ns/9/c", r.pull(layers))
		}, func(r *rig, _ []testLayer) error {
			_, err := r.Mounts(r.ctx, "ns/9/c")
			return err
		}},
		{"Unmount", func(r *rig, layers []testLayer) {
			r.prepare("ns/9/c", r.pull(layers))
			r.remove("ns/9/c")
		}, func(r *rig, _ []testLayer) error { return r.Cleanup(r.ctx) }},
		{"RemoveChain", func(r *rig, layers []testLayer) {
			r.pull(layers)
			r.removeImage(layers)
		}, func(r *rig, _ []testLayer) error { return r.Cleanup(r.ctx) }},
	} {
		t.Run(tt.method, func(t *testing.T) {
			r := newRig(t)
			layers := r.b.addImage("app", 2)
			if tt.before != nil {
				tt.before(r, layers)
			}
			before := r.state()
			before.Dirs = nil // Cleanup may remove directories whatever else fails
			r.b.setHook(failing(tt.method, boom))
			if err := tt.call(r, layers); !errdefs.IsInternal(err) {
				t.Errorf("error %v, want Internal", err)
			}
			after := r.state()
			after.Dirs = nil
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("state (-before +after the failure):\n%s", diff)
			}
			r.b.setHook(nil)
			if err := tt.call(r, layers); err != nil {
				t.Errorf("again: %v", err)
			}
		})
	}
}

func pullAll(r *rig, layers []testLayer) { r.pull(layers) }

// TestCancel: a caller that gave up gets its own error, never a hand-back, and
// leaves nothing.
func TestCancel(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	layers := r.b.addImage("app", 1)
	for _, method := range []string{"AddLayer", "Mount"} {
		ctx, cancel := context.WithCancel(r.ctx)
		r.b.setHook(func(hctx context.Context, m, _ string) error {
			if m != method {
				return nil
			}
			cancel()
			<-hctx.Done()
			return fserr.New(fserr.Unavailable, "get", "layer", hctx.Err())
		})
		_, err := prepareLayer(ctx, r, layers, 0)
		if method == "Mount" {
			_, err = r.Prepare(ctx, "ns/9/c", remote(layers[0].chain))
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want Canceled", method, err)
		}
		r.b.setHook(nil)
		r.wantMounted()
		r.pull(layers)
	}
}

// TestWaitForOtherPull: the second of two pulls waits for the first, or for its
// caller's patience.
func TestWaitForOtherPull(t *testing.T) {
	r := newRig(t)
	layers := r.b.addImage("app", 1)
	entered, release := make(chan struct{}), make(chan struct{})
	r.b.setHook(func(_ context.Context, m, _ string) error {
		if m == "AddLayer" {
			close(entered)
			<-release
		}
		return nil
	})
	done := make(chan error, 1)
	go func() {
		_, err := prepareLayer(r.ctx, r, layers, 0)
		done <- err
	}()
	<-entered
	// Neither Cleanup nor others wait for a slow layer.
	r.cleanup()
	ctx, cancel := context.WithCancel(r.ctx)
	cancel()
	if _, err := r.Prepare(ctx, "ns/7/extract", "", snapshots.WithLabels(layers[0].labels)); !errors.Is(err, context.Canceled) {
		t.Errorf("impatient pull: %v, want Canceled", err)
	}
	r.prepare("ns/8/other", "")
	close(release)
	if err := <-done; !errdefs.IsAlreadyExists(err) {
		t.Errorf("first pull: %v, want AlreadyExists", err)
	}
	r.cleanup()
	known, _ := r.b.state()
	if diff := cmp.Diff([]string{layers[0].chain}, known); diff != "" {
		t.Errorf("chains (-want +got):\n%s", diff)
	}
}

// TestJournalCannotBeWritten: without a record no reference is taken.
func TestJournalCannotBeWritten(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	layers := r.b.addImage("app", 1)
	replaceByFile := func(dir string) (restore func()) {
		path := filepath.Join(r.root, dir)
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := errors.Join(os.Remove(path), os.Rename(path+".away", path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	restore := replaceByFile("chains")
	if _, err := prepareLayer(r.ctx, r, layers, 0); err == nil || errdefs.IsAlreadyExists(err) {
		t.Errorf("pull without a journal: %v", err)
	}
	if n := r.b.calls("AddLayer"); n != 0 {
		t.Errorf("%d layers were added", n)
	}
	restore()
	top := r.pull(layers)
	restore = replaceByFile("mounts")
	if _, err := r.Prepare(r.ctx, "ns/9/c", top); err == nil {
		t.Error("a container without a journal")
	}
	if err := r.Cleanup(r.ctx); err == nil {
		t.Error("cleanup without a journal")
	}
	restore()
	restore = replaceByFile("snapshots")
	if _, err := r.Prepare(r.ctx, "ns/9/c", top); err == nil {
		t.Error("a container without directories")
	}
	r.wantMounted()
	restore()
	r.prepare("ns/9/c", top)
}

// TestFailedPrepareKeepsTheMount: what fails must not take the mount from others.
func TestFailedPrepareKeepsTheMount(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	layers := r.b.addImage("app", 1)
	top := r.pull(layers)
	r.prepare("ns/5/c", top)
	if _, err := r.Prepare(r.ctx, "ns/5/c", top); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second prepare: %v, want AlreadyExists", err)
	}
	r.wantMounted(layers[0].chain)
}

// TestFailedTransaction: directories of a snapshot that was not committed go.
func TestFailedTransaction(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	top := r.pull(r.b.addImage("app", 1))
	inTheWay := filepath.Join(r.root, "snapshots", "1")
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Prepare(r.ctx, "ns/5/c", top); err == nil {
		t.Error("prepare without a link to the mount")
	}
	if got := names(t, filepath.Join(r.root, "snapshots")); len(got) != 1 {
		t.Errorf("directories %v, want only the one in the way", got)
	}
	r.wantMounted()
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	r.prepare("ns/5/c", top)
}

// TestFailureOfARemovedImage: a pull fails for an image that was in use until
// just now and not cleaned up yet.
func TestFailureOfARemovedImage(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	layers := r.b.addImage("app", 1)
	top := r.pull(layers)
	r.prepare("ns/5/c", top)
	r.remove("ns/5/c", top)
	r.b.setHook(failing("AddLayer", fserr.New(fserr.Internal, "add", "x", nil)))
	if _, err := prepareLayer(r.ctx, r, layers, 0); !errdefs.IsInternal(err) {
		t.Errorf("pull: %v, want Internal", err)
	}
	known, mounts := r.b.state()
	if len(known)+len(mounts) != 0 {
		t.Errorf("chains %v, mounts %v are left", known, mounts)
	}
}
