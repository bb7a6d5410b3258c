package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/snapshotter"
)

// mortal is a process's connection to the backend. At one call it dies: the
// snapshotter's root is copied as it is at that moment, and nothing the process
// does afterwards reaches the backend.
type mortal struct {
	*fakeBackend
	t      *testing.T
	method string // dies at this call,
	after  bool   // after it had its effect instead of before,
	nth    int    // the nth time
	root   string
	copied string

	mu   sync.Mutex
	dead bool
}

var errDead = fserr.New(fserr.Unavailable, "call", "backend", errors.New("the process is dead"))

func (m *mortal) die(method string, after bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	if method != m.method || after != m.after {
		return nil
	}
	if m.nth--; m.nth != 0 {
		return nil
	}
	m.dead = true
	if out, err := exec.Command("cp", "-a", m.root+"/.", m.copied).CombinedOutput(); err != nil {
		m.t.Errorf("copying: %v: %s", err, out)
	}
	return errDead
}

func (m *mortal) AddLayer(ctx context.Context, l snapshotter.Layer) (st snapshotter.LayerStatus, err error) {
	err = m.around("AddLayer", func() error {
		st, err = m.fakeBackend.AddLayer(ctx, l)
		return err
	})
	return st, err
}

func (m *mortal) RemoveChain(ctx context.Context, chain string) error {
	return m.around("RemoveChain", func() error { return m.fakeBackend.RemoveChain(ctx, chain) })
}

func (m *mortal) Mount(ctx context.Context, chain string) (target string, err error) {
	err = m.around("Mount", func() error {
		target, err = m.fakeBackend.Mount(ctx, chain)
		return err
	})
	return target, err
}

func (m *mortal) Unmount(ctx context.Context, chain string) error {
	return m.around("Unmount", func() error { return m.fakeBackend.Unmount(ctx, chain) })
}

func (m *mortal) around(method string, fn func() error) error {
	if err := m.die(method, false); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	return m.die(method, true)
}

// life is what happens to an image and a container, as steps that a client
// repeats after a failure.
func life(layers []testLayer) []func(context.Context, *snapshotter.Snapshotter) error {
	top := remote(layers[len(layers)-1].chain)
	var steps []func(context.Context, *snapshotter.Snapshotter) error
	for i := range layers {
		steps = append(steps, func(ctx context.Context, sn *snapshotter.Snapshotter) error {
			if _, err := prepareLayer(ctx, sn, layers, i); !errdefs.IsAlreadyExists(err) {
				return fmt.Errorf("layer %d: %w", i, err)
			}
			return nil
		})
	}
	steps = append(steps,
		func(ctx context.Context, sn *snapshotter.Snapshotter) error {
			_, err := sn.Prepare(ctx, "ns/9/c", top)
			return err
		},
		func(ctx context.Context, sn *snapshotter.Snapshotter) error {
			_, err := sn.Mounts(ctx, "ns/9/c")
			return err
		},
		removing("ns/9/c"),
		cleaning)
	for i := len(layers) - 1; i >= 0; i-- {
		steps = append(steps, removing(remote(layers[i].chain)))
	}
	return append(steps, cleaning)
}

func cleaning(ctx context.Context, sn *snapshotter.Snapshotter) error { return sn.Cleanup(ctx) }

func removing(key string) func(context.Context, *snapshotter.Snapshotter) error {
	return func(ctx context.Context, sn *snapshotter.Snapshotter) error { return sn.Remove(ctx, key) }
}

// TestKilledInCall: the process is killed at a call to the backend. The next one
// repeats what was under way, goes on, and in the end nothing is left.
func TestKilledInCall(t *testing.T) {
	needRoot(t)
	for _, method := range []string{"AddLayer", "Mount", "Unmount", "RemoveChain"} {
		for _, after := range []bool{false, true} {
			for nth := 1; nth <= 2; nth++ {
				t.Run(fmt.Sprintf("%s after=%v %d", method, after, nth), func(t *testing.T) {
					testKill(t, &mortal{t: t, method: method, after: after, nth: nth})
				})
			}
		}
	}
}

func testKill(t *testing.T, m *mortal) {
	ctx := t.Context()
	b := newFakeBackend(t)
	layers := b.addImage("app", 2)
	m.fakeBackend, m.root, m.copied = b, t.TempDir(), t.TempDir()
	first, err := snapshotter.New(ctx, snapshotter.Options{Root: m.root, Backend: m, OnSourceFailure: snapshotter.Fail})
	if err != nil {
		t.Fatal(err)
	}
	steps := life(layers)
	done := 0
	for done < len(steps) && !m.dead {
		if err := steps[done](ctx, first); err != nil && !m.dead {
			t.Fatalf("step %d: %v", done, err)
		}
		if !m.dead {
			done++
		}
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if !m.dead {
		t.Skip("no such call")
	}
	r := &rig{t: t, ctx: ctx, root: m.copied, b: b}
	r.open()
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	for i, step := range steps[done:] {
		if err := step(ctx, r.Snapshotter); err != nil {
			t.Errorf("step %d of the next process: %v", done+i, err)
		}
	}
	r.wantState(state{})
}

// TestLeftovers: files a process may leave when it dies inside a transaction, and
// files nobody knows, do no harm.
func TestLeftovers(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	top := r.pull(r.b.addImage("app", 1))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"2/fs", filepath.Join("2", "work", "work"), "77/fs", "rm-77/fs", "rm-5-1/fs", "new-12"} {
		if err := os.MkdirAll(filepath.Join(r.root, "snapshots", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"snapshots/2/fs/stale", "snapshots/file", "chains/.sha256-x123", "chains/foreign", "mounts/foreign",
		"chains/sha256-" + fmt.Sprintf("%064d", 0)} {
		if err := os.WriteFile(filepath.Join(r.root, file), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.open()
	mounted(t, r.prepare("ns/9/c", top), func(dir string) {
		if _, err := os.Stat(filepath.Join(dir, "stale")); err == nil {
			t.Error("a file of a lost snapshot is in a new one")
		}
	})
	r.cleanup()
	if diff := names(t, filepath.Join(r.root, "snapshots")); len(diff) != 2 {
		t.Errorf("directories %v, want those of the image and the container", diff)
	}
	r.remove("ns/9/c", top)
	r.cleanup()
	r.wantState(state{Journal: []string{"foreign", "foreign"}})
}

// TestSecondProcess: two processes on one root would destroy each other's work.
func TestSecondProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a lock")
	}
	t.Parallel()
	r := newRig(t)
	if sn, err := snapshotter.New(r.ctx, snapshotter.Options{Root: r.root, Backend: r.b}); err == nil {
		t.Errorf("a second snapshotter was opened; closing it: %v", sn.Close())
	}
}
