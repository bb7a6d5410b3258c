package snapshotter_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/snapshotter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBackend serves layers made of small files; a mounted chain is a bind mount
// of a directory with the files of its layers. It outlives snapshotters, as the
// daemon behind a Backend may.
type fakeBackend struct {
	dir string

	mu     sync.Mutex
	files  map[string]map[string]string // layer digest -> path -> content
	chains map[string]snapshotter.Layer
	mounts map[string]string // chain -> target
	count  map[string]int    // calls by method
	hook   func(ctx context.Context, method, chain string) error
	owner  int // of the root directories
}

func newFakeBackend(t testing.TB) *fakeBackend {
	t.Helper()
	b := &fakeBackend{
		dir:    t.TempDir(),
		files:  map[string]map[string]string{},
		chains: map[string]snapshotter.Layer{},
		mounts: map[string]string{},
		count:  map[string]int{},
	}
	t.Cleanup(func() {
		for _, m := range mountsBelow(t, b.dir) {
			if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
				t.Errorf("unmounting %s: %v", m, err)
			}
		}
	})
	return b
}

// setHook has fn called first in each method; its error is the method's.
func (b *fakeBackend) setHook(fn func(ctx context.Context, method, chain string) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hook = fn
}

// failing is a hook by which one method fails.
func failing(method string, err error) func(context.Context, string, string) error {
	return func(_ context.Context, m, _ string) error {
		if m == method {
			return err
		}
		return nil
	}
}

func (b *fakeBackend) enter(ctx context.Context, method, chain string) error {
	b.mu.Lock()
	b.count[method]++
	hook := b.hook
	b.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(ctx, method, chain)
}

func (b *fakeBackend) calls(method string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count[method]
}

func (b *fakeBackend) AddLayer(ctx context.Context, l snapshotter.Layer) (snapshotter.LayerStatus, error) {
	if err := b.enter(ctx, "AddLayer", l.ChainID); err != nil {
		return snapshotter.LayerStatus{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	files, ok := b.files[l.Digest]
	if !ok {
		return snapshotter.LayerStatus{}, fserr.New(fserr.Unsupported, "add layer", l.Digest, nil)
	}
	if _, ok := b.chains[l.Parent]; l.Parent != "" && !ok {
		return snapshotter.LayerStatus{}, fserr.New(fserr.NotExist, "add layer", "parent "+l.Parent, nil)
	}
	b.chains[l.ChainID] = l
	return snapshotter.LayerStatus{Lazy: true, Size: 4096, Files: int64(len(files))}, nil
}

func (b *fakeBackend) RemoveChain(ctx context.Context, chain string) error {
	if err := b.enter(ctx, "RemoveChain", chain); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.mounts[chain]; ok {
		return fserr.New(fserr.Busy, "remove chain", chain, nil)
	}
	for _, l := range b.chains {
		if l.Parent == chain {
			return fserr.Newf(fserr.Busy, "remove chain", chain, "is below %s", l.ChainID)
		}
	}
	delete(b.chains, chain)
	return nil
}

func (b *fakeBackend) Mount(ctx context.Context, chain string) (string, error) {
	if err := b.enter(ctx, "Mount", chain); err != nil {
		return "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if target, ok := b.mounts[chain]; ok {
		return target, nil
	}
	if _, ok := b.chains[chain]; !ok {
		return "", fserr.New(fserr.NotExist, "mount", chain, nil)
	}
	merged := filepath.Join(b.dir, "merged", chain)
	target := filepath.Join(b.dir, "mnt", chain) // with a colon, on purpose
	for _, d := range []string{merged, target} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", err
		}
	}
	if err := os.Chown(merged, b.owner, b.owner); err != nil {
		return "", err
	}
	if err := b.writeMerged(chain, merged); err != nil {
		return "", err
	}
	if err := unix.Mount(merged, target, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("bind mount: %w", err)
	}
	b.mounts[chain] = target
	return target, nil
}

func (b *fakeBackend) writeMerged(chain, dir string) error {
	if chain == "" {
		return nil
	}
	l := b.chains[chain]
	if err := b.writeMerged(l.Parent, dir); err != nil {
		return err
	}
	for name, content := range b.files[l.Digest] {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (b *fakeBackend) Unmount(ctx context.Context, chain string) error {
	if err := b.enter(ctx, "Unmount", chain); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	target, ok := b.mounts[chain]
	if !ok {
		return nil
	}
	if err := unix.Unmount(target, 0); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	delete(b.mounts, chain)
	return nil
}

// state gives the sorted chains that are known and that are mounted.
func (b *fakeBackend) state() (known, mounted []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.chains)), slices.Sorted(maps.Keys(b.mounts))
}

// reset loses everything, as a daemon that lost its directory.
func (b *fakeBackend) reset(t testing.TB) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for chain, target := range b.mounts {
		if err := unix.Unmount(target, 0); err != nil {
			t.Fatal(err)
		}
		delete(b.mounts, chain)
	}
	clear(b.chains)
}

// testLayer is one layer of a fake image.
type testLayer struct {
	digest, diffID, chain string
	labels                map[string]string
}

const testRef = "registry.test/app:1"

// addImage makes an image of n layers, lowest first. Layer i has the files "fi"
// and "same", both with its own content.
func (b *fakeBackend) addImage(name string, n int) []testLayer {
	b.mu.Lock()
	defer b.mu.Unlock()
	layers := make([]testLayer, n)
	var diffs []digest.Digest
	for i := range layers {
		blob := digest.FromString(fmt.Sprintf("blob %s %d", name, i))
		diffs = append(diffs, digest.FromString(fmt.Sprintf("diff %s %d", name, i)))
		chain := identity.ChainID(slices.Clone(diffs))
		content := fmt.Sprintf("%s layer %d", name, i)
		b.files[blob.String()] = map[string]string{fmt.Sprintf("f%d", i): content, "same": content}
		layers[i] = testLayer{digest: blob.String(), diffID: diffs[i].String(), chain: chain.String()}
		layers[i].labels = map[string]string{
			snapshots.LabelSnapshotRef:        chain.String(),
			snapshots.LabelSnapshotDiffID:     diffs[i].String(),
			snapshotter.LabelImageRef:         testRef,
			snapshotter.LabelLayerDigest:      blob.String(),
			snapshotter.LabelManifestDigest:   digest.FromString("manifest " + name).String(),
			"containerd.io/snapshot/some.key": "kept",
		}
	}
	return layers
}

func mountsBelow(t testing.TB, dir string) []string {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, m := range infos {
		targets = append(targets, m.Mountpoint)
	}
	return targets
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
}
