package mount_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/mount"
	"github.com/nineply/nineply/internal/p9client"
	"github.com/nineply/nineply/internal/p9client/p9fake"
)

// evict makes the kernel drop what it cached of the mount on dir and nobody
// uses, so that the next look goes to the server: that is what it does when it
// remounts.
func evict(t testing.TB, dir string) {
	t.Helper()
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
}

// readDirect reads a whole file and tells the kernel to forget its pages.
func readDirect(path string) (sum [32]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return sum, err
	}
	h := sha256.New()
	if _, err := f.WriteTo(h); err != nil {
		return sum, err
	}
	return [32]byte(h.Sum(nil)), nil
}

// The server dies and comes back, over and over, under programs that read,
// list and look; none of them sees an error or a wrong byte.
func TestServerKilledUnderReaders(t *testing.T) {
	f := mountTree(t, p9fake.Config{}, mount.Options{MaxFids: 16})
	want, err := readDirect(filepath.Join(f.src, "big"))
	must(t, err)
	wantTree := snapshot(t, f.src)
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
		return compareFiles(f.dir, wantTree)
	})
	for range 40 {
		before := f.srv.Requests.Load()
		waitFor(t, func() bool { return f.srv.Requests.Load() > before+int64(rand.N(60)) })
		f.srv.Stop()
		must(t, f.srv.Start())
	}
	done := walks.Load()
	waitFor(t, func() bool { return t.Failed() || walks.Load() > done+1 })
	endReaders()
	endWalk()
	st := f.Status()
	if st.Reconnects < 20 || st.Stale != 0 {
		t.Errorf("%d reconnects, %d stale", st.Reconnects, st.Stale)
	}
}

// workers runs fn over and over in n goroutines until it fails or the function
// returned is called.
func workers(t testing.TB, n int, fn func() error) (end func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := fn(); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	return func() {
		close(stop)
		wg.Wait()
	}
}

// compareFiles reads all regular files below dir.
func compareFiles(dir string, want map[string]seen) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err == nil && string(b) != want[rel].Content {
			err = errors.New("wrong content of " + rel)
		}
		return err
	})
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	ctx := testCtx(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatal("what was waited for never came")
		case <-tick.C:
		}
	}
}

// A killed reader leaves although the server is away; one that only gets
// signals it handles goes on waiting and gets its bytes in the end.
func TestSignalsWhileServerIsAway(t *testing.T) {
	f := mountTree(t, p9fake.Config{}, mount.Options{})
	f.srv.Stop()
	waitFor(t, func() bool { return f.Status().State == mount.Waiting })
	start := func(script string) (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.Command("sh", "-c", script, "sh", filepath.Join(f.dir, "usr/lib/hard"))
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		before := f.Status().Kernel["lookup"]
		must(t, cmd.Start())
		waitFor(t, func() bool { return f.Status().Kernel["lookup"] > before })
		return cmd, &out
	}
	killed, _ := start(`exec cat "$1"`)
	must(t, killed.Process.Kill())
	if err := killed.Wait(); err == nil {
		t.Error("a killed reader succeeded")
	}
	terminated, _ := start(`exec cat "$1"`)
	must(t, terminated.Process.Signal(syscall.SIGINT))
	if err := terminated.Wait(); err == nil {
		t.Error("a terminated reader succeeded")
	}
	handled, out := start(`trap : USR1; read -r line < "$1" && echo "$line"`)
	for range 3 {
		must(t, handled.Process.Signal(syscall.SIGUSR1))
		<-time.After(2 * time.Millisecond) // spread them; nothing depends on it
	}
	must(t, f.srv.Start())
	if err := handled.Wait(); err != nil || out.String() != "a small file\n" {
		t.Errorf("a reader that handles its signals: %q, %v", out, err)
	}
}

func TestPatienceEnds(t *testing.T) {
	f := mountTree(t, p9fake.Config{}, mount.Options{Session: mount.SessionOptions{Patience: time.Millisecond}})
	f.srv.Stop()
	waitFor(t, func() bool { return f.Status().State == mount.Waiting })
	if _, err := os.ReadFile(filepath.Join(f.dir, "usr/small")); !errors.Is(err, unix.EIO) {
		t.Errorf("read without a server: %v", err)
	}
	must(t, f.srv.Start())
	waitFor(t, func() bool { return f.Status().State == mount.Connected })
	_, err := os.ReadFile(filepath.Join(f.dir, "usr/small"))
	must(t, err)
}

// A server that is up but does not know the image yet is waited for, and so is
// one that gives requests up as it goes down.
func TestServerNotReady(t *testing.T) {
	f := mountTree(t, p9fake.Config{}, mount.Options{})
	f.srv.Stop()
	f.srv.FailAttach(syscall.ENOENT)
	must(t, f.srv.Start())
	got := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(filepath.Join(f.dir, "usr/small"))
		got <- err
	}()
	tries := f.srv.Attaches.Load()
	waitFor(t, func() bool { return f.srv.Attaches.Load() > tries+3 })
	f.srv.FailAttach(0)
	must(t, <-got)

	var refused atomic.Int32
	f.srv.SetHook(func(r p9fake.Request) (syscall.Errno, bool) {
		if r.Type == 110 && refused.Add(1) < 4 {
			return syscall.EINTR, false
		}
		return 0, false
	})
	_, err := os.ReadFile(filepath.Join(f.dir, "many/77-some-file-name"))
	must(t, err)
	if refused.Load() < 4 {
		t.Errorf("asked %d times", refused.Load())
	}
	f.srv.SetHook(nil)
}

// A server that comes back with another tree gets no chance to serve it.
func TestTreeChanged(t *testing.T) {
	f := mountTree(t, p9fake.Config{}, mount.Options{})
	open, err := os.Open(filepath.Join(f.dir, "big"))
	must(t, err)
	defer func() { must(t, open.Close()) }()
	f.srv.Stop()
	must(t, os.Rename(filepath.Join(f.src, "big"), filepath.Join(f.src, "was-big")))
	must(t, os.WriteFile(filepath.Join(f.src, "big"), pattern(5<<20+77, 9), 0o644))
	must(t, f.srv.Start())
	if _, err := open.ReadAt(make([]byte, 10), 1<<20); !errors.Is(err, unix.ESTALE) {
		t.Errorf("read of a replaced file: %v", err)
	}
	if st := f.Status(); st.Stale == 0 {
		t.Error("the change was not counted")
	}
}

func TestNewMountFailsAtOnce(t *testing.T) {
	needMount(t)
	dir := t.TempDir()
	cfg := p9fake.Config{Dir: t.TempDir(), Socket: filepath.Join(t.TempDir(), "9p")}
	opts := mount.Options{Mode: mount.FUSE, Session: mount.SessionOptions{Aname: "x", Dial: dialer(t, cfg.Socket)}}
	if _, err := mount.New(testCtx(t), dir, opts); !fserr.Is(err, fserr.Unavailable) {
		t.Errorf("no server: %v", err)
	}
	srv := p9fake.New(cfg)
	srv.FailAttach(syscall.ENOENT)
	must(t, srv.Start())
	t.Cleanup(srv.Stop)
	if _, err := mount.New(testCtx(t), dir, opts); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown image: %v", err)
	}
	srv.FailAttach(0)
	if _, err := mount.New(testCtx(t), filepath.Join(dir, "absent"), opts); !fserr.Is(err, fserr.NotDir) {
		t.Errorf("no mount point: %v", err)
	}
	waitFor(t, func() bool { return srv.Fids.Load() == 0 })
	opts.Session.Wait = time.Minute
	srv.Stop()
	got := make(chan error, 1)
	go func() {
		m, err := mount.New(testCtx(t), dir, opts)
		if err == nil {
			err = m.Unmount(testCtx(t), false)
		}
		got <- err
	}()
	must(t, srv.Start())
	must(t, <-got)
}

func TestUnmount(t *testing.T) {
	f := mountTree(t, p9fake.Config{}, mount.Options{})
	file, err := os.Open(filepath.Join(f.dir, "big"))
	must(t, err)
	if err := f.Unmount(testCtx(t), false); !fserr.Is(err, fserr.Busy) {
		t.Errorf("unmount in use: %v", err)
	}
	must(t, f.Unmount(testCtx(t), true))
	if st := f.Status(); st.State != mount.Detached {
		t.Errorf("state %s", st.State)
	}
	if ents, err := os.ReadDir(f.dir); err != nil || len(ents) != 0 {
		t.Errorf("the mount point still shows %d entries, %v", len(ents), err)
	}
	got, err := readRest(file)
	if must(t, err); !bytes.Equal(got, pattern(5<<20+77, 1)) {
		t.Error("wrong bytes through the detached mount")
	}
	must(t, file.Close())
	<-f.Done()
	if st := f.Status(); st.State != mount.Ended {
		t.Errorf("state %s", st.State)
	}
	must(t, f.Unmount(testCtx(t), false))
	waitFor(t, func() bool { return f.srv.Fids.Load() == 0 })
}

func readRest(f *os.File) ([]byte, error) {
	var b bytes.Buffer
	_, err := b.ReadFrom(f)
	return b.Bytes(), err
}

// A mount taken away by somebody else ends by itself, even while the server is
// away and readers hang.
func TestUnmountedBehindOurBack(t *testing.T) {
	f := mountTree(t, p9fake.Config{}, mount.Options{})
	must(t, unix.Unmount(f.dir, 0))
	<-f.Done()

	f = mountTree(t, p9fake.Config{}, mount.Options{})
	f.srv.Stop()
	waitFor(t, func() bool { return f.Status().State == mount.Waiting })
	reader := exec.Command("cat", filepath.Join(f.dir, "usr/small"))
	must(t, reader.Start())
	waitFor(t, func() bool { return f.Status().Kernel["lookup"] > 0 })
	must(t, abort(f.dir))
	if err := reader.Wait(); err == nil {
		t.Error("a reader of an aborted mount succeeded")
	}
	<-f.Done()
}

// abort ends a FUSE connection the hard way.
func abort(dir string) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return err
	}
	const control = "/sys/fs/fuse/connections"
	id := unix.Mkdev(st.Dev_major, st.Dev_minor)
	name := filepath.Join(control, itoa(id), "abort")
	if _, err := os.Stat(name); err != nil {
		if err := unix.Mount("fusectl", control, "fusectl", 0, ""); err != nil {
			return err
		}
	}
	return os.WriteFile(name, []byte("1"), 0)
}

func itoa(n uint64) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

// Requests that are cancelled while a connection is being made must not take
// the session with them.
func TestDialThatHangs(t *testing.T) {
	f := mountTree(t, p9fake.Config{}, mount.Options{})
	f.srv.SetHook(func(p9fake.Request) (syscall.Errno, bool) { return 0, true })
	cmd := exec.CommandContext(context.Background(), "cat", filepath.Join(f.dir, "usr/small"))
	must(t, cmd.Start())
	waitFor(t, func() bool { return f.Status().Kernel["lookup"] > 0 })
	must(t, cmd.Process.Kill())
	if err := cmd.Wait(); err == nil {
		t.Error("a killed reader succeeded")
	}
	f.srv.SetHook(nil)
	_, err := os.ReadFile(filepath.Join(f.dir, "usr/small"))
	must(t, err)
}

// A connection that cannot be made again ends in errors, not in waiting.
func TestNoRedial(t *testing.T) {
	needMount(t)
	cfg := p9fake.Config{Dir: sourceTree(t), Socket: filepath.Join(t.TempDir(), "9p")}
	srv := p9fake.New(cfg)
	must(t, srv.Start())
	t.Cleanup(srv.Stop)
	dials, dial := 0, dialer(t, cfg.Socket)
	once := func(ctx context.Context) (net.Conn, error) {
		if dials++; dials > 1 {
			return nil, p9client.ErrNoRedial
		}
		return dial(ctx)
	}
	dir := t.TempDir()
	m, err := mount.New(testCtx(t), dir, mount.Options{Mode: mount.FUSE, Session: mount.SessionOptions{Aname: "x", Dial: once}})
	must(t, err)
	srv.Stop()
	if err := unix.Access(filepath.Join(dir, "usr"), unix.F_OK); !errors.Is(err, unix.EIO) {
		t.Errorf("access without a server: %v", err)
	}
	must(t, m.Unmount(testCtx(t), false))
}
