package layerstore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/layerstore"
)

const ref = "example.com/app:1"

func digest(c string) string { return "sha256:" + strings.Repeat(c, 64) }

var (
	manifest = digest("a")
	lower    = control.ImageLayer{Digest: digest("1"), MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Size: 10, DiffID: digest("2"), TOC: digest("3"), Uncompressed: 100}
	upper    = control.ImageLayer{Digest: digest("4"), MediaType: "application/vnd.oci.image.layer.v1.tar+zstd", Size: 20, DiffID: digest("5")}
)

// fake is a daemon that makes directories instead of mounts.
type fake struct {
	mu      sync.Mutex
	fail    error // of everything
	busy    bool  // unmounting fails
	asked   int   // for descriptions
	chains  map[string]control.Layer
	mounts  map[string]string
	blob    []byte
	moved   bool // the tag leads elsewhere
	awayFor int  // so many calls are not answered
}

func newFake() *fake {
	return &fake{chains: map[string]control.Layer{}, mounts: map[string]string{}}
}

func (f *fake) enter() (func(), error) {
	f.mu.Lock()
	if f.awayFor > 0 {
		f.awayFor--
		return f.mu.Unlock, fserr.New(fserr.Unavailable, "", "", syscall.ECONNREFUSED)
	}
	return f.mu.Unlock, f.fail
}

func (f *fake) Describe(_ context.Context, name string) (control.Image, error) {
	leave, err := f.enter()
	defer leave()
	f.asked++
	if err == nil && (name != ref || f.moved) {
		err = fserr.New(fserr.NotExist, "resolve", name, nil)
	}
	return control.Image{Ref: name, Manifest: manifest, Layers: []control.ImageLayer{lower, upper}}, err
}

func (f *fake) AddLayer(_ context.Context, l control.Layer) (control.LayerStatus, error) {
	leave, err := f.enter()
	defer leave()
	if err == nil {
		f.chains[l.ChainID] = l
	}
	return control.LayerStatus{Lazy: true}, err
}

func (f *fake) RemoveChain(_ context.Context, id string) error {
	leave, err := f.enter()
	defer leave()
	if err == nil {
		delete(f.chains, id)
	}
	return err
}

func (f *fake) Mount(_ context.Context, m control.MountRequest) error {
	leave, err := f.enter()
	defer leave()
	if _, ok := f.chains[strings.TrimPrefix(m.Aname, "top/")]; err == nil && !ok {
		err = fserr.New(fserr.NotExist, "chain", m.Aname, nil)
	}
	if err == nil {
		f.mounts[m.Target] = m.Aname
	}
	return err
}

func (f *fake) Unmount(_ context.Context, target string) error {
	leave, err := f.enter()
	defer leave()
	if f.busy {
		return fserr.New(fserr.Busy, "unmount", target, nil)
	}
	if err == nil {
		delete(f.mounts, target)
	}
	return err
}

func (f *fake) ReadBlob(_ context.Context, r control.BlobRead) ([]byte, error) {
	leave, err := f.enter()
	defer leave()
	if r.Offset >= int64(len(f.blob)) {
		return nil, err
	}
	return f.blob[r.Offset:min(int64(len(f.blob)), r.Offset+int64(r.Size))], err
}

func open(t *testing.T, f *fake, dir string) *layerstore.Store {
	t.Helper()
	s, err := layerstore.New(layerstore.Options{Daemon: f, File: filepath.Join(dir, "table.json"), Mounts: filepath.Join(dir, "m"), Grace: time.Hour, Patience: time.Minute})
	must(t, err)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func used(s *layerstore.Store) map[string]int {
	n := map[string]int{}
	for _, r := range s.List() {
		n[r.Name] = r.Used()
	}
	return n
}

func want(t *testing.T, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestLookupByBlobAndTOC(t *testing.T) {
	f := newFake()
	s := open(t, f, t.TempDir())
	for _, name := range []string{lower.Digest, lower.TOC, upper.Digest} {
		r, err := s.Lookup(t.Context(), ref, name)
		must(t, err)
		if r.Layer.Digest != name && r.Layer.TOC != name {
			t.Errorf("%s gave layer %s", name, r.Layer.Digest)
		}
	}
	want(t, "image asked for", 1, f.asked)
	want(t, "chains", 2, len(f.chains))
	for _, c := range []struct{ ref, name string }{{ref, digest("9")}, {"other:1", lower.Digest}, {ref, "sha256:x"}, {ref, ""}, {"", lower.Digest}} {
		if _, err := s.Lookup(t.Context(), c.ref, c.name); !fserr.Is(err, fserr.NotExist) {
			t.Errorf("%q %q: %v", c.ref, c.name, err)
		}
	}
}

func TestUsesSurviveRestart(t *testing.T) {
	f, dir := newFake(), t.TempDir()
	s := open(t, f, dir)
	must(t, s.Use(t.Context(), ref, lower.Digest, 0))
	must(t, s.Use(t.Context(), ref, lower.Digest, 0))
	must(t, s.Use(t.Context(), ref, lower.Digest, 1000))
	must(t, s.Use(t.Context(), ref, upper.Digest, 0))
	f.moved = true // what is used is found even so
	s = open(t, f, dir)
	want(t, "uses", map[string]int{lower.Digest: 3, upper.Digest: 1}, used(s))
	target, err := s.Target(t.Context(), ref, lower.Digest)
	must(t, err)
	want(t, "mounts", 1, len(f.mounts))
	must(t, s.Release(t.Context(), ref, lower.Digest, 0))
	must(t, s.Release(t.Context(), ref, lower.Digest, 0))
	must(t, s.Release(t.Context(), ref, lower.Digest, 0)) // of others it takes none
	want(t, "uses", map[string]int{lower.Digest: 1, upper.Digest: 1}, used(s))
	s = open(t, f, dir)
	must(t, s.Release(t.Context(), ref, lower.Digest, 1000))
	want(t, "uses", map[string]int{upper.Digest: 1}, used(s))
	want(t, "mounts and chains", []int{0, 1}, []int{len(f.mounts), len(f.chains)})
	if _, err := os.Stat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("mount point: %v", err)
	}
	want(t, "uses, read", 1, len(open(t, f, dir).List()))
}

func TestReleaseWhileBusyOrAway(t *testing.T) {
	f := newFake()
	dir := t.TempDir()
	s, err := layerstore.New(layerstore.Options{Daemon: f, File: filepath.Join(dir, "t"), Mounts: dir, Grace: time.Nanosecond})
	must(t, err)
	must(t, s.Use(t.Context(), ref, lower.Digest, 0))
	_, err = s.Target(t.Context(), ref, lower.Digest)
	must(t, err)
	f.busy = true
	must(t, s.Release(t.Context(), ref, lower.Digest, 0))
	want(t, "kept while busy", map[string]int{lower.Digest: 0}, used(s))
	f.busy, f.fail = false, fserr.New(fserr.Unavailable, "", "", nil)
	s.Sweep(t.Context())
	want(t, "kept while away", map[string]int{lower.Digest: 0}, used(s))
	f.fail = nil
	s.Sweep(t.Context())
	want(t, "kept", map[string]int{}, used(s))
	want(t, "mounts and chains", []int{0, 0}, []int{len(f.mounts), len(f.chains)})
}

func TestOneChainUnderTwoNames(t *testing.T) {
	f := newFake()
	s := open(t, f, t.TempDir())
	must(t, s.Use(t.Context(), ref, lower.Digest, 0))
	must(t, s.Use(t.Context(), ref, lower.TOC, 0))
	_, err := s.Target(t.Context(), ref, lower.TOC)
	must(t, err)
	must(t, s.Release(t.Context(), ref, lower.Digest, 0))
	want(t, "mounts and chains", []int{1, 1}, []int{len(f.mounts), len(f.chains)})
	must(t, s.Release(t.Context(), ref, lower.TOC, 0))
	want(t, "mounts and chains", []int{0, 0}, []int{len(f.mounts), len(f.chains)})
}

func TestDaemonAway(t *testing.T) {
	f := newFake()
	s := open(t, f, t.TempDir())
	f.awayFor = 3
	_, err := s.Lookup(t.Context(), ref, lower.Digest)
	must(t, err)
	f.chains = map[string]control.Layer{} // it lost its records
	_, err = s.Target(t.Context(), ref, lower.Digest)
	must(t, err)
	f.fail = fserr.New(fserr.Unauthorized, "", "", nil)
	if _, err := s.Lookup(t.Context(), ref, upper.Digest); !fserr.Is(err, fserr.Unauthorized) {
		t.Errorf("a final error: %v", err)
	}
	f.fail = nil
	_, err = s.Lookup(t.Context(), ref, upper.Digest) // nothing of the failure is remembered
	must(t, err)
}

func TestUseIsNotCountedIfNotWritten(t *testing.T) {
	f, dir := newFake(), t.TempDir()
	s := open(t, f, filepath.Join(dir, "sub"))
	_, err := s.Lookup(t.Context(), ref, lower.Digest)
	must(t, err)
	must(t, os.RemoveAll(filepath.Join(dir, "sub")))
	if err := s.Use(t.Context(), ref, lower.Digest, 0); err == nil {
		t.Error("used, and nobody will know")
	}
	want(t, "uses", map[string]int{lower.Digest: 0}, used(s))
}

func TestManyAtOnce(t *testing.T) {
	f, dir := newFake(), t.TempDir()
	s := open(t, f, dir)
	var wg sync.WaitGroup
	for uid := range uint32(8) {
		wg.Go(func() {
			for _, name := range []string{lower.Digest, lower.TOC, upper.Digest} {
				if err := s.Use(t.Context(), ref, name, uid); err != nil {
					t.Error(err)
				}
				if _, err := s.Target(t.Context(), ref, name); err != nil {
					t.Error(err)
				}
				if err := s.Release(t.Context(), ref, name, uid); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for uid := range uint32(8) {
		for name := range used(s) {
			must(t, s.Release(t.Context(), ref, name, uid))
		}
	}
	want(t, "kept", map[string]int{}, used(s))
	want(t, "mounts and chains", []int{0, 0}, []int{len(f.mounts), len(f.chains)})
}

// held counts mounts and chains.
func (f *fake) held() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []int{len(f.mounts), len(f.chains)}
}
