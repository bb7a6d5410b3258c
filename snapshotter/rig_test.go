package snapshotter_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/snapshotter"
)

// rig is a snapshotter on a fake backend, with what tests do to both.
type rig struct {
	*snapshotter.Snapshotter
	t    testing.TB
	ctx  context.Context
	root string
	b    *fakeBackend
}

func newRig(t testing.TB, change ...func(*snapshotter.Options)) *rig {
	t.Helper()
	r := &rig{t: t, ctx: t.Context(), root: t.TempDir(), b: newFakeBackend(t)}
	r.open(change...)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) open(change ...func(*snapshotter.Options)) {
	r.t.Helper()
	opts := snapshotter.Options{Root: r.root, Backend: r.b}
	for _, c := range change {
		c(&opts)
	}
	sn, err := snapshotter.New(r.ctx, opts)
	if err != nil {
		r.t.Fatal(err)
	}
	r.Snapshotter = sn
}

func (r *rig) restart() {
	r.t.Helper()
	if err := r.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.open()
}

// remote is the name a remote snapshot gets.
func remote(chain string) string { return "@remote/" + chain }

// prepareLayer prepares layer i of an image as the unpacker does.
func prepareLayer(ctx context.Context, sn snapshots.Snapshotter, layers []testLayer, i int) ([]mount.Mount, error) {
	parent := ""
	if i > 0 {
		parent = remote(layers[i-1].chain)
	}
	return sn.Prepare(ctx, fmt.Sprintf("ns/%d/extract %s", i, layers[i].chain), parent, snapshots.WithLabels(layers[i].labels))
}

// pull pulls an image and gives the name of its top snapshot.
func (r *rig) pull(layers []testLayer) string {
	r.t.Helper()
	for i := range layers {
		if _, err := prepareLayer(r.ctx, r, layers, i); !errdefs.IsAlreadyExists(err) {
			r.t.Fatalf("layer %d: %v, want AlreadyExists", i, err)
		}
	}
	return remote(layers[len(layers)-1].chain)
}

func (r *rig) prepare(key, parent string) []mount.Mount {
	r.t.Helper()
	m, err := r.Prepare(r.ctx, key, parent)
	if err != nil {
		r.t.Fatalf("prepare %s: %v", key, err)
	}
	return m
}

func (r *rig) commit(name, key string) {
	r.t.Helper()
	if err := r.Commit(r.ctx, name, key); err != nil {
		r.t.Fatalf("commit %s: %v", name, err)
	}
}

func (r *rig) remove(keys ...string) {
	r.t.Helper()
	for _, key := range keys {
		if err := r.Remove(r.ctx, key); err != nil {
			r.t.Errorf("remove %s: %v", key, err)
		}
	}
}

func (r *rig) removeImage(layers []testLayer) {
	r.t.Helper()
	for i := len(layers) - 1; i >= 0; i-- {
		r.remove(remote(layers[i].chain))
	}
}

func (r *rig) cleanup() {
	r.t.Helper()
	if err := r.Cleanup(r.ctx); err != nil {
		r.t.Errorf("cleanup: %v", err)
	}
}

// state is everything a snapshotter leaves on the host.
type state struct {
	Snapshots []string
	Dirs      []string
	Journal   []string
	Chains    []string
	Mounts    []string
}

func (r *rig) state() state {
	r.t.Helper()
	var s state
	err := r.Walk(r.ctx, func(_ context.Context, info snapshots.Info) error {
		s.Snapshots = append(s.Snapshots, info.Name)
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	s.Dirs = names(r.t, filepath.Join(r.root, "snapshots"))
	s.Journal = append(names(r.t, filepath.Join(r.root, "chains")), names(r.t, filepath.Join(r.root, "mounts"))...)
	s.Chains, s.Mounts = r.b.state()
	return s
}

func (r *rig) wantState(want state) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.state(), cmpopts.EquateEmpty()); diff != "" {
		r.t.Errorf("state (-want +got):\n%s", diff)
	}
	if m := append(mountsBelow(r.t, r.root), mountsBelow(r.t, r.b.dir)...); len(m) != len(want.Mounts) {
		r.t.Errorf("mounts %v on the host, want those of %v", m, want.Mounts)
	}
}

func (r *rig) wantMounted(chains ...string) {
	r.t.Helper()
	_, mounted := r.b.state()
	if diff := cmp.Diff(chains, mounted, cmpopts.EquateEmpty()); diff != "" {
		r.t.Errorf("mounted chains (-want +got):\n%s", diff)
	}
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// mounted mounts and calls fn with the directory.
func mounted(t *testing.T, mounts []mount.Mount, fn func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	if err := mount.All(mounts, dir); err != nil {
		t.Fatalf("mounting %+v: %v", mounts, err)
	}
	defer func() {
		if err := mount.UnmountAll(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	}()
	fn(dir)
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s: %q, %v; want %q", filepath.Base(path), got, err, want)
	}
}
