package contracttest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// testContainer: a container's root has the image's files and can be written.
func testContainer(t *testing.T, e *env) {
	names := e.pull(t, "a", e.Layers)
	top := names[len(names)-1]
	mounts, err := e.sn.Prepare(e.ctx, "ns/9/c1", top)
	if err != nil {
		t.Fatalf("prepare: %v", err)
	}
	again, err := e.sn.Mounts(e.ctx, "ns/9/c1")
	if diff := cmp.Diff(mounts, again); err != nil || diff != "" {
		t.Errorf("mounts: %v, differ from those of prepare:\n%s", err, diff)
	}
	withMounted(t, mounts, func(dir string) {
		wantFiles(t, dir, e.Files)
		if err := os.WriteFile(filepath.Join(dir, "written"), []byte("1"), 0o600); err != nil {
			t.Error(err)
		}
	})
	withMounted(t, again, func(dir string) { wantFiles(t, dir, map[string]string{"written": "1"}) })
	if _, err := e.sn.Prepare(e.ctx, "ns/9/c1", top); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second prepare: %v, want AlreadyExists", err)
	}
	if err := e.sn.Remove(e.ctx, top); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove of an image in use: %v, want FailedPrecondition", err)
	}
	e.remove(t, "ns/9/c1")
	e.cleanup(t)
	if _, err := e.sn.Mounts(e.ctx, "ns/9/c1"); !errdefs.IsNotFound(err) {
		t.Errorf("mounts after remove: %v, want NotFound", err)
	}
	if _, err := e.sn.Mounts(e.ctx, top); err == nil {
		t.Error("mounts of a committed snapshot succeed")
	}
}

// testView: a view shows the files of its own layer and those below, read-only.
func testView(t *testing.T, e *env) {
	names := e.pull(t, "a", e.Layers)
	for i, name := range names {
		key := "ns/9/v" + name
		mounts, err := e.sn.View(e.ctx, key, name)
		if err != nil {
			t.Fatalf("view of layer %d: %v", i, err)
		}
		withMounted(t, mounts, func(dir string) {
			if i == len(names)-1 {
				wantFiles(t, dir, e.Files)
			}
			if err := os.WriteFile(filepath.Join(dir, "written"), nil, 0o600); err == nil {
				t.Errorf("layer %d: the view can be written", i)
			}
		})
		e.remove(t, key)
	}
	e.cleanup(t)
	e.wantSnapshots(t, committed(names))
}

// testCommitOnTop: what a build commits on an image is seen above it.
func testCommitOnTop(t *testing.T, e *env) {
	names := e.pull(t, "a", e.Layers)
	parent := names[len(names)-1]
	want := map[string]string{"b0": "build", "b1": "build", "b2": "build"}
	for _, name := range []string{"b0", "b1", "b2"} {
		mounts, err := e.sn.Prepare(e.ctx, "ns/8/"+name, parent)
		if err != nil {
			t.Fatalf("prepare %s: %v", name, err)
		}
		withMounted(t, mounts, func(dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("build"), 0o600); err != nil {
				t.Error(err)
			}
		})
		parent = "ns/9/" + name
		if err := e.sn.Commit(e.ctx, parent, "ns/8/"+name); err != nil {
			t.Fatalf("commit %s: %v", name, err)
		}
		e.cleanup(t)
	}
	for key, prepare := range map[string]func() error{
		"ns/9/c": func() error { _, err := e.sn.Prepare(e.ctx, "ns/9/c", parent); return err },
		"ns/9/v": func() error { _, err := e.sn.View(e.ctx, "ns/9/v", parent); return err },
	} {
		if err := prepare(); err != nil {
			t.Fatalf("%s on a commit: %v", key, err)
		}
		mounts, err := e.sn.Mounts(e.ctx, key)
		if err != nil {
			t.Fatalf("mounts of %s: %v", key, err)
		}
		withMounted(t, mounts, func(dir string) {
			wantFiles(t, dir, e.Files)
			wantFiles(t, dir, want)
		})
		e.remove(t, key)
	}
	e.remove(t, "ns/9/b2", "ns/9/b1", "ns/9/b0")
	e.cleanup(t)
	e.wantSnapshots(t, committed(names))
}

// testRestartWithContainer: a container that was there before a restart can be
// mounted and removed after it.
func testRestartWithContainer(t *testing.T, e *env) {
	names := e.pull(t, "a", e.Layers)
	before, err := e.sn.Prepare(e.ctx, "ns/9/c1", names[len(names)-1])
	if err != nil {
		t.Fatalf("prepare: %v", err)
	}
	e.restart(t)
	e.cleanup(t)
	after, err := e.sn.Mounts(e.ctx, "ns/9/c1")
	if err != nil {
		t.Fatalf("mounts after the restart: %v", err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("mounts (-before +after the restart):\n%s", diff)
	}
	withMounted(t, after, func(dir string) { wantFiles(t, dir, e.Files) })
	e.restart(t)
	e.remove(t, "ns/9/c1")
	e.cleanup(t)
	reversed := slices.Clone(names)
	slices.Reverse(reversed)
	e.remove(t, reversed...)
	e.restart(t)
	e.cleanup(t)
	e.wantSnapshots(t, map[string]snapshots.Kind{})
}

// testMixedImage: containerd unpacks a layer that cannot be served, and the
// layers above it are either served or unpacked, but never lost.
func testMixedImage(t *testing.T, e *env) {
	const key, name = "ns/1/extract", "ns/2/foreign"
	mounts, err := e.sn.Prepare(e.ctx, key, "", snapshots.WithLabels(e.Foreign.labels()))
	if err != nil {
		t.Fatalf("prepare: %v", err)
	}
	withMounted(t, mounts, func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "base"), []byte("b"), 0o600); err != nil {
			t.Error(err)
		}
	})
	if err := e.sn.Commit(e.ctx, name, key); err != nil {
		t.Fatalf("commit: %v", err)
	}
	parent := name
	l := e.Layers[1]
	_, err = e.sn.Prepare(e.ctx, "ns/3/extract", name, snapshots.WithLabels(l.labels()))
	switch {
	case errdefs.IsAlreadyExists(err):
		info, err := findTarget(e.ctx, e.sn, l.ChainID, name)
		if err != nil {
			t.Fatal(err)
		}
		parent = info.Name
	case err != nil:
		t.Fatalf("prepare above a local layer: %v", err)
	default:
		parent = "ns/4/upper"
		if err := e.sn.Commit(e.ctx, parent, "ns/3/extract"); err != nil {
			t.Fatalf("commit: %v", err)
		}
	}
	mounts, err = e.sn.View(e.ctx, "ns/5/v", parent)
	if err != nil {
		t.Fatalf("view: %v", err)
	}
	withMounted(t, mounts, func(dir string) { wantFiles(t, dir, map[string]string{"base": "b"}) })
	e.remove(t, "ns/5/v")
	e.cleanup(t)
}
