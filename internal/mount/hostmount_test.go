package mount_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/mount"
	"github.com/nineply/nineply/internal/p9client/p9fake"
)

// alike drops what a tree's index does not have from its source: numbers,
// and sizes of directories.
func alike(all map[string]seen) map[string]seen {
	delete(all, ".")
	for path, s := range all {
		s.Ino = 0
		if s.Mode&unix.S_IFMT == unix.S_IFDIR {
			s.Size = 0
		}
		all[path] = s
	}
	return all
}

func TestHostWholeTree(t *testing.T) {
	f := mountHost(t, "", mount.Options{})
	want := alike(snapshot(t, f.src))
	for _, slow := range []bool{false, true, false} { // the last time from the caches
		f.slow.Store(slow)
		if slow {
			evict(t, f.dir)
		}
		if diff := cmp.Diff(want, alike(snapshot(t, f.dir))); diff != "" {
			t.Fatalf("the mount differs from the source:\n%.3000s", diff)
		}
	}
	if st := f.Status(); st.Mode != mount.FUSE || st.State != mount.Connected || st.Bytes == 0 || st.Kernel["read"] == 0 || st.Nodes != 0 {
		t.Errorf("status %+v", st)
	}
	var st unix.Statfs_t
	must(t, unix.Statfs(f.dir, &st))
	if st.Blocks != 1000 || st.Files != 77 || st.Bsize != 4096 || st.Namelen != 255 || st.Flags&unix.ST_RDONLY == 0 {
		t.Errorf("statfs %+v", st)
	}
}

// What was seen once needs neither the daemon nor even the keeper again.
func TestHostWarmNeedsNothing(t *testing.T) {
	f := mountHost(t, "", mount.Options{})
	diff := ""
	for range 20 { // whatever else runs may make the kernel drop its caches
		must(t, readEverything(f.dir))
		before := f.Status()
		must(t, readEverything(f.dir))
		if diff = cmp.Diff(before.Kernel, f.Status().Kernel); diff == "" {
			return
		}
	}
	t.Errorf("a warm walk asked the keeper:\n%s", diff)
}

func TestHostErrnos(t *testing.T) {
	f := mountHost(t, "", mount.Options{})
	at := func(name string) string { return filepath.Join(f.dir, name) }
	buf := make([]byte, 100)
	for what, tt := range map[string]struct{ got, want error }{
		"absent":          {unix.Access(at("absent"), unix.F_OK), unix.ENOENT},
		"through a file":  {unix.Access(at("big/x"), unix.F_OK), unix.ENOTDIR},
		"long name":       {unix.Access(at(strings.Repeat("x", 256)), unix.F_OK), unix.ENAMETOOLONG},
		"create":          {os.WriteFile(at("new"), nil, 0o644), unix.EROFS},
		"no xattr":        {second(unix.Getxattr(at("big"), "trusted.overlay.opaque", buf)), unix.ENODATA},
		"small xattr buf": {second(unix.Getxattr(at("usr/small"), "security.capability", buf[:3])), unix.ERANGE},
		"small list buf":  {second(unix.Listxattr(at("usr/small"), buf[:3])), unix.ERANGE},
		"read link":       {second(unix.Readlink(at("big"), buf)), unix.EINVAL},
	} {
		if !errors.Is(tt.got, tt.want) {
			t.Errorf("%s: %v, want %v", what, tt.got, tt.want)
		}
	}
}

// A program runs from the mount, which the kernel maps.
func TestHostExec(t *testing.T) {
	src := sourceTree(t)
	prog, err := exec.LookPath("cat")
	must(t, err)
	b, err := os.ReadFile(prog)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(src, "cat"), b, 0o755))
	f := mountHost(t, src, mount.Options{})
	out, err := exec.Command("/bin/sh", "-c", `exec "$0" "$1"`, filepath.Join(f.dir, "cat"), filepath.Join(f.dir, "usr/sym")).CombinedOutput()
	if err != nil || string(out) != "a small file\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// A large directory is listed whole, each name once, in pieces of any size.
func TestHostBigDirectory(t *testing.T) {
	const n = 100_000
	src := t.TempDir()
	must(t, unix.Mount("tmpfs", src, "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(src, unix.MNT_DETACH)) })
	must(t, os.Mkdir(filepath.Join(src, "d"), 0o755))
	for i := range n {
		fd, err := unix.Open(fmt.Sprintf("%s/d/entry-%06d", src, i), unix.O_CREAT|unix.O_WRONLY, 0o644)
		must(t, err)
		must(t, unix.Close(fd))
	}
	must(t, os.WriteFile(filepath.Join(src, "f"), nil, 0o644))
	f := mountHost(t, src, mount.Options{})
	d, err := os.Open(filepath.Join(f.dir, "d"))
	must(t, err)
	for seen := 0; seen < n; {
		ents, err := d.ReadDir(997)
		must(t, err)
		for _, e := range ents {
			if want := fmt.Sprintf("entry-%06d", seen); e.Name() != want || !e.Type().IsRegular() {
				t.Fatalf("entry %d: %s %v", seen, e.Name(), e.Type())
			}
			seen++
		}
	}
	must(t, d.Close())
}

// The daemon dies and comes back, over and over, under programs that read, list
// and look; none of them sees an error or a wrong byte.
func TestHostDaemonKilledUnderReaders(t *testing.T) {
	f := mountHost(t, "", mount.Options{})
	want, err := readDirect(filepath.Join(f.src, "big"))
	must(t, err)
	endReaders := workers(t, 2, func() error {
		got, err := readDirect(filepath.Join(f.dir, "big"))
		if err == nil && got != want {
			err = errors.New("wrong bytes")
		}
		return err
	})
	var walks atomic.Int64
	endWalk := workers(t, 1, func() error {
		defer walks.Add(1)
		evict(t, f.dir)
		return readEverything(f.dir)
	})
	for i := range 40 {
		before := f.reads.Load()
		waitFor(t, func() bool { return f.reads.Load() > before+int64(rand.N(60)) })
		f.slow.Store(i%2 == 0)
		f.stop()
		f.start()
	}
	done := walks.Load()
	waitFor(t, func() bool { return t.Failed() || walks.Load() > done+1 })
	endReaders()
	endWalk()
	if st := f.Status(); st.Reconnects < 40 || st.Stale != 0 || st.Interrupted != 0 {
		t.Errorf("status %+v", st)
	}
}

// A reader that is killed while the daemon is away, or does not answer, dies; a
// signal that kills nobody does not end its read.
func TestHostSignals(t *testing.T) {
	for name, away := range map[string]bool{"away": true, "stuck": false} {
		t.Run(name, func(t *testing.T) {
			f := mountHost(t, "", mount.Options{})
			f.stuck.Store(true)
			if away {
				f.stop()
			}
			start := func() *exec.Cmd {
				before := f.Status().Kernel["read"]
				cmd := exec.Command("cat", filepath.Join(f.dir, "usr/small"))
				cmd.Stdout = &bytes.Buffer{}
				must(t, cmd.Start())
				waitFor(t, func() bool { return f.Status().Kernel["read"] > before })
				return cmd
			}
			patient := start()
			must(t, patient.Process.Signal(unix.SIGWINCH))
			killed := exec.Command("head", "-c1", filepath.Join(f.dir, "big"))
			must(t, killed.Start())
			waitFor(t, func() bool { return f.Status().Kernel["read"] > 1 })
			must(t, killed.Process.Kill())
			if err := killed.Wait(); err == nil {
				t.Error("a killed reader ended well")
			}
			f.stuck.Store(false)
			f.stop() // what is stuck is asked of the next one
			f.start()
			must(t, patient.Wait())
			if got := patient.Stdout.(*bytes.Buffer).String(); got != "a small file\n" {
				t.Errorf("read %q", got)
			}
		})
	}
}

// Patience that ends is EIO, until the daemon is back.
func TestHostPatience(t *testing.T) {
	var opts mount.Options
	opts.Session.Patience = time.Millisecond
	f := mountHost(t, "", opts)
	f.stop()
	waitFor(t, func() bool { return f.Status().State == mount.Waiting })
	if _, err := os.ReadFile(filepath.Join(f.dir, "usr/small")); !errors.Is(err, unix.EIO) {
		t.Errorf("read: %v, want EIO", err)
	}
	if _, err := os.Lstat(filepath.Join(f.dir, "usr/lib/deep")); err != nil {
		t.Error("names need a daemon:", err)
	}
	f.start()
	waitFor(t, func() bool { return f.Status().State == mount.Connected })
	if b, err := os.ReadFile(filepath.Join(f.dir, "usr/small")); err != nil || string(b) != "a small file\n" {
		t.Errorf("read %q, %v", b, err)
	}
}

// A daemon that comes back with another tree is not asked for bytes.
func TestHostTreeChanged(t *testing.T) {
	f := mountHost(t, "", mount.Options{})
	f.stop()
	f.tree.Store("another")
	f.start()
	waitFor(t, func() bool { return f.Status().Stale > 0 })
	if st := f.Status(); st.State != mount.Waiting {
		t.Errorf("state %v", st.State)
	}
	f.tree.Store("tree")
	waitFor(t, func() bool { return f.Status().State == mount.Connected })
	must(t, readEverything(f.dir))
}

// A refusal has the daemon's errno; a daemon without a host link is asked by 9P.
func TestHostRefused(t *testing.T) {
	needMount(t)
	d := newHostDaemon(t, sourceTree(t))
	d.refuse.Store(fserr.New(fserr.NotExist, "attach", "it", errors.New("gone")))
	if _, err := mount.New(testCtx(t), t.TempDir(), hostOptions(d, mount.Options{})); !errors.Is(err, unix.ENOENT) {
		t.Errorf("refused: %v", err)
	}
	f := mountTree(t, p9fake.Config{}, mount.Options{HostLink: filepath.Join(t.TempDir(), "none")})
	must(t, readEverything(f.dir))
	if st := f.Status(); st.Nodes == 0 {
		t.Errorf("status %+v", st)
	}
}

// A mount whose daemon is away can be taken away, and aborted by the kernel.
func TestHostEnds(t *testing.T) {
	f := mountHost(t, "", mount.Options{})
	f.stop()
	must(t, f.Unmount(testCtx(t), false))
	f = mountHost(t, "", mount.Options{})
	must(t, abort(f.dir))
	<-f.Done()
	if st := f.Status(); st.State != mount.Ended {
		t.Errorf("state %v", st.State)
	}
	must(t, os.Remove(f.dir)) // nothing is mounted there
	must(t, os.Mkdir(f.dir, 0o755))
}

// Mounts of one tree share its index, and the last one closes it.
func TestHostSharedIndex(t *testing.T) {
	needMount(t)
	d := newHostDaemon(t, sourceTree(t))
	var shared mount.Indexes
	var mounts []*mount.Mount
	for range 3 {
		m, err := mount.New(testCtx(t), t.TempDir(), hostOptions(d, mount.Options{Indexes: &shared}))
		must(t, err)
		mounts = append(mounts, m)
		if n := shared.Len(); n != 1 {
			t.Errorf("%d indexes", n)
		}
	}
	for _, m := range mounts {
		must(t, m.Unmount(testCtx(t), false))
	}
	if n := shared.Len(); n != 0 {
		t.Errorf("%d indexes at the end", n)
	}
}
