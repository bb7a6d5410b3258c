package mount_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/hostlink"
	"github.com/nineply/nineply/internal/mount"
	"github.com/nineply/nineply/internal/p9client"
	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// heldDaemon serves held sessions, and can be replaced.
type heldDaemon struct {
	t      testing.TB
	e      p9server.Exporter
	socket string
	stop   func()
}

func newHeldDaemon(t testing.TB, e p9server.Exporter) *heldDaemon {
	d := &heldDaemon{t: t, e: e, socket: filepath.Join(t.TempDir(), "host"), stop: func() {}}
	d.start()
	t.Cleanup(func() { d.stop() })
	return d
}

func (d *heldDaemon) start() {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ln, err := hostlink.Listen(ctx, d.socket)
	must(d.t, err)
	s := hostlink.NewServer(hostlink.Options{Sessions: heldSessions{p9server.NewServer(d.e, p9server.Options{})}})
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(ctx, ln) })
	d.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
}

type heldSessions struct{ s *p9server.Server }

func (heldSessions) NewLedger() (*os.File, error) { return p9server.NewLedger() }

func (h heldSessions) Serve(ctx context.Context, nc *net.UnixConn, ledger *os.File) (bool, error) {
	err := h.s.ServeHeld(ctx, nc, ledger)
	return ctx.Err() == nil, err
}

// refuseAll is a Refuser.
func refuseAll(ctx context.Context, nc *net.UnixConn, ledger *os.File) error {
	return p9server.NewServer(refusing{}, p9server.Options{}).ServeHeld(ctx, nc, ledger)
}

type refusing struct{}

func (refusing) Attach(context.Context, string) (p9server.Tree, func(), error) {
	return nil, nil, fserr.New(fserr.Closed, "attach", "", nil)
}

// hold gives a client's connection to d.
func hold(t testing.TB, d *heldDaemon, opts mount.SessionOptions) (*mount.Held, net.Conn) {
	t.Helper()
	h, client, err := mount.Hold(testCtx(t), d.socket, opts, refuseAll)
	must(t, err)
	nc, err := net.FileConn(client)
	must(t, errors.Join(err, client.Close()))
	t.Cleanup(func() {
		_ = nc.Close() // the test may have done so
		h.Wait()
	})
	return h, nc
}

// A held session is as any other.
func TestHeldConformance(t *testing.T) {
	p9test.Run(t, func(t *testing.T, e p9server.Exporter) net.Conn {
		_, nc := hold(t, newHeldDaemon(t, e), mount.SessionOptions{})
		return nc
	})
}

// heldTree has a file whose bytes are compared.
func heldTree(t testing.TB, data string) *p9test.Exports {
	t.Helper()
	tree, err := p9test.NewTree([]p9test.File{{Path: "/f", Mode: syscall.S_IFREG | 0o644, Data: data}})
	must(t, err)
	e := p9test.Export(tree)
	e.Add("image/test", tree)
	return e
}

// TestHeldDaemons: daemons come and go under open files.
func TestHeldDaemons(t *testing.T) {
	data := pattern(1<<20, 3)
	d := newHeldDaemon(t, heldTree(t, string(data)))
	h, nc := hold(t, d, mount.SessionOptions{})
	ctx := testCtx(t)
	c, err := p9client.New(ctx, nc, p9client.Options{})
	must(t, err)
	defer func() { _ = c.Close() }()
	root, err := c.Attach(ctx, "image/test")
	must(t, err)
	f, err := root.WalkOpen(ctx, "f")
	must(t, err)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			buf := make([]byte, len(data))
			for {
				for at := 0; at < len(buf); {
					n, err := f.ReadAt(ctx, buf[at:], int64(at))
					if err != nil {
						t.Error(err)
						return
					}
					at += n
				}
				if !bytes.Equal(buf, data) {
					t.Error("wrong bytes")
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 10 {
		d.stop()
		before := h.Reconnects()
		d.start()
		awaitHeld(t, func() bool { return h.Reconnects() > before })
	}
	close(stop)
	wg.Wait()
}

func awaitHeld(t testing.TB, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come")
		}
	}
}

// TestHeldPatience: without a daemon requests fail when patience ends, and succeed
// again with the next one; another tree is EIO.
func TestHeldPatience(t *testing.T) {
	d := newHeldDaemon(t, heldTree(t, "data"))
	_, nc := hold(t, d, mount.SessionOptions{Patience: 10 * time.Millisecond})
	ctx := testCtx(t)
	c, err := p9client.New(ctx, nc, p9client.Options{})
	must(t, err)
	defer func() { _ = c.Close() }()
	root, err := c.Attach(ctx, "image/test")
	must(t, err)
	f, err := root.WalkOpen(ctx, "f")
	must(t, err)
	buf := make([]byte, 4)
	d.stop()
	if _, err := f.ReadAt(ctx, buf, 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("without a daemon: %v", err)
	}
	d.start()
	awaitHeld(t, func() bool {
		_, err := f.ReadAt(ctx, buf, 0)
		if err != nil && !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		return err == nil
	})
	if string(buf) != "data" {
		t.Errorf("read %q", buf)
	}
	d.stop()
	d.e = heldTree(t, "other, longer data")
	d.start()
	if _, err := f.ReadAt(ctx, buf, 0); !errors.Is(err, syscall.EIO) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("of another tree: %v", err)
	}
}

// TestHeldPatienceWithABadDaemon: patience that has ended has ended, also when what
// listens where the daemon should takes no session over.
func TestHeldPatienceWithABadDaemon(t *testing.T) {
	d := newHeldDaemon(t, heldTree(t, "data"))
	_, nc := hold(t, d, mount.SessionOptions{Patience: 10 * time.Millisecond})
	ctx := testCtx(t)
	c, err := p9client.New(ctx, nc, p9client.Options{})
	must(t, err)
	defer func() { _ = c.Close() }()
	root, err := c.Attach(ctx, "image/test")
	must(t, err)
	f, err := root.WalkOpen(ctx, "f")
	must(t, err)
	d.stop()
	bad, err := net.Listen("unixpacket", d.socket)
	must(t, err)
	calls := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(calls)
		for {
			nc, err := bad.Accept()
			if err != nil {
				return
			}
			_ = nc.Close() // that is what is bad
			select {
			case calls <- struct{}{}:
			default:
			}
		}
	})
	for range 3 {
		<-calls
		if _, err := f.ReadAt(ctx, make([]byte, 4), 0); !errors.Is(err, syscall.EIO) {
			t.Errorf("with a bad daemon: %v", err)
		}
	}
	must(t, bad.Close())
	wg.Wait()
	d.start()
	awaitHeld(t, func() bool {
		_, err := f.ReadAt(ctx, make([]byte, 4), 0)
		return err == nil
	})
}

// BenchmarkHeldLink is BenchmarkRelay's work over a held session.
func BenchmarkHeldLink(b *testing.B) {
	data := string(pattern(128<<10, 1))
	d := newHeldDaemon(b, heldTree(b, data))
	_, nc := hold(b, d, mount.SessionOptions{})
	c, err := p9client.New(b.Context(), nc, p9client.Options{})
	must(b, err)
	defer func() { _ = c.Close() }()
	root, err := c.Attach(b.Context(), "image/test")
	must(b, err)
	f, err := root.WalkOpen(b.Context(), "f")
	must(b, err)
	b.Run("stat", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, err := f.Stat(b.Context())
			must(b, err)
		}
	})
	b.Run("read", func(b *testing.B) {
		buf := make([]byte, len(data))
		b.SetBytes(int64(len(buf)))
		b.ReportAllocs()
		for b.Loop() {
			_, err := f.ReadAt(b.Context(), buf, 0)
			must(b, err)
		}
	})
}
