package contracttest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// Subject is a snapshotter under test and what it can serve.
type Subject struct {
	// Open opens the snapshotter. After the snapshotter was closed it is called
	// again and must give one with the same state.
	Open func(ctx context.Context) (snapshots.Snapshotter, error)
	// Layers is an image the snapshotter serves remotely, lowest layer first; at
	// least three.
	Layers []Layer
	// Foreign is a layer on top of nothing that the snapshotter cannot serve.
	Foreign Layer
	// Files are regular files of the image, by path, and their content.
	Files map[string]string
}

// Layer is what containerd says of a layer when it prepares it.
type Layer struct {
	// ChainID is the target.
	ChainID string
	// Labels are all others.
	Labels map[string]string
}

// labels gives those of a Prepare, the target included.
func (l Layer) labels() map[string]string {
	m := maps.Clone(l.Labels)
	if m == nil {
		m = make(map[string]string, 1)
	}
	m[snapshots.LabelSnapshotRef] = l.ChainID
	return m
}

// Run runs the suite. newSubject is called once for each test and may use
// t.Cleanup.
func Run(t *testing.T, newSubject func(t *testing.T) Subject) {
	t.Helper()
	for _, tt := range []struct {
		name  string
		mount bool
		test  func(*testing.T, *env)
	}{
		{"Pull", false, testPull},
		{"PullAgain", false, testPullAgain},
		{"HandBack", false, testHandBack},
		{"NoImageLabels", false, testNoImageLabels},
		{"HostileLabels", false, testHostileLabels},
		{"MissingParent", false, testMissingParent},
		{"WalkFilters", false, testWalkFilters},
		{"Update", false, testUpdate},
		{"Usage", false, testUsage},
		{"RemoveOrder", false, testRemoveOrder},
		{"ConcurrentPulls", false, testConcurrentPulls},
		{"RestartDuringPull", false, testRestartDuringPull},
		{"Container", true, testContainer},
		{"View", true, testView},
		{"CommitOnTop", true, testCommitOnTop},
		{"RestartWithContainer", true, testRestartWithContainer},
		{"Namespaces", true, testNamespaces},
		{"NamespacesAfterRestart", true, testNamespacesAfterRestart},
		{"MixedImage", true, testMixedImage},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.mount && os.Getuid() != 0 {
				t.Skip("needs root to mount")
			}
			e := &env{Subject: newSubject(t), ctx: t.Context()}
			e.open(t)
			defer func() { e.close(t) }()
			tt.test(t, e)
		})
	}
}

// env is one test's snapshotter.
type env struct {
	Subject
	ctx context.Context
	sn  snapshots.Snapshotter
}

func (e *env) open(t *testing.T) {
	t.Helper()
	sn, err := e.Open(e.ctx)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	e.sn = sn
}

func (e *env) close(t *testing.T) {
	t.Helper()
	if err := e.sn.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func (e *env) restart(t *testing.T) {
	t.Helper()
	e.close(t)
	e.open(t)
}

// cleanup calls Cleanup as containerd does after a garbage collection.
func (e *env) cleanup(t *testing.T) {
	t.Helper()
	c, ok := e.sn.(snapshots.Cleaner)
	if !ok {
		t.Fatal("the snapshotter has no Cleanup")
	}
	if err := c.Cleanup(e.ctx); err != nil {
		t.Errorf("cleanup: %v", err)
	}
}

// pull prepares layers the way containerd's unpacker does through its metadata
// store, and gives the backend name of each.
func (e *env) pull(t *testing.T, keys string, layers []Layer) []string {
	t.Helper()
	names := make([]string, len(layers))
	parent := ""
	for i, l := range layers {
		name, err := pullLayer(e.ctx, e.sn, fmt.Sprintf("ns/%d/extract-%s %s", i, keys, l.ChainID), parent, l)
		if err != nil {
			t.Fatalf("layer %d: %v", i, err)
		}
		names[i], parent = name, name
	}
	return names
}

// pullLayer prepares one layer and finds the remote snapshot, as the metadata
// store does.
func pullLayer(ctx context.Context, sn snapshots.Snapshotter, key, parent string, l Layer) (string, error) {
	mounts, err := sn.Prepare(ctx, key, parent, snapshots.WithLabels(l.labels()))
	if !errdefs.IsAlreadyExists(err) {
		return "", fmt.Errorf("prepare %s: mounts %v, error %w; want AlreadyExists", l.ChainID, mounts, err)
	}
	info, err := findTarget(ctx, sn, l.ChainID, parent)
	if err != nil {
		return "", err
	}
	return info.Name, nil
}

func findTarget(ctx context.Context, sn snapshots.Snapshotter, target, parent string) (snapshots.Info, error) {
	var found []snapshots.Info
	filter := fmt.Sprintf(`labels.%q==%s,parent==%q`, snapshots.LabelSnapshotRef, target, parent)
	err := sn.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		found = append(found, info)
		return nil
	}, filter)
	if err != nil {
		return snapshots.Info{}, fmt.Errorf("walk %s: %w", filter, err)
	}
	if len(found) != 1 {
		return snapshots.Info{}, fmt.Errorf("walk %s: %d snapshots, want 1", filter, len(found))
	}
	info := found[0]
	if info.Kind != snapshots.KindCommitted || info.Parent != parent || info.Labels[snapshots.LabelSnapshotRef] != target {
		return snapshots.Info{}, fmt.Errorf("walk %s found %+v", filter, info)
	}
	return info, nil
}

// all gives the names and kinds of all snapshots.
func (e *env) all(t *testing.T) map[string]snapshots.Kind {
	t.Helper()
	kinds := map[string]snapshots.Kind{}
	err := e.sn.Walk(e.ctx, func(_ context.Context, info snapshots.Info) error {
		kinds[info.Name] = info.Kind
		return nil
	})
	if err != nil {
		t.Fatalf("walk: %v", err)
	}
	return kinds
}

func (e *env) wantSnapshots(t *testing.T, want map[string]snapshots.Kind) {
	t.Helper()
	if diff := cmp.Diff(want, e.all(t)); diff != "" {
		t.Errorf("snapshots (-want +got):\n%s", diff)
	}
}

func committed(names []string) map[string]snapshots.Kind {
	m := make(map[string]snapshots.Kind, len(names))
	for _, n := range names {
		m[n] = snapshots.KindCommitted
	}
	return m
}

func (e *env) remove(t *testing.T, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if err := e.sn.Remove(e.ctx, key); err != nil {
			t.Errorf("remove %s: %v", key, err)
		}
	}
}

// withMounted mounts and calls fn with the directory.
func withMounted(t *testing.T, mounts []mount.Mount, fn func(dir string)) {
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

// wantFiles compares files below dir.
func wantFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	for name, content := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if string(got) != content {
			t.Errorf("%s: %d bytes differ from the %d expected", name, len(got), len(content))
		}
	}
}
