package faultfs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/faultfs"
)

func create(t *testing.T, f *faultfs.FS, name string) chunkstore.File {
	t.Helper()
	h, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func mustWrite(t *testing.T, h chunkstore.File, p []byte, off int64) {
	t.Helper()
	if n, err := h.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
}

// contentOf reads a whole file; nil if there is none.
func contentOf(t *testing.T, f *faultfs.FS, name string) []byte {
	t.Helper()
	h, err := f.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	size, err := h.Size()
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, size)
	if _, err := h.ReadAt(p, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return p
}

func TestPowerCutForgetsWhatWasNotSynced(t *testing.T) {
	f := faultfs.New()
	h := create(t, f, "d/a")
	mustWrite(t, h, []byte("one"), 0)
	if err := errors.Join(h.Sync(), f.SyncDir("d")); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, h, []byte("two"), 0)
	create(t, f, "d/b")
	rng := rand.New(rand.NewPCG(1, 1))

	none, all := f.AfterPowerCut(rng, 0), f.AfterPowerCut(rng, 1)
	if got := contentOf(t, none, "d/a"); string(got) != "one" {
		t.Errorf("nothing unsynced survived, a = %q", got)
	}
	if got := contentOf(t, none, "d/b"); got != nil {
		t.Errorf("unsynced name survived")
	}
	if got := contentOf(t, all, "d/a"); string(got) != "two" {
		t.Errorf("everything survived, a = %q", got)
	}
	if got := contentOf(t, all, "d/b"); got == nil {
		t.Errorf("everything survived, but not b")
	}
	if got := contentOf(t, f.AfterKill(), "d/a"); string(got) != "two" {
		t.Errorf("after kill, a = %q", got)
	}
	if none.BootID() == f.BootID() || f.AfterKill().BootID() != f.BootID() {
		t.Errorf("boot ids: %q, after cut %q, after kill %q", f.BootID(), none.BootID(), f.AfterKill().BootID())
	}
}

func TestPowerCutLosesPagesOneByOne(t *testing.T) {
	f := faultfs.New()
	h := create(t, f, "a")
	if err := f.SyncDir("."); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, h, bytes.Repeat([]byte{1}, 64*4096), 0)
	got := contentOf(t, f.AfterPowerCut(rand.New(rand.NewPCG(1, 1)), 0.5), "a")
	lost := bytes.Count(got, make([]byte, 4096))
	if kept := bytes.Count(got, bytes.Repeat([]byte{1}, 4096)); kept == 0 || lost == 0 {
		t.Errorf("%d pages kept, %d lost of %d bytes", kept, lost, len(got))
	}
}

func TestCutPower(t *testing.T) {
	f := faultfs.New()
	f.CutPower(2)
	h := create(t, f, "a")
	mustWrite(t, h, []byte("x"), 0)
	if f.Dead() {
		t.Error("dead too early")
	}
	_, werr := h.WriteAt([]byte("y"), 0)
	_, rerr := h.ReadAt(make([]byte, 1), 0)
	for name, err := range map[string]error{"write": werr, "read": rerr, "sync": h.Sync(), "remove": f.Remove("a")} {
		if !errors.Is(err, faultfs.ErrPowerCut) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !f.Dead() {
		t.Error("not dead")
	}
}

func TestInject(t *testing.T) {
	f := faultfs.New()
	h := create(t, f, "a")
	f.Inject(func(c faultfs.Call) error {
		switch c.Op {
		case "write":
			return faultfs.Torn{N: 2, Err: syscall.EIO}
		case "sync":
			return syscall.EIO
		}
		return nil
	})
	if n, err := h.WriteAt([]byte("four"), 0); n != 2 || !errors.Is(err, syscall.EIO) {
		t.Errorf("torn write: %d, %v", n, err)
	}
	if err := h.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("sync: %v", err)
	}
	f.Inject(nil)
	if got := contentOf(t, f, "a"); string(got) != "fo" {
		t.Errorf("a = %q", got)
	}
}

func TestHolesAndCapacity(t *testing.T) {
	f := faultfs.New()
	f.SetCapacity(8 * 4096)
	h := create(t, f, "a.seg")
	mustWrite(t, h, bytes.Repeat([]byte{1}, 6*4096), 0)
	if n, err := h.WriteAt(bytes.Repeat([]byte{2}, 4*4096), 6*4096); !errors.Is(err, syscall.ENOSPC) || n >= 4*4096 {
		t.Errorf("beyond capacity: %d, %v", n, err)
	}
	if err := h.PunchHole(100, 3*4096); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 3*4096+1)
	if _, err := h.ReadAt(p, 4096-1); err != nil {
		t.Fatal(err)
	}
	if p[0] != 1 || !bytes.Equal(p[1:1+2*4096], make([]byte, 2*4096)) || p[1+2*4096] != 1 {
		t.Error("hole is not where it should be")
	}
	before := f.Allocated(".seg")
	if err := h.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	if got := f.Allocated(".seg"); got != 4096 || before <= got {
		t.Errorf("allocated %d, before %d", got, before)
	}
}
