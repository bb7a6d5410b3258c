package p9client_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nineply/nineply/internal/p9client"
	"github.com/nineply/nineply/internal/p9client/p9fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testCtx ends long after any of these tests should have.
func testCtx(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// makeTree fills dir with a little of everything an unprivileged user can make.
func makeTree(t testing.TB, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "a/b/c"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "a/small"), []byte("hello, tree"), 0o644))
	must(os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600))
	must(os.Symlink("a/small", filepath.Join(dir, "link")))
	must(os.Link(filepath.Join(dir, "a/small"), filepath.Join(dir, "a/b/hard")))
	big := make([]byte, 3<<20+123)
	for i := range big {
		big[i] = byte(i*7 + i>>11)
	}
	must(os.WriteFile(filepath.Join(dir, "big"), big, 0o644))
	deep := dir
	for range 40 {
		deep = filepath.Join(deep, "d")
	}
	must(os.MkdirAll(deep, 0o755))
	must(os.WriteFile(filepath.Join(deep, "bottom"), []byte("deep"), 0o644))
	many := filepath.Join(dir, "many")
	must(os.Mkdir(many, 0o755))
	for i := range 500 {
		must(os.WriteFile(filepath.Join(many, "file-with-a-name-"+string(rune('a'+i%26))+time.Duration(i).String()), nil, 0o644))
	}
}

// serve starts a fake server over a fresh tree.
func serve(t testing.TB, cfg p9fake.Config) (*p9fake.Server, p9fake.Config) {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
		makeTree(t, cfg.Dir)
	}
	cfg.Socket = filepath.Join(t.TempDir(), "s")
	s := p9fake.New(cfg)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s, cfg
}

func connect(t testing.TB, cfg p9fake.Config, opts p9client.Options) *p9client.Client {
	t.Helper()
	c, err := p9client.Dial(testCtx(t), "unix:"+cfg.Socket, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func attach(t testing.TB, c *p9client.Client) *p9client.File {
	t.Helper()
	root, err := c.Attach(testCtx(t), "image/x")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// pipe gives a client end and lets answer play the server after the version
// exchange.
func pipe(t testing.TB, opts p9client.Options, answer func(net.Conn)) (*p9client.Client, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = theirs.Close() }()
		answer(theirs)
	}()
	c, err := p9client.New(testCtx(t), ours, opts)
	t.Cleanup(func() {
		if c != nil {
			_ = c.Close()
		}
		_ = theirs.Close()
		<-done
	})
	return c, err
}

// socketPair gives the two ends of a Unix stream.
func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return conns[0], conns[1]
}
