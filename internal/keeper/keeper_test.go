package keeper_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/keeper"
	"github.com/nineply/nineply/internal/mount"
)

// startKeeper runs a keeper in this process.
func startKeeper(t testing.TB, opts keeper.Options) *keeper.Client {
	t.Helper()
	opts.Mode = mount.FUSE
	ctx := testCtx(t)
	k, err := keeper.New(ctx, opts)
	must(t, err)
	socket := filepath.Join(t.TempDir(), "control")
	ln, err := net.Listen("unix", socket)
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- k.Serve(ctx, ln) }()
	c := keeper.NewClient(socket)
	t.Cleanup(func() {
		c.Close()
		must(t, k.UnmountAll(ctx))
		must(t, k.Close(ctx))
		must(t, ln.Close())
		if err := <-served; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return c
}

func TestMountAndUnmount(t *testing.T) {
	srv, socket := serveTree(t)
	state := filepath.Join(t.TempDir(), "state")
	c := startKeeper(t, keeper.Options{Connect: "unix:" + socket, StateFile: state, MaxMounts: 2, Version: "v1"})
	ctx := testCtx(t)
	target := filepath.Join(t.TempDir(), "made/by/the keeper")

	st, err := c.Mount(ctx, "chain/a", target, "")
	must(t, err)
	if st.Aname != "chain/a" || st.Target != target || st.Mode != mount.FUSE || st.State != mount.Connected {
		t.Errorf("status %+v", st)
	}
	if got := content(t, target); got != "hello\n" {
		t.Errorf("read %q", got)
	}
	_, err = c.Mount(ctx, "chain/a", target, mount.FUSE)
	must(t, err)
	if n := srv.Attaches.Load(); n != 1 {
		t.Errorf("attached %d times", n)
	}
	list, err := c.List(ctx)
	if err != nil || len(list) != 1 || list[0].Bytes != 6 || list[0].Requests == 0 || list[0].Kernel["read"] != 1 {
		t.Errorf("list %+v, %v", list, err)
	}
	h, err := c.Health(ctx)
	if err != nil || h.Mounts != 1 || h.Waiting != 0 || h.PID != os.Getpid() || h.Version != "v1" || h.Draining {
		t.Errorf("health %+v, %v", h, err)
	}
	must(t, c.Unmount(ctx, target, false))
	must(t, c.Unmount(ctx, target, false))
	if got := content(t, target); got == "hello\n" {
		t.Error("still mounted")
	}
}

func TestRefusals(t *testing.T) {
	srv, socket := serveTree(t)
	c := startKeeper(t, keeper.Options{Connect: "unix:" + socket, MaxMounts: 1})
	ctx := testCtx(t)
	dir := t.TempDir()
	target := filepath.Join(dir, "m")
	mountAt := func(aname, target string, mode mount.Mode) error {
		_, err := c.Mount(ctx, aname, target, mode)
		return err
	}
	srv.FailAttach(syscall.ENOENT)
	if err := mountAt("x", target, ""); !fserr.Is(err, fserr.NotExist) {
		t.Errorf("unknown tree: %v", err)
	}
	srv.FailAttach(0)
	must(t, mountAt("x", target, ""))
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	for what, tt := range map[string]struct {
		err  error
		kind fserr.Kind
	}{
		"other tree":   {mountAt("y", target, ""), fserr.Busy},
		"too many":     {mountAt("y", filepath.Join(dir, "n"), ""), fserr.TooLarge},
		"relative":     {mountAt("y", "n", ""), fserr.Invalid},
		"root":         {mountAt("y", "/", ""), fserr.Invalid},
		"no name":      {mountAt("", target, ""), fserr.Invalid},
		"unknown mode": {mountAt("y", target, "nfs"), fserr.Invalid},
	} {
		if !fserr.Is(tt.err, tt.kind) {
			t.Errorf("%s: %v, want kind %v", what, tt.err, tt.kind)
		}
	}
	fd, err := unix.Open(filepath.Join(target), unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	if err := c.Unmount(ctx, target, false); !fserr.Is(err, fserr.Busy) {
		t.Errorf("unmount in use: %v", err)
	}
	must(t, c.Unmount(ctx, target, true))
	must(t, mountAt("y", target, "")) // the lazy one is out of the way
	must(t, unix.Close(fd))
	must(t, c.Unmount(ctx, target, false))
	srv.Stop()
	if err := mountAt("x", target, ""); !fserr.Is(err, fserr.Unavailable) {
		t.Errorf("no server: %v", err)
	}
	nobody := keeper.NewClient(filepath.Join(dir, "nothing"))
	if _, err := nobody.Health(ctx); !fserr.Is(err, fserr.Unavailable) {
		t.Errorf("no keeper: %v", err)
	}
}

// Many callers of one mount get one mount.
func TestConcurrentMounts(t *testing.T) {
	srv, socket := serveTree(t)
	c := startKeeper(t, keeper.Options{Connect: "unix:" + socket})
	target := filepath.Join(t.TempDir(), "m")
	var wg sync.WaitGroup
	for range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, err := c.Mount(testCtx(t), "chain/a", target, ""); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if n := srv.Attaches.Load(); n != 1 || mounted(t, target) != 1 {
		t.Errorf("%d attaches, %d mounts", n, mounted(t, target))
	}
}

// A mount that ends without the keeper's doing is forgotten and can be made
// again.
func TestMountEndsElsewhere(t *testing.T) {
	_, socket := serveTree(t)
	c := startKeeper(t, keeper.Options{Connect: "unix:" + socket})
	ctx := testCtx(t)
	target := filepath.Join(t.TempDir(), "m")
	_, err := c.Mount(ctx, "chain/a", target, "")
	must(t, err)
	must(t, unix.Unmount(target, 0))
	waitFor(t, func() bool {
		list, err := c.List(ctx)
		must(t, err)
		return len(list) == 0
	})
	_, err = c.Mount(ctx, "chain/a", target, "")
	must(t, err)
}

// Options arrive in the mount.
func TestMountOptions(t *testing.T) {
	srv, socket := serveTree(t)
	c := startKeeper(t, keeper.Options{Connect: "unix:" + socket})
	ctx := testCtx(t)
	target := filepath.Join(t.TempDir(), "m")
	_, err := c.MountWith(ctx, keeper.MountRequest{Aname: "a", Target: target, Options: keeper.MountOptions{
		NoSuid: true, NoDev: true, Patience: keeper.Duration(time.Millisecond),
	}})
	must(t, err)
	var st unix.Statfs_t
	must(t, unix.Statfs(target, &st))
	if want := int64(unix.ST_NOSUID | unix.ST_NODEV | unix.ST_RDONLY); st.Flags&want != want {
		t.Errorf("flags %#x", st.Flags)
	}
	srv.Stop()
	waitFor(t, func() bool {
		h, err := c.Health(ctx)
		must(t, err)
		return h.Waiting == 1
	})
	if got := content(t, target); got == "hello\n" {
		t.Error("read without a server")
	}
}
