package image_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/testreg"
)

// failing fails one call of a kind.
type failing struct {
	op    string
	at    int64
	err   error
	calls atomic.Int64
}

func (f *failing) check(op string) error {
	if op == f.op && f.calls.Add(1) == f.at+1 {
		return fmt.Errorf("%s: %w", op, f.err)
	}
	return nil
}

// failingRecords are records on a disk that fails.
type failingRecords struct {
	image.Records
	*failing
}

func (r failingRecords) Get(ctx context.Context, key string) ([]byte, error) {
	if err := r.check("get"); err != nil {
		return nil, err
	}
	return r.Records.Get(ctx, key)
}

func (r failingRecords) Put(ctx context.Context, key string, val []byte) error {
	if err := r.check("put"); err != nil {
		return err
	}
	return r.Records.Put(ctx, key, val)
}

func (r failingRecords) Delete(ctx context.Context, key string) error {
	if err := r.check("delete"); err != nil {
		return err
	}
	return r.Records.Delete(ctx, key)
}

func (r failingRecords) Walk(ctx context.Context, prefix string, fn func(string, []byte) error) error {
	if err := r.check("walk"); err != nil {
		return err
	}
	return r.Records.Walk(ctx, prefix, fn)
}

// failingStore is a chunk store on a disk that fails.
type failingStore struct {
	fetch.Store
	*failing
}

func (s failingStore) ReadAt(loc chunkstore.Loc, d chunkstore.Digest, p []byte, off int64) (int, error) {
	if err := s.check("read"); err != nil {
		return 0, err
	}
	return s.Store.ReadAt(loc, d, p, off)
}

func (s failingStore) Put(ctx context.Context, d chunkstore.Digest, data []byte) (chunkstore.Loc, error) {
	if err := s.check("store"); err != nil {
		return 0, err
	}
	return s.Store.Put(ctx, d, data)
}

func (s failingStore) PutVerified(ctx context.Context, v chunkstore.Verified) (chunkstore.Loc, error) {
	if err := s.check("store"); err != nil {
		return 0, err
	}
	return s.Store.PutVerified(ctx, v)
}

// faultImages are one image for each kind of index.
type faultImages struct {
	reg   *testreg.Registry
	added map[string]testreg.Added
}

func newFaultImages(t *testing.T) faultImages {
	t.Helper()
	f := faultImages{testreg.New(t), map[string]testreg.Added{}}
	for name, layers := range map[string][]testreg.Layer{
		"lazy":  {lazyLayer(t, file{name: "base", body: "of all"}), lazyLayer(t, file{name: "file", body: big})},
		"plain": {gzipLayer(t, file{name: "base", body: "of all"}), gzipLayer(t, file{name: "file", body: big})},
	} {
		f.added[name] = f.reg.AddImage(name, "v1", testreg.Image{Layers: layers})
	}
	return f
}

// use does with a node what users do, until something fails. What is read is right.
func (f faultImages) use(t *testing.T, n *node) error {
	t.Helper()
	ctx := t.Context()
	h, err := image.NewCache(ctx, n.Catalog, n.store)
	if err != nil {
		return err
	}
	for _, name := range []string{"lazy", "plain"} {
		ref := f.reg.Ref(name, "v1")
		if err := f.readAll(t, n, "image/"+ref); err != nil {
			return err
		}
		parent := ""
		for i, l := range f.added[name].Layers {
			id := chainID(name, i)
			if _, err := n.AddLayer(ctx, image.LayerRequest{Ref: ref, Manifest: f.added[name].Descriptor.Digest.String(), Digest: l.Digest.String(), ChainID: id, Parent: parent}); err != nil {
				return err
			}
			parent = id
		}
		if err := f.readAll(t, n, "chain/"+parent); err != nil {
			return err
		}
		if _, _, err := h.Pin(ctx, ref); err != nil {
			return err
		}
	}
	if err := n.RemoveChain(ctx, chainID("lazy", 1)); err != nil {
		return err
	}
	if _, err := h.Unpin(ctx, f.reg.Ref("lazy", "v1")); err != nil {
		return err
	}
	_, err = h.Collect(ctx, image.CollectOptions{Unused: true, Target: -1})
	return err
}

func chainID(name string, i int) string {
	return "sha256:" + fmt.Sprintf("%064x", []byte(fmt.Sprintf("%s%d", name, i)))
}

// readAll reads both files of an image. Wrong bytes fail the test.
func (f faultImages) readAll(t *testing.T, n *node, aname string) error {
	t.Helper()
	tr, release, err := n.Open(t.Context(), aname)
	if err != nil {
		return err
	}
	defer release()
	for path, want := range map[string]string{"base": "of all", "file": big} {
		got, err := readFile(t.Context(), tr, path)
		if err != nil {
			return err
		}
		if got != want {
			t.Errorf("%s of %s: %d wrong bytes", path, aname, len(got))
		}
	}
	return nil
}

// recovered demands that a node that works now has all there is.
func (f faultImages) recovered(t *testing.T, dir string) {
	t.Helper()
	n, stop := start(t, dir, 0)
	defer stop()
	if err := f.use(t, n); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestRecordFaults fails calls of every kind of the catalog's records in turn. The
// user gets an error or what is right, and nothing bad is left behind.
func TestRecordFaults(t *testing.T) {
	f := newFaultImages(t)
	step := int64(3)
	if testing.Short() || raceEnabled {
		step = 11
	}
	for _, op := range []string{"get", "put", "delete", "walk"} {
		failures := 0
		for at := int64(0); ; at += step {
			fault := &failing{op: op, at: at, err: []error{syscall.EIO, fserr.New(fserr.NoSpace, "put", "record", syscall.ENOSPC)}[at%2]}
			dir := t.TempDir()
			n, stop := startWith(t, dir, 0, func(o *image.Options) { o.Records = failingRecords{o.Records, fault} })
			err := f.use(t, n)
			stop()
			if err != nil && !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s %d fails: the cause is not told: %v", op, at, err)
			}
			if fault.calls.Load() <= at {
				break
			}
			failures++
			f.recovered(t, dir)
		}
		t.Logf("%d calls of %s failed", failures, op)
	}
}

// TestStoreFaults fails calls of the chunk store in turn: nobody notices.
func TestStoreFaults(t *testing.T) {
	f := newFaultImages(t)
	for _, op := range []string{"read", "store"} {
		for _, cause := range []error{chunkstore.ErrNotFound, fserr.New(fserr.Unavailable, "read", "chunk", syscall.EIO), chunkstore.ErrNoSpace} {
			for at := int64(0); at < 20; at += 5 {
				fault := &failing{op: op, at: at, err: cause}
				dir := t.TempDir()
				var sched *fetch.Scheduler
				n, stop := startWith(t, dir, 0, func(o *image.Options) {
					o.Store = failingStore{o.Store, fault}
					sched = fetch.New(context.WithoutCancel(t.Context()), o.Store, fetch.Options{})
					o.Scheduler = sched
				})
				if err := f.use(t, n); err != nil {
					t.Errorf("%s %d fails with %v: %v", op, at, cause, err)
				}
				sched.Close()
				stop()
				if fault.calls.Load() <= at {
					break
				}
				f.recovered(t, dir)
			}
		}
	}
}

// TestIndexFilesAfterPowerCuts leaves of each index file what a power cut may leave
// if the disk did not sync what it said it had: the file is made anew.
func TestIndexFilesAfterPowerCuts(t *testing.T) {
	f := newFaultImages(t)
	dir := t.TempDir()
	n, stop := start(t, dir, 0)
	for name := range f.added {
		if err := f.readAll(t, n, "image/"+f.reg.Ref(name, "v1")); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	files, err := filepath.Glob(filepath.Join(dir, "index", "*", "*"))
	if err != nil || len(files) != 8 { // 4 layers, 2 of them with checkpoints, 2 merged
		t.Fatalf("%q, %v", files, err)
	}
	harms := map[string]func([]byte) []byte{
		"empty":      func([]byte) []byte { return nil },
		"cut":        func(p []byte) []byte { return p[:len(p)/2] },
		"zeros":      func(p []byte) []byte { return make([]byte, len(p)) },
		"zeros last": func(p []byte) []byte { clear(p[len(p)/2:]); return p },
		"old tail":   func(p []byte) []byte { return append(p, p[len(p)/3:]...) },
		"flip":       func(p []byte) []byte { p[len(p)*2/3] ^= 1; return p },
	}
	for name, harm := range harms {
		for i := range files {
			if testing.Short() && i%3 != 0 {
				continue
			}
			copied := filepath.Join(t.TempDir(), "n")
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(copied, files[i][len(dir):])
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, harm(data), 0o600); err != nil {
				t.Fatal(err)
			}
			n, stop := start(t, copied, 0)
			for image := range f.added {
				if err := f.readAll(t, n, "image/"+f.reg.Ref(image, "v1")); err != nil {
					t.Errorf("%s: %s: %v", name, files[i][len(dir):], err)
				}
			}
			stop()
		}
	}
}
