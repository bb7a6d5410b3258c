package mount_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/mount"
	"github.com/nineply/nineply/internal/p9client"
	"github.com/nineply/nineply/internal/p9client/p9fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testCtx(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// needMount skips where this process may not mount FUSE.
func needMount(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse")
	}
}

// sourceTree gives a directory with everything an image may hold. It is on
// tmpfs, where all kinds of attributes can be set.
func sourceTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256m"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	fillTree(t, dir)
	return dir
}

func fillTree(t testing.TB, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(at("usr/lib/deep/er"), 0o755))
	must(t, os.WriteFile(at("usr/small"), []byte("a small file\n"), 0o640))
	must(t, os.WriteFile(at("usr/empty"), nil, 0o644))
	must(t, os.WriteFile(at("big"), pattern(5<<20+77, 1), 0o644))
	must(t, os.Link(at("usr/small"), at("usr/lib/hard")))
	must(t, os.Symlink("../usr/small", at("usr/sym")))
	must(t, os.Symlink("nowhere", at("dangling")))
	must(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(at("blk"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 300))))
	must(t, unix.Mkfifo(at("fifo"), 0o622))
	must(t, os.Mkdir(at("many"), 0o755))
	for i := range 700 {
		must(t, os.WriteFile(at(fmt.Sprintf("many/%d-some-file-name", i)), pattern(i, byte(i)), 0o644))
	}
	must(t, os.Mkdir(at("tmp"), 0o777))
	must(t, unix.Chmod(at("tmp"), 0o1777))
	must(t, os.Mkdir(at("private"), 0o700))
	must(t, os.WriteFile(at("private/key"), []byte("secret"), 0o600))
	must(t, os.Chown(at("usr/small"), 1234, 5678))
	must(t, unix.Setxattr(at("usr"), "trusted.note", []byte("on a directory"), 0))
	must(t, unix.Setxattr(at("usr/small"), "security.capability", capNetRaw, 0))
	must(t, os.Chtimes(at("usr/empty"), time.Time{}, time.Unix(1234567890, 123456789)))
}

// capNetRaw is a version 2 security.capability with cap_net_raw=ep.
var capNetRaw = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*31+i>>9) ^ seed
	}
	return b
}

// fixture is a mounted fake server.
type fixture struct {
	*mount.Mount
	srv *p9fake.Server
	src string
	dir string // where it is mounted
}

func dialer(t testing.TB, socket string) p9client.Dialer {
	t.Helper()
	d, err := p9client.ParseAddr("unix:" + socket)
	must(t, err)
	return d
}

// mountTree serves src and mounts it.
func mountTree(t testing.TB, cfg p9fake.Config, opts mount.Options) *fixture {
	t.Helper()
	needMount(t)
	if cfg.Dir == "" {
		cfg.Dir = sourceTree(t)
	}
	cfg.Socket = filepath.Join(t.TempDir(), "9p")
	srv := p9fake.New(cfg)
	must(t, srv.Start())
	t.Cleanup(srv.Stop)
	f := &fixture{srv: srv, src: cfg.Dir, dir: t.TempDir()}
	opts.Session.Dial = dialer(t, cfg.Socket)
	if opts.Session.Aname == "" {
		opts.Session.Aname = "image/test"
	}
	if opts.Session.Patience == 0 {
		opts.Session.Patience = 5 * time.Minute // fail rather than hang in the kernel
	}
	opts.Mode = mount.FUSE
	m, err := mount.New(testCtx(t), f.dir, opts)
	must(t, err)
	f.Mount = m
	t.Cleanup(func() {
		if err := m.Unmount(testCtx(t), true); err != nil {
			t.Error(err)
		}
		select {
		case <-m.Done():
		case <-testCtx(t).Done():
			t.Error("the mount does not end")
		}
	})
	noPoll(t, f.dir)
	return f
}

// noPoll makes the kernel ask for poll(2) once, with a system call the
// scheduler knows to block. Go's own poller would ask with one it does not
// know about, which can stop the very process that has to answer.
func noPoll(t testing.TB, dir string) {
	t.Helper()
	ents, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range ents {
		if !e.Type().IsRegular() {
			continue
		}
		fd, err := unix.Open(filepath.Join(dir, e.Name()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		must(t, err)
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		must(t, errors.Join(err, unix.Close(fd)))
		return
	}
}
