package snapshotter_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/idmap"
	"github.com/nineply/nineply/snapshotter"
)

// mappingBackend can shift: a mapped mount is a bind mount of a copy.
type mappingBackend struct{ *fakeBackend }

var _ snapshotter.IDMapper = mappingBackend{}

func mappedKey(chain string, ids idmap.Maps) string { return chain + "|" + ids.UID.String() }

func (b mappingBackend) MountMapped(ctx context.Context, chain string, ids idmap.Maps) (string, error) {
	if err := b.enter(ctx, "MountMapped", chain); err != nil {
		return "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	key := mappedKey(chain, ids)
	if target, ok := b.mounts[key]; ok {
		return target, nil
	}
	if _, ok := b.chains[chain]; !ok {
		return "", fserr.New(fserr.NotExist, "mount", chain, nil)
	}
	merged, target := filepath.Join(b.dir, "merged", key), filepath.Join(b.dir, "mnt", key)
	for _, d := range []string{merged, target} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", err
		}
	}
	if err := b.writeMerged(chain, merged); err != nil {
		return "", err
	}
	uid, gid := ids.Shift(uint32(b.owner), uint32(b.owner))
	err := filepath.WalkDir(merged, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(uid), int(gid))
	})
	if err != nil {
		return "", err
	}
	if err := unix.Mount(merged, target, "", unix.MS_BIND, ""); err != nil {
		return "", err
	}
	b.mounts[key] = target
	return target, nil
}

func (b mappingBackend) UnmountMapped(ctx context.Context, chain string, ids idmap.Maps) error {
	return b.Unmount(ctx, mappedKey(chain, ids))
}

func mapping(s string) snapshots.Opt {
	return snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotUIDMapping: s, snapshots.LabelSnapshotGIDMapping: s})
}

func newMappingRig(t *testing.T) *rig {
	t.Helper()
	needRoot(t)
	return newRig(t, func(o *snapshotter.Options) { o.Backend = mappingBackend{o.Backend.(*fakeBackend)} })
}

const (
	mapA = "0:100000:65536"
	mapB = "0:200000:65536"
)

// TestMappedMounts: containers in user namespaces get the files of their image
// with their own owners, share a mount if their mappings are the same, and leave
// nothing behind. Nothing is copied.
func TestMappedMounts(t *testing.T) {
	r := newMappingRig(t)
	layers := r.b.addImage("app", 2)
	top, chain := r.pull(layers), layers[1].chain
	for key, m := range map[string]string{"ns/5/a": mapA, "ns/5/a2": mapA, "ns/5/b": mapB} {
		if _, err := r.Prepare(r.ctx, key, top, mapping(m)); err != nil {
			t.Fatal(err)
		}
	}
	r.wantMounted(chain+"|"+mapA, chain+"|"+mapB)
	r.prepare("ns/5/plain", top)
	check := func() {
		t.Helper()
		for key, uid := range map[string]int{"ns/5/a": 100000, "ns/5/a2": 100000, "ns/5/b": 200000, "ns/5/plain": 0} {
			m, err := r.Mounts(r.ctx, key)
			if err != nil {
				t.Fatal(err)
			}
			mounted(t, m, func(dir string) {
				wantOwner(t, dir, uid)
				wantOwner(t, filepath.Join(dir, "f0"), uid)
				wantFile(t, filepath.Join(dir, "f1"), "app layer 1")
			})
			if u, err := r.Usage(r.ctx, key); err != nil || u.Inodes > 2 {
				t.Errorf("%s: usage %+v, %v", key, u, err)
			}
		}
	}
	check()
	r.cleanup()
	check()
	r.remove("ns/5/a", "ns/5/plain")
	r.cleanup()
	r.wantMounted(chain+"|"+mapA, chain+"|"+mapB)
	r.remove("ns/5/a2", "ns/5/b")
	r.wantMounted(chain+"|"+mapA, chain+"|"+mapB)
	r.cleanup()
	r.removeImage(layers)
	r.cleanup()
	r.wantState(state{})
}

// TestMappedView: a view needs no overlay.
func TestMappedView(t *testing.T) {
	r := newMappingRig(t)
	layers := r.b.addImage("app", 1)
	m, err := r.View(r.ctx, "ns/5/v", r.pull(layers), mapping(mapA))
	if err != nil || len(m) != 1 || m[0].Type != "bind" {
		t.Fatalf("%+v, %v", m, err)
	}
	wantOwner(t, filepath.Join(m[0].Source, "f0"), 100000)
	if _, err := r.Prepare(r.ctx, "ns/5/v", remote(layers[0].chain), mapping(mapB)); err == nil {
		t.Error("two snapshots of one name")
	}
	r.wantMounted(layers[0].chain + "|" + mapA) // the one that failed left none
	r.remove("ns/5/v")
	r.removeImage(layers)
	r.cleanup()
	r.wantState(state{})
}

// TestMappedAfterLoss: mapped mounts come back from a Backend that lost
// everything, and a restart knows them.
func TestMappedAfterLoss(t *testing.T) {
	r := newMappingRig(t)
	layers := r.b.addImage("app", 2)
	if _, err := r.Prepare(r.ctx, "ns/5/a", r.pull(layers), mapping(mapA)); err != nil {
		t.Fatal(err)
	}
	r.b.reset(t)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r.open(func(o *snapshotter.Options) { o.Backend = mappingBackend{r.b} })
	if _, err := r.Mounts(r.ctx, "ns/5/a"); err != nil {
		t.Fatal(err)
	}
	r.wantMounted(layers[1].chain + "|" + mapA)
	r.remove("ns/5/a")
	// What a power cut leaves of the journal does not stop the rest.
	for _, torn := range []string{"", "?uidmap=0:1:2&gidmap="} {
		name := strings.Replace(layers[0].chain, ":", "-", 1) + ".0123456789abcdef"
		if err := os.WriteFile(filepath.Join(r.root, "mounts", name), []byte(torn), 0o600); err != nil {
			t.Fatal(err)
		}
		r.cleanup()
		r.wantMounted()
	}
	r.removeImage(layers)
	r.cleanup()
	r.wantState(state{})
}

// TestMappingOfLocalLayers: containerd is asked to map what are directories.
func TestMappingOfLocalLayers(t *testing.T) {
	r := newMappingRig(t)
	r.prepare("ns/1/l", "")
	r.commit("ns/1/one", "ns/1/l")
	r.prepare("ns/2/l", "ns/1/one")
	r.commit("ns/2/two", "ns/2/l")
	has := func(m []mount.Mount) bool {
		return len(m) == 1 && slices.Contains(m[0].Options, "uidmap="+mapA) && slices.Contains(m[0].Options, "gidmap="+mapA)
	}
	for _, parent := range []string{"ns/1/one", "ns/2/two"} {
		m, err := r.Prepare(r.ctx, "ns/3/c"+parent, parent, mapping(mapA))
		if err != nil || !has(m) {
			t.Errorf("%+v, %v", m, err)
		}
		if m, err = r.View(r.ctx, "ns/3/v"+parent, parent, mapping(mapA)); err != nil || !has(m) {
			t.Errorf("%+v, %v", m, err)
		}
	}
}
