package contracttest

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
)

const rootLabel = "containerd.io/gc.root"

// store is containerd's metadata store on top of the snapshotter.
type store struct {
	bolt *bbolt.DB
	db   *metadata.DB
	sn   snapshots.Snapshotter
}

func (e *env) openStore(t *testing.T, dir string) *store {
	t.Helper()
	content, err := local.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(dir, "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	mdb := metadata.NewDB(db, content, map[string]snapshots.Snapshotter{"remote": e.sn})
	if err := mdb.Init(e.ctx); err != nil {
		t.Fatal(err)
	}
	return &store{bolt: db, db: mdb, sn: mdb.Snapshotter("remote")}
}

func (s *store) close(t *testing.T) {
	t.Helper()
	if err := s.bolt.Close(); err != nil {
		t.Error(err)
	}
}

// collect runs containerd's garbage collection, which ends with Cleanup.
func (s *store) collect(ctx context.Context, t *testing.T) {
	t.Helper()
	if _, err := s.db.GarbageCollect(ctx); err != nil {
		t.Errorf("garbage collection: %v", err)
	}
}

// pull does what the unpacker does in one namespace; the top layer is what the
// image keeps alive.
func (s *store) pull(ctx context.Context, t *testing.T, layers []Layer) {
	t.Helper()
	parent := ""
	for i, l := range layers {
		labels := l.labels()
		if i == len(layers)-1 {
			labels[rootLabel] = "image"
		}
		_, err := s.sn.Prepare(ctx, fmt.Sprintf("extract-%d %s", i, l.ChainID), parent, snapshots.WithLabels(labels))
		if !errdefs.IsAlreadyExists(err) {
			t.Fatalf("layer %d: %v, want AlreadyExists", i, err)
		}
		info, err := s.sn.Stat(ctx, l.ChainID)
		if err != nil || info.Parent != parent || info.Kind != snapshots.KindCommitted {
			t.Fatalf("layer %d: %+v, %v", i, info, err)
		}
		parent = l.ChainID
	}
}

// deleteImage ends what keeps the top layer alive.
func (s *store) deleteImage(ctx context.Context, t *testing.T, layers []Layer) {
	t.Helper()
	top := layers[len(layers)-1].ChainID
	if err := s.sn.Remove(ctx, top); err != nil {
		t.Errorf("removing the image's top snapshot: %v", err)
	}
}

func (s *store) container(ctx context.Context, t *testing.T, key string, layers []Layer) []mount.Mount {
	t.Helper()
	mounts, err := s.sn.Prepare(ctx, key, layers[len(layers)-1].ChainID,
		snapshots.WithLabels(map[string]string{rootLabel: "container"}))
	if err != nil {
		t.Fatalf("prepare %s: %v", key, err)
	}
	return mounts
}

// testNamespaces: two namespaces of containerd share remote layers; each can
// remove its own without harm to the other, and the last one frees them.
func testNamespaces(t *testing.T, e *env) {
	s := e.openStore(t, t.TempDir())
	defer func() { s.close(t) }()
	one := namespaces.WithNamespace(e.ctx, "one")
	two := namespaces.WithNamespace(e.ctx, "two")
	s.pull(one, t, e.Layers)
	s.pull(two, t, e.Layers)
	if n := len(e.all(t)); n != len(e.Layers) {
		t.Errorf("%d snapshots for %d layers in two namespaces", n, len(e.Layers))
	}
	mounts := s.container(one, t, "c1", e.Layers)
	withMounted(t, mounts, func(dir string) { wantFiles(t, dir, e.Files) })
	mounts = s.container(two, t, "c1", e.Layers)
	withMounted(t, mounts, func(dir string) { wantFiles(t, dir, e.Files) })

	e.removeAll(one, t, s)
	if n := len(e.all(t)); n != len(e.Layers)+1 {
		t.Errorf("%d snapshots after one namespace removed its own, want %d", n, len(e.Layers)+1)
	}
	mounts, err := s.sn.Mounts(two, "c1")
	if err != nil {
		t.Fatalf("mounts in the second namespace: %v", err)
	}
	withMounted(t, mounts, func(dir string) { wantFiles(t, dir, e.Files) })
	e.removeAll(two, t, s)
	e.wantSnapshots(t, map[string]snapshots.Kind{})
	s.pull(one, t, e.Layers)
}

// removeAll removes a namespace's container and image and collects.
func (e *env) removeAll(ctx context.Context, t *testing.T, s *store) {
	t.Helper()
	if err := s.sn.Remove(ctx, "c1"); err != nil {
		t.Errorf("removing the container: %v", err)
	}
	s.deleteImage(ctx, t, e.Layers)
	s.collect(ctx, t)
}

// testNamespacesAfterRestart: containerd and the snapshotter start anew; what one
// forgot while the other was down is collected.
func testNamespacesAfterRestart(t *testing.T, e *env) {
	dir := t.TempDir()
	s := e.openStore(t, dir)
	one := namespaces.WithNamespace(e.ctx, "one")
	s.pull(one, t, e.Layers)
	s.container(one, t, "c1", e.Layers)
	s.close(t)
	// A snapshot containerd never heard of, as after a crash between the two.
	names := slices.Sorted(func(yield func(string) bool) {
		for name, kind := range e.all(t) {
			if kind == snapshots.KindCommitted && !yield(name) {
				return
			}
		}
	})
	if _, err := e.sn.Prepare(e.ctx, "one/99/lost", names[0]); err != nil {
		t.Fatal(err)
	}
	e.restart(t)
	s = e.openStore(t, dir)
	defer func() { s.close(t) }()
	mounts, err := s.sn.Mounts(one, "c1")
	if err != nil {
		t.Fatalf("mounts after the restart: %v", err)
	}
	withMounted(t, mounts, func(dir string) { wantFiles(t, dir, e.Files) })
	e.removeAll(one, t, s)
	e.wantSnapshots(t, map[string]snapshots.Kind{})
}
