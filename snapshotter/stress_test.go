package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/nineply/nineply/snapshotter"
)

// TestContainersComeAndGo: containers of two images start and end while cleanups
// run and images are pulled and removed. A container's chain is mounted as long
// as it lives, and nothing is left in the end.
func TestContainersComeAndGo(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	images := [][]testLayer{r.b.addImage("one", 2), r.b.addImage("two", 3)}
	for _, layers := range images {
		r.pull(layers)
	}
	other := r.b.addImage("other", 2)
	var workers, cleaner sync.WaitGroup
	stop := make(chan struct{})
	cleaner.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				r.cleanup()
			}
		}
	})
	for w := range 6 {
		layers := images[w%2]
		workers.Go(func() {
			for i := range 15 {
				if err := oneContainer(r, fmt.Sprintf("ns/%d/c%d", i, w), layers); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	workers.Go(func() {
		for range 10 {
			r.pull(other)
			r.removeImage(other)
		}
	})
	workers.Wait()
	close(stop)
	cleaner.Wait()
	for _, layers := range images {
		r.removeImage(layers)
	}
	r.cleanup()
	r.wantState(state{})
}

func oneContainer(r *rig, key string, layers []testLayer) error {
	top := layers[len(layers)-1]
	if _, err := r.Prepare(r.ctx, key, remote(top.chain)); err != nil {
		return err
	}
	m, err := r.Mounts(r.ctx, key)
	if err != nil {
		return err
	}
	lower := m[0].Options[2][len("lowerdir="):]
	if _, err := os.Stat(filepath.Join(lower, "f0")); err != nil {
		return fmt.Errorf("the chain of a living container: %w", err)
	}
	return r.Remove(r.ctx, key)
}

// TestClosed: after Close calls fail, and say that trying again makes sense.
func TestClosed(t *testing.T) {
	r := newRig(t)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := r.Prepare(r.ctx, "ns/1/k", "")
	_, err2 := r.Mounts(r.ctx, "ns/1/k")
	for _, err := range []error{err, err2, r.Cleanup(r.ctx), r.Remove(r.ctx, "x")} {
		if !errdefs.IsUnavailable(err) {
			t.Errorf("after Close: %v, want Unavailable", err)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	b := newFakeBackend(t)
	for _, o := range []snapshotter.Options{
		{Root: t.TempDir()},
		{Backend: b},
		{Backend: b, Root: "relative"},
		{Backend: b, Root: filepath.Join(t.TempDir(), "a:b")},
		{Backend: b, Root: filepath.Join(t.TempDir(), "a,b")},
	} {
		if _, err := snapshotter.New(t.Context(), o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v, want InvalidArgument", o, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshotter.New(t.Context(), snapshotter.Options{Backend: b, Root: file}); err == nil {
		t.Error("a file was taken for the root")
	}
}

// TestReservedNames: nobody can create what looks like a remote snapshot.
func TestReservedNames(t *testing.T) {
	r := newRig(t)
	r.prepare("ns/1/k", "")
	_, err := r.Prepare(r.ctx, "@remote/sha256:0", "")
	_, err2 := r.View(r.ctx, "", "")
	for _, err := range []error{err, err2, r.Commit(r.ctx, "@remote/x", "ns/1/k")} {
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("error %v, want InvalidArgument", err)
		}
	}
	big := map[string]string{"containerd.io/snapshot/x": string(make([]byte, 5000))}
	if _, err := r.Prepare(r.ctx, "ns/2/k", "", snapshots.WithLabels(big)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("big label: %v, want InvalidArgument", err)
	}
	if err := r.Commit(r.ctx, "ns/3/n", "ns/1/absent"); !errdefs.IsNotFound(err) {
		t.Errorf("commit of nothing: %v, want NotFound", err)
	}
	r.commit("ns/3/n", "ns/1/k")
	if err := r.Commit(r.ctx, "ns/4/n", "ns/3/n"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("commit of a committed snapshot: %v, want FailedPrecondition", err)
	}
}

// TestParallelUnpackIsRefused: with the capability rebase containerd names no
// parent; a layer prepared so could never be found again.
func TestParallelUnpackIsRefused(t *testing.T) {
	r := newRig(t)
	layers := r.b.addImage("app", 2)
	l := layers[1]
	l.labels["containerd.io/snapshot/parent-chain-id"] = layers[0].chain
	if _, err := r.Prepare(r.ctx, "ns/1/extract", "", snapshots.WithLabels(l.labels)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("error %v, want FailedPrecondition", err)
	}
	r.pull(layers[:1])
	if _, err := r.Prepare(r.ctx, "ns/1/extract", "", snapshots.WithLabels(l.labels)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("with the parent there: error %v, want FailedPrecondition", err)
	}
}

// TestServeEnds: calls under way are finished before Serve ends, and codes on the
// wire are those of the errors.
func TestServeEnds(t *testing.T) {
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
	dir, err := os.MkdirTemp("", "sn")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.ctx)
	served := make(chan error, 1)
	go func() { served <- snapshotter.Serve(ctx, l, r.Snapshotter) }()
	conn, err := grpc.NewClient("unix:"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	client := snapshotsapi.NewSnapshotsClient(conn)
	list, err := client.List(r.ctx, &snapshotsapi.ListSnapshotsRequest{Filters: []string{`labels."`}})
	if err == nil {
		_, err = list.Recv()
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("list with a broken filter: %v, want InvalidArgument", err)
	}
	pulled := make(chan error, 1)
	go func() {
		_, err := prepareLayer(r.ctx, proxy.NewSnapshotter(client, "x"), layers, 0)
		pulled <- err
	}()
	<-entered
	cancel()
	close(release)
	if err := <-pulled; !errdefs.IsAlreadyExists(err) {
		t.Errorf("pull during the end: %v, want AlreadyExists", err)
	}
	if err := errors.Join(<-served, conn.Close()); err != nil {
		t.Error(err)
	}
}

// BenchmarkMounts is what containerd asks several times for each container.
func BenchmarkMounts(b *testing.B) {
	needRoot(b)
	r := newRig(b)
	r.prepare("ns/1/c", r.pull(r.b.addImage("app", 3)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Mounts(r.ctx, "ns/1/c"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkContainer makes and removes a container's snapshot among those of a
// thousand others.
func BenchmarkContainer(b *testing.B) {
	needRoot(b)
	r := newRig(b)
	top := r.pull(r.b.addImage("app", 3))
	for i := range 1000 {
		r.prepare(fmt.Sprintf("ns/%d/other", i), "")
	}
	b.ReportAllocs()
	for b.Loop() {
		r.prepare("ns/1/c", top)
		r.remove("ns/1/c")
	}
}
