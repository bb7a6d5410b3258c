package mount_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/mount"
	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// product is the product's own server on a Unix socket; it can be stopped and
// started like a daemon.
type product struct {
	t        testing.TB
	exporter p9server.Exporter
	socket   string

	mu    sync.Mutex
	srv   *p9server.Server
	ended chan error
}

func newProduct(t testing.TB, e p9server.Exporter) *product {
	t.Helper()
	p := &product{t: t, exporter: e, socket: filepath.Join(t.TempDir(), "9p")}
	p.start()
	t.Cleanup(p.stop)
	return p
}

func (p *product) start() {
	p.t.Helper()
	ln, err := net.Listen("unix", p.socket)
	must(p.t, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	srv, ended := p9server.NewServer(p.exporter, p9server.Options{}), make(chan error, 1)
	p.srv, p.ended = srv, ended
	go func() { ended <- srv.Serve(context.Background(), ln) }()
}

// stop closes the server; a second stop does nothing.
func (p *product) stop() {
	p.mu.Lock()
	srv, ended := p.srv, p.ended
	p.srv = nil
	p.mu.Unlock()
	if srv == nil {
		return
	}
	must(p.t, srv.Close())
	if err := <-ended; !errors.Is(err, p9server.ErrServerClosed) {
		p.t.Errorf("server: %v", err)
	}
}

// The relay is invisible: what is asked of the server is asked of it.
func TestRelayConformance(t *testing.T) {
	p9test.Run(t, func(t *testing.T, e p9server.Exporter) net.Conn {
		p := newProduct(t, e)
		opts := mount.SessionOptions{Dial: dialer(t, p.socket)}
		ours, theirs := connPair(t)
		server, err := opts.Dial(testCtx(t))
		must(t, err)
		ended := make(chan error, 1)
		go func() { ended <- mount.NewRelay(ours, opts).Run(testCtx(t), server) }()
		t.Cleanup(func() {
			_ = theirs.Close() // the test may have done so
			if err := <-ended; err != nil {
				t.Log("relay:", err) // the suite sends what ends it
			}
		})
		return theirs
	})
}

// mountProduct mounts the tree "image/test" of a product server.
func mountProduct(t testing.TB, p *product, opts mount.Options) (m *mount.Mount, dir string) {
	t.Helper()
	needMount(t)
	dir = t.TempDir()
	opts.Mode = mount.FUSE
	opts.Session.Dial, opts.Session.Aname = dialer(t, p.socket), "image/test"
	m, err := mount.New(testCtx(t), dir, opts)
	must(t, err)
	t.Cleanup(func() {
		must(t, m.Unmount(testCtx(t), true))
		<-m.Done()
	})
	return m, dir
}

func productTree(t testing.TB, files []p9test.File) *product {
	t.Helper()
	tree, err := p9test.NewTree(files)
	must(t, err)
	e := p9test.Export(tree)
	e.Add("image/test", tree)
	return newProduct(t, e)
}

// What the product's server exports is what the mount shows, before and after
// the server is replaced.
func TestProductServer(t *testing.T) {
	files := p9test.ReferenceFiles()
	p := productTree(t, files)
	m, dir := mountProduct(t, p, mount.Options{MaxFids: 16})
	for range 2 {
		for _, f := range files {
			if f.LinkTo == "" {
				compareFile(t, dir, f)
			}
		}
		p.stop()
		p.start()
		evict(t, dir)
	}
	if st := m.Status(); st.Stale != 0 {
		t.Errorf("status %+v", st)
	}
}

func compareFile(t *testing.T, dir string, f p9test.File) {
	t.Helper()
	path := filepath.Join(dir, f.Path)
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	if st.Mode != f.Mode || st.Uid != f.UID || st.Gid != f.GID || st.Rdev != f.Rdev || st.Mtim.Sec != f.Mtime {
		t.Errorf("%s: stat %+v, want %+v", f.Path, st, f)
	}
	var got string
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		b, err := exec.Command("cat", path).Output()
		must(t, err)
		got = string(b)
	case unix.S_IFLNK:
		s, err := os.Readlink(path)
		must(t, err)
		got = s
	}
	if got != f.Data {
		t.Errorf("%s: %d bytes, want %d", f.Path, len(got), len(f.Data))
	}
	for i := 0; i < len(f.Xattrs); i += 2 {
		if f.Xattrs[i] == "security.capability" {
			continue // the kernel insists on a valid one, the reference has none
		}
		buf := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, f.Xattrs[i], buf)
		if err != nil || string(buf[:n]) != f.Xattrs[i+1] {
			t.Errorf("%s: attribute %s is %q, %v", f.Path, f.Xattrs[i], buf[:max(n, 0)], err)
		}
	}
}

// writeSum writes what sha256sum prints for text read from standard input.
func writeSum(path, text string) error {
	return os.WriteFile(path, fmt.Appendf(nil, "%x  -\n", sha256.Sum256([]byte(text))), 0o644)
}
