package snapshotter_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/snapshotter"
)

// TestChainIsMountedOnce: pulling mounts nothing, all containers of an image
// share one mount, and the last one takes it along.
func TestChainIsMountedOnce(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	layers := r.b.addImage("app", 3)
	top := r.pull(layers)
	r.wantMounted()
	r.prepare("ns/5/c1", top)
	r.prepare("ns/6/c2", top)
	r.wantMounted(layers[2].chain)
	r.remove("ns/5/c1")
	r.cleanup()
	r.wantMounted(layers[2].chain)
	r.restart()
	r.cleanup()
	r.wantMounted(layers[2].chain)
	r.remove("ns/6/c2")
	r.wantMounted(layers[2].chain) // Remove is fast
	r.cleanup()
	r.wantMounted()
	if n := r.b.calls("Unmount"); n != 1 {
		t.Errorf("%d unmounts, want 1", n)
	}
	r.removeImage(layers)
	r.cleanup()
	r.wantState(state{})
}

// TestImageUserWithoutMount: a snapshot above a local layer is a user of the
// chain below that layer.
func TestImageUserWithoutMount(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	layers := r.b.addImage("app", 2)
	r.prepare("ns/5/build", r.pull(layers))
	r.commit("ns/6/built", "ns/5/build")
	r.cleanup()
	r.wantMounted()
	r.prepare("ns/7/c1", "ns/6/built")
	r.cleanup()
	r.wantMounted(layers[1].chain)
	r.remove("ns/7/c1")
	r.cleanup()
	r.wantMounted()
}

// TestManyLocalLayers: a long build on a remote image still fits the kernel's
// limit on mount options.
func TestManyLocalLayers(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	parent := r.pull(r.b.addImage("app", 2))
	const locals = 127
	for i := range locals {
		key := fmt.Sprintf("ns/%d/b", i)
		r.prepare(key, parent)
		parent = fmt.Sprintf("ns/%d/committed", i)
		r.commit(parent, key)
	}
	m := r.prepare("ns/900/c", parent)
	if size := len(strings.Join(m[0].Options, ",")); size < 4096 {
		t.Fatalf("%d bytes of options test nothing", size)
	}
	mounted(t, m, func(dir string) {
		wantFile(t, filepath.Join(dir, "f0"), "app layer 0")
		wantFile(t, filepath.Join(dir, "same"), "app layer 1")
	})
}

// TestRootAttributes: the root of a container has the owner and mode of the
// image's root, over any number of local layers.
func TestRootAttributes(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	r.b.owner = 1234
	top := r.pull(r.b.addImage("app", 1))
	r.prepare("ns/5/build", top)
	r.commit("ns/6/built", "ns/5/build")
	for key, parent := range map[string]string{"ns/7/a": top, "ns/8/b": "ns/6/built"} {
		mounted(t, r.prepare(key, parent), func(dir string) {
			fi, err := os.Stat(dir)
			if err != nil {
				t.Fatal(err)
			}
			st, ok := fi.Sys().(*syscall.Stat_t)
			if !ok || st.Uid != 1234 || st.Gid != 1234 || fi.Mode().Perm() != 0o755 {
				t.Errorf("%s: root is %d:%d %v", key, st.Uid, st.Gid, fi.Mode())
			}
		})
	}
}

func TestMountShapes(t *testing.T) {
	needRoot(t)
	r := newRig(t, func(o *snapshotter.Options) { o.OverlayOptions = []string{"index=off", "volatile"} })
	top := r.pull(r.b.addImage("app", 2))
	r.prepare("ns/5/l", "")
	r.commit("ns/5/local", "ns/5/l")
	r.prepare("ns/6/m", top)
	r.commit("ns/6/mixed", "ns/6/m")
	for _, tt := range []struct {
		name, parent string
		view         bool
		typ          string
		options      []string // each must be an option or the beginning of one
		absent       string
	}{
		{"active on nothing", "", false, "bind", []string{"rw", "rbind"}, ""},
		{"view on nothing", "", true, "bind", []string{"ro", "rbind"}, ""},
		{"active on remote", top, false, "overlay", []string{"upperdir=", "workdir=", "lowerdir=" + r.root + "/snapshots/", "index=off", "volatile"}, ""},
		{"view of remote", top, true, "bind", []string{"ro", "rbind"}, ""},
		{"view of local", "ns/5/local", true, "bind", []string{"ro", "rbind"}, ""},
		{"active on mixed", "ns/6/mixed", false, "overlay", []string{"upperdir=", "lowerdir="}, ""},
		{"view of mixed", "ns/6/mixed", true, "overlay", []string{"lowerdir="}, "upperdir="},
	} {
		t.Run(tt.name, func(t *testing.T) {
			create := r.Prepare
			if tt.view {
				create = r.View
			}
			m, err := create(r.ctx, "ns/9/"+tt.name, tt.parent)
			if err != nil || len(m) != 1 || m[0].Type != tt.typ {
				t.Fatalf("mounts %+v, %v; want one %s", m, err, tt.typ)
			}
			has := func(prefix string) bool {
				return slices.ContainsFunc(m[0].Options, func(o string) bool { return strings.HasPrefix(o, prefix) })
			}
			for _, o := range tt.options {
				if !has(o) {
					t.Errorf("options %q lack %q", m[0].Options, o)
				}
			}
			if tt.absent != "" && has(tt.absent) {
				t.Errorf("options %q have %q", m[0].Options, tt.absent)
			}
		})
	}
}

// TestIDMapping: containers with a user namespace work on what containerd
// shifted, and get a clear error where shifting was expected of the snapshotter.
func TestIDMapping(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	top := r.pull(r.b.addImage("app", 1))
	r.prepare("ns/5/remap", top)
	shift(t, r)
	r.commit("ns/6/shifted", "ns/5/remap")
	mapping := func(s string) snapshots.Opt {
		return snapshots.WithLabels(map[string]string{
			snapshots.LabelSnapshotUIDMapping: s, snapshots.LabelSnapshotGIDMapping: s,
		})
	}
	for _, tt := range []struct {
		name, parent, mapping string
		check                 func(error) bool
	}{
		{"nothing to shift", top, "0:0:4294967295", nil},
		{"remote", top, "0:100000:65536", errdefs.IsNotImplemented},
		{"shifted by containerd", "ns/6/shifted", "0:100000:65536", nil},
		{"shifted otherwise", "ns/6/shifted", "0:200000:65536", errdefs.IsNotImplemented},
		{"no parent", "", "5:1:1,0:100000:5", nil},
		{"malformed", top, "0:100000", errdefs.IsInvalidArgument},
		{"negative", top, "0:-1:5", errdefs.IsInvalidArgument},
		{"no root", top, "1:100000:65536", errdefs.IsInvalidArgument},
		{"empty", top, "", errdefs.IsInvalidArgument},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.Prepare(r.ctx, "ns/9/"+tt.name, tt.parent, mapping(tt.mapping))
			if tt.check == nil && err != nil || tt.check != nil && !tt.check(err) {
				t.Errorf("prepare: %v", err)
			}
		})
	}
	m, err := r.Mounts(r.ctx, "ns/9/no parent")
	if err != nil {
		t.Fatal(err)
	}
	wantOwner(t, m[0].Source, 100000)
}

// TestMappingOfAnImage: an image's author cannot choose the owner of what
// containerd unpacks.
func TestMappingOfAnImage(t *testing.T) {
	r := newRig(t)
	m, err := r.Prepare(r.ctx, "ns/1/extract", "", snapshots.WithLabels(map[string]string{
		snapshots.LabelSnapshotRef:        "sha256:" + strings.Repeat("0", 64),
		snapshots.LabelSnapshotUIDMapping: "0:1000:1", snapshots.LabelSnapshotGIDMapping: "bad",
	}))
	if err != nil {
		t.Fatal(err)
	}
	wantOwner(t, m[0].Source, os.Getuid())
}

func wantOwner(t *testing.T, path string, uid int) {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != uid {
		t.Errorf("owner of %s is %d, want %d", path, st.Uid, uid)
	}
}

// TestUsage: an active snapshot's usage counts an inode once, whatever its names.
func TestUsage(t *testing.T) {
	r := newRig(t)
	dir := r.prepare("ns/1/k", "")[0].Source
	before, err := r.Usage(r.ctx, "ns/1/k")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	active, err := r.Usage(r.ctx, "ns/1/k")
	if err != nil || active.Inodes != before.Inodes+1 || active.Size-before.Size < 8192 || active.Size-before.Size >= 16384 {
		t.Errorf("usage %+v after %+v, %v", active, before, err)
	}
	r.commit("ns/2/n", "ns/1/k")
	if committed, err := r.Usage(r.ctx, "ns/2/n"); err != nil || committed != active {
		t.Errorf("usage %+v after the commit, %v; was %+v", committed, err, active)
	}
}

// TestTargetOnAnotherParent: a chain ID names one parent; with another the layer
// is left to containerd.
func TestTargetOnAnotherParent(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	layers, others := r.b.addImage("app", 2), r.b.addImage("other", 1)
	r.pull(layers)
	r.pull(others)
	m, err := r.Prepare(r.ctx, "ns/9/extract", remote(others[0].chain), snapshots.WithLabels(layers[1].labels))
	if err != nil || len(m) != 1 {
		t.Errorf("mounts %v, error %v; want a writable snapshot", m, err)
	}
	if n := r.Stats().HandedBack[snapshotter.ReasonOtherParent]; n != 1 {
		t.Errorf("handed back %d times for that reason", n)
	}
}

// TestMountMoves: the overlay follows a chain that is mounted elsewhere.
func TestMountMoves(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	layers := r.b.addImage("app", 1)
	r.prepare("ns/5/c", r.pull(layers))
	elsewhere := t.TempDir()
	if err := os.WriteFile(filepath.Join(elsewhere, "moved"), []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	was := r.b.mounts[layers[0].chain]
	r.b.mounts[layers[0].chain] = elsewhere
	m, err := r.Mounts(r.ctx, "ns/5/c")
	if err != nil {
		t.Fatal(err)
	}
	mounted(t, m, func(dir string) { wantFile(t, filepath.Join(dir, "moved"), "1") })
	r.b.mounts[layers[0].chain] = was
}

// shift changes the owner of the newest snapshot's root, as containerd does.
func shift(t *testing.T, r *rig) {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(r.root, "snapshots", "*", "work"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("directories %v, %v", dirs, err)
	}
	if err := os.Chown(filepath.Join(filepath.Dir(dirs[0]), "fs"), 100000, 100000); err != nil {
		t.Fatal(err)
	}
}

// TestBackendLostChains: layers the backend does not know any more are added
// again, from what was recorded when they were pulled.
func TestBackendLostChains(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	layers := r.b.addImage("app", 3)
	m := r.prepare("ns/5/c1", r.pull(layers))
	// BuildKit takes its labels back after a pull.
	for _, l := range layers {
		if _, err := r.Update(r.ctx, snapshots.Info{Name: remote(l.chain)}, "labels"); err != nil {
			t.Fatal(err)
		}
	}
	r.b.reset(t)
	r.restart()
	again, err := r.Mounts(r.ctx, "ns/5/c1")
	if err != nil {
		t.Fatalf("mounts: %v", err)
	}
	mounted(t, again, func(dir string) { wantFile(t, filepath.Join(dir, "same"), "app layer 2") })
	if m[0].Options[0] != again[0].Options[0] {
		t.Errorf("mounts were %v, are %v", m, again)
	}

	r.b.reset(t)
	if err := os.Remove(filepath.Join(r.root, "chains", strings.Replace(layers[0].chain, ":", "-", 1))); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Mounts(r.ctx, "ns/5/c1"); !errdefs.IsUnavailable(err) {
		t.Errorf("mounts without a record: %v, want Unavailable", err)
	}
	r.b.setHook(failing("AddLayer", fserr.New(fserr.Unavailable, "get", "x", nil)))
	if _, err := r.Mounts(r.ctx, "ns/5/c1"); !errdefs.IsUnavailable(err) {
		t.Errorf("mounts without a source: %v, want Unavailable", err)
	}
}

// TestPullOnLostBase: a new image on a base that the backend does not know any
// more, while containerd does.
func TestPullOnLostBase(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	layers := r.b.addImage("app", 3)
	r.pull(layers[:2])
	r.b.reset(t)
	top := r.pull(layers)
	mounted(t, r.prepare("ns/5/c", top), func(dir string) { wantFile(t, filepath.Join(dir, "f0"), "app layer 0") })
	r.remove("ns/5/c")
	r.removeImage(layers)
	r.cleanup()
	r.wantState(state{})
}

// TestTargetIsNoDirectory: a mount that is not there is an error now, not an
// empty container later.
func TestTargetIsNoDirectory(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	layers := r.b.addImage("app", 1)
	top := r.pull(layers)
	r.b.mounts[layers[0].chain] = filepath.Join(r.b.dir, "absent")
	if _, err := r.Prepare(r.ctx, "ns/5/c", top); !errdefs.IsUnavailable(err) {
		t.Errorf("prepare: %v, want Unavailable", err)
	}
	delete(r.b.mounts, layers[0].chain)
	r.prepare("ns/5/c", top)
}
