package mount_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/hostlink"
	"github.com/nineply/nineply/internal/mount"
	"github.com/nineply/nineply/layerindex"
)

// mergedIndex makes the index of a directory and gives its path.
func mergedIndex(t testing.TB, src string) string {
	t.Helper()
	b := layerindex.NewBuilder(layerindex.LayerInfo{
		Digest: estargz.Sum([]byte(src)), TOCDigest: estargz.Sum(nil), BlobSize: 1 << 20, DataEnd: 1<<20 - 1, Format: layerindex.FormatEStargz,
	}, layerindex.Limits{})
	links, off := map[uint64]string{}, int64(0)
	must(t, filepath.WalkDir(src, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == src {
			return err
		}
		e, ino, err := entryOf(path)
		if err != nil {
			return err
		}
		e.Name, _ = filepath.Rel(src, path)
		if first := links[ino]; first != "" && e.Type != estargz.TypeDir {
			return b.Add(&estargz.Entry{Name: e.Name, Type: estargz.TypeHardlink, LinkName: first})
		}
		links[ino] = e.Name
		return addChunks(b, e, &off)
	}))
	dir := t.TempDir()
	layer, merged := filepath.Join(dir, "layer"), filepath.Join(dir, "merged")
	must(t, b.WriteFile(layer))
	x, err := layerindex.Open(layer)
	must(t, err)
	must(t, errors.Join(layerindex.Merge(merged, []*layerindex.Index{x}), x.Close()))
	return merged
}

// addChunks adds a file in chunks of 1 MiB; anything else is added as it is.
func addChunks(b *layerindex.Builder, e *estargz.Entry, off *int64) error {
	const chunk = 1 << 20
	if e.Type != estargz.TypeReg || e.Size == 0 {
		return b.Add(e)
	}
	for at := int64(0); at < e.Size; at += chunk {
		*off += 100
		c := estargz.Entry{Name: e.Name, Type: estargz.TypeChunk}
		if at == 0 {
			c = *e
		}
		c.Offset, c.ChunkOffset, c.ChunkSize = *off, at, min(chunk, e.Size-at)
		c.ChunkDigest, c.HasChunkDigest = estargz.Sum(fmt.Append(nil, e.Name, at)), true
		if err := b.Add(&c); err != nil {
			return err
		}
	}
	return nil
}

func entryOf(path string) (*estargz.Entry, uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, 0, err
	}
	e := &estargz.Entry{
		Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec),
		DevMajor: unix.Major(st.Rdev), DevMinor: unix.Minor(st.Rdev), Xattrs: map[string][]byte{},
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Type = estargz.TypeDir
	case unix.S_IFREG:
		e.Type, e.Size = estargz.TypeReg, st.Size
	case unix.S_IFLNK:
		e.Type = estargz.TypeSymlink
		e.LinkName, err = os.Readlink(path)
	case unix.S_IFCHR:
		e.Type = estargz.TypeChar
	case unix.S_IFBLK:
		e.Type = estargz.TypeBlock
	case unix.S_IFIFO:
		e.Type = estargz.TypeFifo
	}
	buf := make([]byte, 64<<10)
	n, lerr := unix.Llistxattr(path, buf)
	if err := errors.Join(err, lerr); err != nil {
		return nil, 0, err
	}
	for _, name := range strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		val := make([]byte, 1024)
		if m, err := unix.Lgetxattr(path, name, val); name != "" && err == nil {
			e.Xattrs[name] = val[:m]
		}
	}
	return e, st.Ino, nil
}

// hostDaemon is the daemon's side of a host link, which can be stopped and
// started. Bytes come from the directory that the index is of.
type hostDaemon struct {
	t      testing.TB
	src    string
	merged string
	socket string
	index  *layerindex.Index

	tree    atomic.Value // of string: the tree's name
	refuse  atomic.Value // of error: why to attach nothing
	stuck   atomic.Bool  // bytes are not at hand, and do not come
	slow    atomic.Bool  // bytes are not at hand
	reads   atomic.Int64
	stopped func()
	mu      sync.Mutex
}

func newHostDaemon(t testing.TB, src string) *hostDaemon {
	t.Helper()
	d := &hostDaemon{t: t, src: src, merged: mergedIndex(t, src), socket: filepath.Join(t.TempDir(), "host")}
	x, err := layerindex.Open(d.merged)
	must(t, err)
	d.index = x
	t.Cleanup(func() { must(t, x.Close()) })
	d.tree.Store("tree")
	d.start()
	t.Cleanup(d.stop)
	return d
}

func (d *hostDaemon) start() {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ln, err := hostlink.Listen(ctx, d.socket)
	must(d.t, err)
	s := hostlink.NewServer(hostlink.Options{Attach: d.attach})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ctx, ln) // stopped
	}()
	d.mu.Lock()
	d.stopped = func() { cancel(); <-done }
	d.mu.Unlock()
}

// stop ends the daemon; a second stop does nothing.
func (d *hostDaemon) stop() {
	d.mu.Lock()
	stop := d.stopped
	d.stopped = nil
	d.mu.Unlock()
	if stop != nil {
		stop()
	}
}

func (d *hostDaemon) attach(context.Context, string) (hostlink.Tree, error) {
	if err, ok := d.refuse.Load().(error); ok {
		return hostlink.Tree{}, err
	}
	index, err := os.Open(d.merged)
	return hostlink.Tree{
		TryRead: func(n uint64, p []byte, off int64) (int, bool, error) {
			if d.stuck.Load() || d.slow.Load() {
				return 0, false, nil
			}
			m, err := d.read(n, p, off)
			return m, true, err
		},
		Read: func(ctx context.Context, n uint64, p []byte, off int64) (int, error) {
			if d.stuck.Load() {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			return d.read(n, p, off)
		},
		Index: index, Release: func() {},
		Welcome: hostlink.Welcome{Tree: d.tree.Load().(string), BlockSize: 4096, Blocks: 1000, Files: 77},
	}, err
}

func (d *hostDaemon) read(n uint64, p []byte, off int64) (int, error) {
	d.reads.Add(1)
	path, err := d.index.Path(n)
	if err != nil {
		return 0, err
	}
	f, err := os.Open(filepath.Join(d.src, path))
	if err != nil {
		return 0, err
	}
	m, err := f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return m, errors.Join(err, f.Close())
}

// hostFixture is a mount over a host link.
type hostFixture struct {
	*mount.Mount
	*hostDaemon
	dir string
}

// somebody is a 9P server that is there, and nothing more.
func somebody(context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	return ours, theirs.Close()
}

func hostOptions(d *hostDaemon, opts mount.Options) mount.Options {
	opts.Session.Dial, opts.Session.Aname = somebody, "image/test"
	if opts.Session.Patience == 0 {
		opts.Session.Patience = 5 * time.Minute // fail rather than hang in the kernel
	}
	opts.Mode, opts.HostLink = mount.FUSE, d.socket
	return opts
}

func mountHost(t testing.TB, src string, opts mount.Options) *hostFixture {
	t.Helper()
	needMount(t)
	if src == "" {
		src = sourceTree(t)
	}
	f := &hostFixture{hostDaemon: newHostDaemon(t, src), dir: t.TempDir()}
	m, err := mount.New(testCtx(t), f.dir, hostOptions(f.hostDaemon, opts))
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
