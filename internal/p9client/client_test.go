package p9client_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/internal/p9client"
	"github.com/nineply/nineply/internal/p9client/p9fake"
)

// variants are the servers every operation has to work against.
var variants = map[string]p9fake.Config{
	"in order":     {},
	"out of order": {Unordered: true},
	"small msize":  {MSize: 8192},
	"iounit":       {IOUnit: 5000},
}

func eachVariant(t *testing.T, fn func(t *testing.T, cfg p9fake.Config, root *p9client.File)) {
	for name, cfg := range variants {
		t.Run(name, func(t *testing.T) {
			_, cfg := serve(t, cfg)
			fn(t, cfg, attach(t, connect(t, cfg, p9client.Options{})))
		})
	}
}

func TestWalkStat(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg p9fake.Config, root *p9client.File) {
		deep := strings.Split(strings.Repeat("d/", 40)+"bottom", "/")
		for _, names := range [][]string{nil, {"a"}, {"a", "small"}, {"link"}, deep} {
			f, attr, err := root.WalkStat(testCtx(t), names...)
			if err != nil {
				t.Fatalf("%v: %v", names, err)
			}
			var st syscall.Stat_t
			if err := syscall.Lstat(filepath.Join(append([]string{cfg.Dir}, names...)...), &st); err != nil {
				t.Fatal(err)
			}
			if attr.QID.Path != st.Ino || f.QID() != attr.QID || attr.Mode != st.Mode ||
				attr.Size != uint64(st.Size) || attr.NLink != st.Nlink || attr.Mtime.Nsec != uint64(st.Mtim.Nsec) {
				t.Errorf("%v: got %+v, want %+v", names, attr, st)
			}
			_ = f.Close()
		}
	})
}

func TestErrorsAreErrnos(t *testing.T) {
	eachVariant(t, func(t *testing.T, _ p9fake.Config, root *p9client.File) {
		long := strings.Repeat("x", 256)
		for _, tt := range []struct {
			names []string
			want  syscall.Errno
		}{
			{[]string{"nothing"}, syscall.ENOENT},
			{[]string{"a", "nothing"}, syscall.ENOENT},
			{[]string{"a", ""}, syscall.EINVAL},
			{[]string{"a/b"}, syscall.EINVAL},
			{[]string{long}, syscall.ENAMETOOLONG},
		} {
			if f, _, err := root.WalkStat(testCtx(t), tt.names...); !errors.Is(err, tt.want) || f != nil {
				t.Errorf("WalkStat(%q) = %v, %v, want %v", tt.names, f, err, tt.want)
			}
			if f, err := root.Walk(testCtx(t), tt.names...); !errors.Is(err, tt.want) || f != nil {
				t.Errorf("Walk(%q) = %v, %v, want %v", tt.names, f, err, tt.want)
			}
		}
		if _, err := root.Readlink(testCtx(t)); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Readlink of a directory: %v", err)
		}
		if _, err := root.Xattr(testCtx(t), "user.none"); !errors.Is(err, syscall.ENODATA) && !errors.Is(err, syscall.EOPNOTSUPP) {
			t.Errorf("Xattr: %v", err)
		}
	})
}

// readAll reads in pieces until the end.
func readAll(t *testing.T, f *p9client.File, have []byte, piece int) []byte {
	t.Helper()
	buf := make([]byte, piece)
	for {
		n, err := f.ReadAt(testCtx(t), buf, int64(len(have)))
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return have
		}
		have = append(have, buf[:n]...)
	}
}

func TestRead(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg p9fake.Config, root *p9client.File) {
		want, err := os.ReadFile(filepath.Join(cfg.Dir, "big"))
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range []int{1 << 20, 100_001, 4 << 20} {
			buf := make([]byte, piece)
			f, n, err := root.WalkOpenReadAt(testCtx(t), buf, 0, "big")
			if err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, f, buf[:n], piece); !bytes.Equal(got, want) {
				t.Errorf("piece %d: content differs (%d bytes, want %d)", piece, len(got), len(want))
			}
			_ = f.Close()
		}
	})
}

// readNames lists an open directory in small pieces.
func readNames(t *testing.T, f *p9client.File) (names []string) {
	t.Helper()
	for off := uint64(0); ; {
		ents, err := f.ReadDir(testCtx(t), off, make([]byte, 5000), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(ents) == 0 {
			return names
		}
		for _, e := range ents {
			off = e.Offset
			if e.Name != "." && e.Name != ".." {
				names = append(names, e.Name)
			}
		}
	}
}

func TestReadDir(t *testing.T) {
	eachVariant(t, func(t *testing.T, cfg p9fake.Config, root *p9client.File) {
		want, err := os.ReadDir(filepath.Join(cfg.Dir, "many"))
		if err != nil {
			t.Fatal(err)
		}
		f, err := root.WalkOpen(testCtx(t), "many")
		if err != nil {
			t.Fatal(err)
		}
		names := readNames(t, f)
		slices.Sort(names)
		for i, e := range want {
			if i >= len(names) || names[i] != e.Name() {
				t.Fatalf("entry %d: want %q of %d, got %d names", i, e.Name(), len(want), len(names))
			}
		}
	})
}

func TestLinksXattrsStatfs(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir)
	hasXattr := syscall.Setxattr(filepath.Join(dir, "a"), "user.test", []byte("value"), 0) == nil
	_, cfg := serve(t, p9fake.Config{Dir: dir})
	root := attach(t, connect(t, cfg, p9client.Options{}))
	ctx := testCtx(t)
	link, err := root.Walk(ctx, "link")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := link.Readlink(ctx); err != nil || s != "a/small" {
		t.Errorf("Readlink = %q, %v", s, err)
	}
	if s, err := root.Statfs(ctx); err != nil || s.BlockSize != 4096 || s.NameLen != 255 {
		t.Errorf("Statfs = %+v, %v", s, err)
	}
	if !hasXattr {
		t.Skip("no user attributes here")
	}
	a, err := root.Walk(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	names, err := a.Xattrs(ctx)
	if diff := cmp.Diff([]string{"user.test"}, names); err != nil || diff != "" {
		t.Errorf("Xattrs: %v\n%s", err, diff)
	}
	if v, err := a.Xattr(ctx, "user.test"); err != nil || string(v) != "value" {
		t.Errorf("Xattr = %q, %v", v, err)
	}
}

// Far more callers than tags, all at once, must all be served, and leave no
// fid behind.
func TestManyCallersFewTags(t *testing.T) {
	s, cfg := serve(t, p9fake.Config{})
	c := connect(t, cfg, p9client.Options{MaxInflight: 3})
	root := attach(t, c)
	var wg sync.WaitGroup
	for range 32 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			buf := make([]byte, 64)
			for range 50 {
				f, n, err := root.WalkOpenReadAt(testCtx(t), buf, 0, "a", "small")
				if err != nil || string(buf[:n]) != "hello, tree" {
					t.Errorf("got %q, %v", buf[:n], err)
					return
				}
				_ = f.Close()
			}
		}()
	}
	wg.Wait()
	waitFor(t, func() bool { return s.Fids.Load() == 1 })
}

func TestServerGone(t *testing.T) {
	s, cfg := serve(t, p9fake.Config{})
	c := connect(t, cfg, p9client.Options{})
	root := attach(t, c)
	s.Stop()
	<-c.Done()
	if _, err := root.Stat(testCtx(t)); !errors.Is(err, p9client.ErrLost) {
		t.Errorf("Stat after the end: %v", err)
	}
	if _, err := root.Walk(testCtx(t), "a"); !errors.Is(err, p9client.ErrLost) {
		t.Errorf("Walk after the end: %v", err)
	}
	if _, err := p9client.Dial(testCtx(t), cfg.Socket, p9client.Options{}); err == nil {
		t.Error("dial of a dead server succeeded")
	}
}

func TestVersionRefused(t *testing.T) {
	_, err := pipe(t, p9client.Options{}, func(conn net.Conn) {
		buf := make([]byte, 64)
		_, _ = conn.Read(buf)
		_, _ = conn.Write([]byte("\x14\x00\x00\x00\x65\xff\xff\x00\x20\x00\x00\x07\x00unknown"))
	})
	if !errors.Is(err, p9client.ErrVersion) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ours, theirs := net.Pipe()
	defer func() { _ = theirs.Close() }()
	cancel()
	if _, err := p9client.New(ctx, ours, p9client.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestParseAddr(t *testing.T) {
	for _, good := range []string{"unix:/x", "/x", "tcp:host:1", "tcp:[::1]:5", "vsock:2:5640", "fd:3"} {
		if _, err := p9client.ParseAddr(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "unix:", "x", "tcp:host", "vsock:2", "vsock:a:1", "vsock:2:99999999999", "fd:", "fd:-1"} {
		if _, err := p9client.ParseAddr(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
