package mount

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/nineply/nineply/internal/p9client"
)

// forever is how long the kernel may keep what it was told: the tree never
// changes.
const forever = 10 * 365 * 24 * time.Hour

// front answers the kernel's FUSE requests from a tree. The node numbers are
// the tree's inode numbers. Opens are refused with ENOSYS, which tells the
// kernel (from 3.16, for directories from 5.1) that there is no need to ask:
// from then on it opens, caches and closes by itself.
type front struct {
	fuse.RawFileSystem
	t *tree
	// gone tells that the kernel's side of the mount has ended.
	gone func() bool

	noOpen, noOpendir bool // set before the first request
	requests          [opKinds]atomic.Uint64
	interrupted       atomic.Uint64
	listings          sync.Pool // of *[]byte, maxListing long
}

// The operations that are counted.
const (
	opLookup = iota
	opGetattr
	opRead
	opReaddir
	opReadlink
	opXattr
	opOther
	opKinds
)

func opName(op int) string {
	return [opKinds]string{"lookup", "getattr", "read", "readdir", "readlink", "xattr", "other"}[op]
}

func newFront(t *tree, gone func() bool) *front {
	f := &front{RawFileSystem: fuse.NewDefaultRawFileSystem(), t: t, gone: gone}
	f.listings.New = func() any {
		b := make([]byte, maxListing)
		return &b
	}
	return f
}

// String is the file system's name in messages.
func (*front) String() string { return "nineply" }

// Init learns what the kernel can do.
func (f *front) Init(s *fuse.Server) {
	flags := s.KernelSettings().Flags64()
	f.noOpen = flags&fuse.CAP_NO_OPEN_SUPPORT != 0
	f.noOpendir = flags&fuse.CAP_NO_OPENDIR_SUPPORT != 0
}

// run answers one request about a node.
func (f *front) run(op int, cancel <-chan struct{}, h *fuse.InHeader, fn func(context.Context, *node) error) fuse.Status {
	f.requests[op].Add(1)
	n := f.t.get(h.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	err := patiently(cancel, h.Pid, f.gone, func(ctx context.Context) error { return fn(ctx, n) })
	if errors.Is(err, syscall.EINTR) {
		f.interrupted.Add(1)
	}
	return status(err)
}

// status is the errno for an error of the tree.
func status(err error) fuse.Status {
	var e syscall.Errno
	switch {
	case err == nil:
		return fuse.OK
	case errors.As(err, &e):
		return fuse.Status(e)
	case errors.Is(err, errStale):
		return fuse.Status(syscall.ESTALE)
	case isContext(err):
		return fuse.Status(syscall.EINTR)
	}
	return fuse.EIO
}

// Lookup finds a name. That it is absent is an answer to keep, too.
func (f *front) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return f.run(opLookup, cancel, h, func(ctx context.Context, dir *node) error {
		n, a, err := f.t.lookup(ctx, dir, name)
		if errors.Is(err, syscall.ENOENT) {
			out.SetEntryTimeout(forever) // node 0: there is no such name
			return nil
		}
		if err == nil {
			fillEntry(out, n, &a)
		}
		return err
	})
}

func fillEntry(out *fuse.EntryOut, n *node, a *p9client.Attr) {
	out.NodeId = n.id
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	fillAttr(&out.Attr, a)
}

func fillAttr(out *fuse.Attr, a *p9client.Attr) {
	out.Ino = a.QID.Path
	out.Size, out.Blocks, out.Blksize = a.Size, a.Blocks, uint32(a.BlockSize)
	out.Atime, out.Atimensec = a.Atime.Sec, uint32(a.Atime.Nsec)
	out.Mtime, out.Mtimensec = a.Mtime.Sec, uint32(a.Mtime.Nsec)
	out.Ctime, out.Ctimensec = a.Ctime.Sec, uint32(a.Ctime.Nsec)
	out.Mode, out.Nlink, out.Rdev = a.Mode, uint32(a.NLink), uint32(a.Rdev)
	out.Uid, out.Gid = a.UID, a.GID
}

// Forget takes back count references of the kernel to a node.
func (f *front) Forget(id, count uint64) { f.t.forget(id, count) }

// GetAttr is asked for the root, and for nodes whose attributes the kernel
// dropped.
func (f *front) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return f.run(opGetattr, cancel, &in.InHeader, func(ctx context.Context, n *node) error {
		a, err := f.t.getattr(ctx, n)
		if err == nil {
			out.SetTimeout(forever)
			fillAttr(&out.Attr, &a)
		}
		return err
	})
}

// Readlink is asked once per link; the kernel keeps targets as pages.
func (f *front) Readlink(cancel <-chan struct{}, h *fuse.InHeader) (target []byte, st fuse.Status) {
	st = f.run(opReadlink, cancel, h, func(ctx context.Context, n *node) error {
		s, err := f.t.readlink(ctx, n)
		target = []byte(s)
		return err
	})
	return target, st
}

// Open refuses to be asked, where the kernel can do without.
func (f *front) Open(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if f.noOpen {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

// OpenDir is as Open.
func (f *front) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if f.noOpendir {
		return fuse.ENOSYS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	return fuse.OK
}

// Flush is called at close until it has been refused once.
func (*front) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Read fills buf, but for the end of the file.
func (f *front) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	got := 0
	st := f.run(opRead, cancel, &in.InHeader, func(ctx context.Context, n *node) (err error) {
		got, err = f.t.read(ctx, n, buf, int64(in.Offset))
		return err
	})
	if !st.Ok() {
		return nil, st
	}
	return fuse.ReadResultData(buf[:got]), fuse.OK
}

// GetXAttr gives an attribute or, for an empty dest, its size.
func (f *front) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (size uint32, st fuse.Status) {
	st = f.run(opXattr, cancel, h, func(ctx context.Context, n *node) error {
		m, err := f.t.xattr(ctx, n, name, dest)
		size = uint32(m)
		return err
	})
	return size, st
}

// ListXAttr gives the names of the attributes or, for an empty dest, their size.
func (f *front) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (size uint32, st fuse.Status) {
	st = f.run(opXattr, cancel, h, func(ctx context.Context, n *node) error {
		m, err := f.t.listXattr(ctx, n, dest)
		size = uint32(m)
		return err
	})
	return size, st
}

// StatFs does not wait for a server that is away, if it can remember.
func (f *front) StatFs(cancel <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	return f.run(opOther, cancel, h, func(ctx context.Context, _ *node) error {
		s, err := f.t.statFS(ctx)
		*out = fuse.StatfsOut{
			Blocks: s.Blocks, Bfree: s.BlocksFree, Bavail: s.BlocksA,
			Files: s.Files, Ffree: s.FilesFree,
			Bsize: s.BlockSize, Frsize: s.BlockSize, NameLen: s.NameLen,
		}
		return err
	})
}
