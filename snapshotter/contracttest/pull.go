package contracttest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// testPull: each layer becomes a committed snapshot with its labels and parent,
// and nothing else is left.
func testPull(t *testing.T, e *env) {
	names := e.pull(t, "a", e.Layers)
	e.wantSnapshots(t, committed(names))
	for i, name := range names {
		info, err := e.sn.Stat(e.ctx, name)
		if err != nil {
			t.Fatalf("stat %s: %v", name, err)
		}
		for k, v := range e.Layers[i].labels() {
			if info.Labels[k] != v {
				t.Errorf("layer %d: label %s is %q, was given as %q", i, k, info.Labels[k], v)
			}
		}
	}
}

// testPullAgain: a target that is there is found and not made again.
func testPullAgain(t *testing.T, e *env) {
	names := e.pull(t, "a", e.Layers)
	if diff := cmp.Diff(names, e.pull(t, "b", e.Layers)); diff != "" {
		t.Errorf("names of the second pull (-first +second):\n%s", diff)
	}
	e.wantSnapshots(t, committed(names))
}

// testHandBack: a layer that cannot be served becomes an empty writable
// snapshot, which can be committed under the target's name as usual.
func testHandBack(t *testing.T, e *env) {
	mounts, err := e.sn.Prepare(e.ctx, "ns/1/extract", "", snapshots.WithLabels(e.Foreign.labels()))
	if err != nil || len(mounts) == 0 {
		t.Fatalf("prepare: mounts %v, error %v", mounts, err)
	}
	if slices.Contains(mounts[len(mounts)-1].Options, "ro") {
		t.Errorf("the mount is read-only: %v", mounts)
	}
	e.wantSnapshots(t, map[string]snapshots.Kind{"ns/1/extract": snapshots.KindActive})
	if err := e.sn.Commit(e.ctx, "ns/2/"+e.Foreign.ChainID, "ns/1/extract", snapshots.WithLabels(e.Foreign.labels())); err != nil {
		t.Fatalf("commit: %v", err)
	}
	e.remove(t, "ns/2/"+e.Foreign.ChainID)
	e.cleanup(t)
	e.wantSnapshots(t, map[string]snapshots.Kind{})
}

// testNoImageLabels: a client with annotations switched off gets what it would
// get from any snapshotter.
func testNoImageLabels(t *testing.T, e *env) {
	bare := Layer{ChainID: e.Layers[0].ChainID}
	if _, err := e.sn.Prepare(e.ctx, "ns/1/extract", "", snapshots.WithLabels(bare.labels())); err != nil {
		t.Fatalf("prepare: %v", err)
	}
	e.wantSnapshots(t, map[string]snapshots.Kind{"ns/1/extract": snapshots.KindActive})
	e.remove(t, "ns/1/extract")
	e.pull(t, "a", e.Layers)
}

// testHostileLabels: labels come from the image's author too. None of these may
// be served, and none may break anything.
func testHostileLabels(t *testing.T, e *env) {
	const refLabel, digestLabel = "containerd.io/snapshot/cri.image-ref", "containerd.io/snapshot/cri.layer-digest"
	for i, change := range []map[string]string{
		{refLabel: "https://user:secret@evil.test/x"},
		{refLabel: "oci:/etc/shadow"},
		{refLabel: "../../x"},
		{refLabel: strings.Repeat("a", 3000)},
		{refLabel: "registry.test/app:1\x00"},
		{digestLabel: "sha256:../../../etc/passwd"},
		{digestLabel: "sha256:"},
		{digestLabel: "md5:d41d8cd98f00b204e9800998ecf8427e"},
	} {
		l := Layer{ChainID: e.Layers[0].ChainID, Labels: e.Layers[0].labels()}
		for k, v := range change {
			l.Labels[k] = v
		}
		key := fmt.Sprintf("ns/%d/extract", i)
		if _, err := e.sn.Prepare(e.ctx, key, "", snapshots.WithLabels(l.labels())); err != nil {
			if errdefs.IsAlreadyExists(err) {
				t.Errorf("%v was served", change)
			}
			continue
		}
		e.remove(t, key)
	}
	e.wantSnapshots(t, map[string]snapshots.Kind{})
}

// testMissingParent: the failure leaves nothing behind, and is not taken for a
// success.
func testMissingParent(t *testing.T, e *env) {
	_, err := e.sn.Prepare(e.ctx, "ns/1/extract", "ns/0/absent", snapshots.WithLabels(e.Layers[1].labels()))
	if !errdefs.IsNotFound(err) {
		t.Errorf("prepare on a missing parent: %v, want NotFound", err)
	}
	e.wantSnapshots(t, map[string]snapshots.Kind{})
}

func testWalkFilters(t *testing.T, e *env) {
	names := e.pull(t, "a", e.Layers)
	slices.Sort(names)
	if _, err := e.sn.Prepare(e.ctx, "ns/9/tmp", "", snapshots.WithLabels(map[string]string{"containerd.io/snapshot/x": "1"})); err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string][]string{
		`kind==committed`:                     names,
		`kind==active`:                        {"ns/9/tmp"},
		`labels."containerd.io/snapshot.ref"`: names,
		`labels."containerd.io/snapshot.ref"==` + e.Layers[0].ChainID:        {e.nameOf(t, 0)},
		`parent==` + fmt.Sprintf("%q", e.nameOf(t, 0)):                       {e.nameOf(t, 1)},
		`name==` + fmt.Sprintf("%q", e.nameOf(t, 1)):                         {e.nameOf(t, 1)},
		`labels."containerd.io/snapshot.ref"==absent`:                        nil,
		`labels."containerd.io/snapshot/x"==1,kind==active`:                  {"ns/9/tmp"},
		`labels."containerd.io/snapshot.ref"==absent,parent==""`:             nil,
		fmt.Sprintf(`kind==committed,parent==%q`, e.nameOf(t, len(names)-1)): nil,
	} {
		var got []string
		err := e.sn.Walk(e.ctx, func(_ context.Context, info snapshots.Info) error {
			got = append(got, info.Name)
			return nil
		}, filter)
		if err != nil {
			t.Errorf("walk %s: %v", filter, err)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("walk %s (-want +got):\n%s", filter, diff)
		}
	}
	err := e.sn.Walk(e.ctx, func(context.Context, snapshots.Info) error { return nil }, `labels."`)
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("walk with a broken filter: %v, want InvalidArgument", err)
	}
}

// nameOf finds the backend name of layer i of the pulled image.
func (e *env) nameOf(t *testing.T, i int) string {
	t.Helper()
	parent := ""
	for _, l := range e.Layers[:i+1] {
		info, err := findTarget(e.ctx, e.sn, l.ChainID, parent)
		if err != nil {
			t.Fatal(err)
		}
		parent = info.Name
	}
	return parent
}

// testUpdate: labels can change, a remote snapshot is still found afterwards, and
// nothing else can change.
func testUpdate(t *testing.T, e *env) {
	name := e.pull(t, "a", e.Layers[:1])[0]
	const key = "containerd.io/snapshot/remote/stargz.reference.x1"
	for _, value := range []string{"now", ""} {
		info, err := e.sn.Update(e.ctx, snapshots.Info{Name: name, Labels: map[string]string{key: value}}, "labels."+key)
		if err != nil || info.Labels[key] != value {
			t.Errorf("update: %+v, %v", info, err)
		}
	}
	if _, err := e.sn.Update(e.ctx, snapshots.Info{Name: name, Labels: map[string]string{"containerd.io/snapshot/y": "1"}}, "labels"); err != nil {
		t.Errorf("replacing labels: %v", err)
	}
	if _, err := findTarget(e.ctx, e.sn, e.Layers[0].ChainID, ""); err != nil {
		t.Errorf("after the labels were replaced: %v", err)
	}
	if _, err := e.sn.Update(e.ctx, snapshots.Info{Name: name, Parent: "x"}, "parent"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("update of the parent: %v, want InvalidArgument", err)
	}
	if _, err := e.sn.Update(e.ctx, snapshots.Info{Name: "absent"}); !errdefs.IsNotFound(err) {
		t.Errorf("update of nothing: %v, want NotFound", err)
	}
}

// testUsage: containerd reads the usage of a committed snapshot once, so it must
// be that of the whole layer from the beginning.
func testUsage(t *testing.T, e *env) {
	for _, name := range e.pull(t, "a", e.Layers) {
		u, err := e.sn.Usage(e.ctx, name)
		if err != nil || u.Size <= 0 || u.Inodes <= 0 {
			t.Errorf("usage of %s: %+v, %v", name, u, err)
		}
	}
	if _, err := e.sn.Usage(e.ctx, "absent"); !errdefs.IsNotFound(err) {
		t.Errorf("usage of nothing: %v, want NotFound", err)
	}
}

// testRemoveOrder: only leaves can be removed; afterwards the image can be pulled
// again.
func testRemoveOrder(t *testing.T, e *env) {
	names := e.pull(t, "a", e.Layers)
	for _, name := range names[:len(names)-1] {
		if err := e.sn.Remove(e.ctx, name); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("remove %s below others: %v, want FailedPrecondition", name, err)
		}
	}
	reversed := slices.Clone(names)
	slices.Reverse(reversed)
	e.remove(t, reversed...)
	if err := e.sn.Remove(e.ctx, names[0]); !errdefs.IsNotFound(err) {
		t.Errorf("second remove: %v, want NotFound", err)
	}
	e.cleanup(t)
	e.cleanup(t)
	e.wantSnapshots(t, map[string]snapshots.Kind{})
	e.pull(t, "b", e.Layers)
}

// testConcurrentPulls: several clients pull the same image at once.
func testConcurrentPulls(t *testing.T, e *env) {
	const pulls = 8
	var wg sync.WaitGroup
	errs := make([]error, pulls)
	for i := range pulls {
		wg.Go(func() {
			parent := ""
			for j, l := range e.Layers {
				key := fmt.Sprintf("ns%d/%d/extract %s", i, j, l.ChainID)
				if parent, errs[i] = pullLayer(e.ctx, e.sn, key, parent, l); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("pull %d: %v", i, err)
		}
	}
	if n := len(e.all(t)); n != len(e.Layers) {
		t.Errorf("%d snapshots for %d layers", n, len(e.Layers))
	}
}

// testRestartDuringPull: the next layers go on top of what was there before.
func testRestartDuringPull(t *testing.T, e *env) {
	first := e.pull(t, "a", e.Layers[:1])
	e.restart(t)
	e.wantSnapshots(t, committed(first))
	names := e.pull(t, "b", e.Layers)
	if names[0] != first[0] {
		t.Errorf("the first layer is %s, was %s", names[0], first[0])
	}
	e.restart(t)
	e.cleanup(t)
	e.wantSnapshots(t, committed(names))
}
