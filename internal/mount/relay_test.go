package mount_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/mount"
	"github.com/nineply/nineply/internal/p9client"
	"github.com/nineply/nineply/internal/p9client/p9fake"
)

// relayed is a client behind a relay in front of a fake server.
type relayed struct {
	mount.Relay
	srv *p9fake.Server
	dir string
	c   *p9client.Client
}

// plainTree is a tree any user can make.
func plainTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	deep := filepath.Join(dir, strings.Repeat("d/", 40))
	must(t, os.MkdirAll(deep, 0o755))
	must(t, os.WriteFile(filepath.Join(deep, "bottom"), []byte("deep"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "big"), pattern(3<<20+5, 3), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "small"), []byte("small"), 0o644))
	must(t, os.Symlink("small", filepath.Join(dir, "link")))
	return dir
}

func relayTree(t testing.TB, opts mount.SessionOptions) *relayed {
	t.Helper()
	cfg := p9fake.Config{Dir: plainTree(t), Socket: filepath.Join(t.TempDir(), "9p")}
	x := &relayed{srv: p9fake.New(cfg), dir: cfg.Dir}
	must(t, x.srv.Start())
	t.Cleanup(x.srv.Stop)
	opts.Dial, opts.Aname = dialer(t, cfg.Socket), "image/x"
	ours, theirs := connPair(t)
	x.Relay = mount.NewRelay(ours, opts)
	server, err := opts.Dial(testCtx(t))
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- x.Run(testCtx(t), server) }()
	x.c, err = p9client.New(testCtx(t), theirs, p9client.Options{})
	must(t, err)
	t.Cleanup(func() {
		_ = x.c.Close()
		must(t, <-ended)
	})
	return x
}

func connPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	must(t, err)
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		conns[i], err = net.FileConn(f)
		must(t, errors.Join(err, f.Close()))
	}
	return conns[0], conns[1]
}

func (x *relayed) attach(t testing.TB) *p9client.File {
	t.Helper()
	root, err := x.c.Attach(testCtx(t), "image/x")
	must(t, err)
	return root
}

// restart kills the server and starts it again.
func (x *relayed) restart(t testing.TB) {
	t.Helper()
	x.srv.Stop()
	must(t, x.srv.Start())
}

// The server dies at any moment under a client that knows nothing of it.
func TestRelaySurvivesServer(t *testing.T) {
	x := relayTree(t, mount.SessionOptions{})
	root := x.attach(t)
	ctx := testCtx(t)
	want := pattern(3<<20+5, 3)
	kept, _, err := root.WalkOpenReadAt(ctx, make([]byte, 10), 0, "big")
	must(t, err)
	deepNames := strings.Split(strings.Repeat("d/", 40)+"bottom", "/")
	deep, err := root.Walk(ctx, deepNames...)
	must(t, err)
	once := func(buf []byte) error {
		off := rand.N(len(want) - len(buf))
		if n, err := kept.ReadAt(ctx, buf, int64(off)); err != nil || !bytes.Equal(buf[:n], want[off:off+n]) {
			return fmt.Errorf("open file: %d bytes, %w", n, err)
		}
		f, n, err := root.WalkOpenReadAt(ctx, buf, 0, deepNames...)
		if err != nil || string(buf[:n]) != "deep" {
			return fmt.Errorf("deep file: %d bytes, %w", n, err)
		}
		_ = f.Close() // only queues the clunk
		if _, err := deep.Stat(ctx); err != nil {
			return fmt.Errorf("deep fid: %w", err)
		}
		if _, err := root.Walk(ctx, "absent"); !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("absent: %w", err)
		}
		return nil
	}
	var rounds atomic.Int64
	end := workers(t, 4, func() error {
		defer rounds.Add(1)
		return once(make([]byte, 300_000))
	})
	for range 40 {
		before := x.srv.Requests.Load()
		waitFor(t, func() bool { return t.Failed() || x.srv.Requests.Load() > before+int64(rand.N(100)) })
		x.restart(t)
	}
	now := rounds.Load()
	waitFor(t, func() bool { return t.Failed() || rounds.Load() > now+8 })
	end()
	if x.Reconnects() < 20 {
		t.Errorf("%d reconnects", x.Reconnects())
	}
	must(t, errors.Join(kept.Close(), deep.Close()))
	waitFor(t, func() bool { return x.Fids() == 1 && x.srv.Fids.Load() == 1 })
}

// While there is no server, cancelled requests leave and clunks are answered.
func TestRelayAnswersAlone(t *testing.T) {
	x := relayTree(t, mount.SessionOptions{})
	root := x.attach(t)
	f, err := root.Walk(testCtx(t), "small")
	must(t, err)
	x.srv.Stop()
	waitFor(t, func() bool { return !x.Connected() })
	ctx, cancel := context.WithCancel(testCtx(t))
	left := make(chan error, 1)
	go func() {
		_, err := f.Stat(ctx)
		left <- err
	}()
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	must(t, f.Close())
	waitFor(t, func() bool { return x.Fids() == 1 })
	must(t, x.srv.Start())
	_, err = root.Stat(testCtx(t))
	must(t, err)
	waitFor(t, func() bool { return x.srv.Fids.Load() == 1 })
}

func TestRelayPatience(t *testing.T) {
	x := relayTree(t, mount.SessionOptions{Patience: 5 * time.Millisecond})
	root := x.attach(t)
	x.srv.Stop()
	if _, err := root.Stat(testCtx(t)); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
	must(t, x.srv.Start())
	waitFor(t, func() bool { return x.Connected() })
	_, err := root.Stat(testCtx(t))
	must(t, err)
}

// A node that is another one after a restart is not served; the rest is.
func TestRelayTreeChanged(t *testing.T) {
	x := relayTree(t, mount.SessionOptions{})
	root := x.attach(t)
	ctx := testCtx(t)
	small, err := root.Walk(ctx, "small")
	must(t, err)
	big, err := root.Walk(ctx, "big")
	must(t, err)
	x.srv.Stop()
	must(t, os.Rename(filepath.Join(x.dir, "small"), filepath.Join(x.dir, "was")))
	must(t, os.WriteFile(filepath.Join(x.dir, "small"), []byte("other"), 0o644))
	must(t, x.srv.Start())
	if _, err := big.Stat(ctx); err != nil {
		t.Errorf("unchanged file: %v", err)
	}
	if _, err := small.Stat(ctx); !errors.Is(err, syscall.ESTALE) {
		t.Errorf("changed file: %v", err)
	}
	must(t, small.Close())
	if _, err := root.Walk(ctx, "small"); err != nil {
		t.Errorf("the new file: %v", err)
	}
}

// A server that goes down gracefully, giving up what it was doing, is no
// different.
func TestRelayServerGivesUp(t *testing.T) {
	x := relayTree(t, mount.SessionOptions{})
	root := x.attach(t)
	var refused atomic.Int32
	x.srv.SetHook(func(r p9fake.Request) (syscall.Errno, bool) {
		if r.Type == 24 && refused.Add(1) < 3 {
			return syscall.EINTR, false
		}
		return 0, false
	})
	_, err := root.Stat(testCtx(t))
	must(t, err)
	x.srv.SetHook(nil)
}

// FuzzRelay sends whatever it likes from both sides.
func FuzzRelay(f *testing.F) {
	version := []byte("\x15\x00\x00\x00\x64\xff\xff\x18\x00\x10\x00\x08\x009P2000.L")
	attach := []byte("\x17\x00\x00\x00\x68\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00")
	walk := []byte("\x14\x00\x00\x00\x6e\x01\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x01\x00a")
	rversion := []byte("\x15\x00\x00\x00\x65\xff\xff\x18\x00\x10\x00\x08\x009P2000.L")
	rattach := []byte("\x14\x00\x00\x00\x69\x00\x00\x80\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00")
	f.Add(append(append(bytes.Clone(version), attach...), walk...), append(bytes.Clone(rversion), rattach...))
	f.Add([]byte{}, rversion)
	f.Fuzz(func(t *testing.T, fromClient, fromServer []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		cOurs, cTheirs := net.Pipe()
		var wg sync.WaitGroup
		feed := func(conn net.Conn, b []byte, end bool) {
			wg.Add(2)
			go func() {
				defer wg.Done()
				_, _ = conn.Write(b)
				if end {
					_ = conn.Close()
				}
			}()
			go func() {
				defer wg.Done()
				_, _ = new(bytes.Buffer).ReadFrom(conn)
			}()
		}
		dials := 0
		dial := func(context.Context) (net.Conn, error) {
			if dials++; dials > 3 {
				return nil, errors.New("enough")
			}
			a, b := net.Pipe()
			feed(b, fromServer, true)
			return a, nil
		}
		server, err := dial(ctx)
		must(t, err)
		feed(cTheirs, fromClient, true)
		_ = mount.NewRelay(cOurs, mount.SessionOptions{Dial: dial}).Run(ctx, server)
		_ = cTheirs.Close()
		wg.Wait()
	})
}
