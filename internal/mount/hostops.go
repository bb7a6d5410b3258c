package mount

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/idmap"
	"github.com/nineply/nineply/layerindex"
)

// foreverSeconds is how long the kernel may keep what it was told: the tree never
// changes.
const foreverSeconds = uint64(forever / 1e9)

// maxName is the longest name there can be, bytes.
const maxName = 255

// indexFront answers the kernel from a merged index. The node numbers are those
// of the index, whose root is 1 as FUSE wants it, so that nothing has to be
// remembered of what the kernel knows. Reads go to the daemon.
type indexFront struct {
	x      *layerindex.Index
	reads  *reads
	flags  uint32 // of the device
	statfs layerStatfs
	ids    idmap.Maps

	requests [opKinds]atomic.Uint64
}

// layerStatfs is what statfs(2) tells.
type layerStatfs struct {
	blockSize     uint32
	blocks, files uint64
}

// handle answers a request.
func (f *indexFront) handle(r *fuseRequest, w *reply) (unix.Errno, bool) {
	switch r.op {
	case fuseForget, fuseBatchForget:
		return 0, false
	case fuseInterrupt:
		return unix.EAGAIN, !f.reads.interrupted(r.u64(0))
	case fuseRead:
		f.requests[opRead].Add(1)
		return f.read(r)
	}
	return f.answer(r, w), true
}

// answer is for what needs no waiting.
func (f *indexFront) answer(r *fuseRequest, w *reply) unix.Errno {
	kind, errno := opOther, unix.Errno(0)
	switch r.op {
	case fuseLookup:
		kind, errno = opLookup, f.lookup(r, w)
	case fuseGetattr:
		kind, errno = opGetattr, f.getattr(r, w)
	case fuseReadlink:
		kind, errno = opReadlink, f.readlink(r, w)
	case fuseReaddir:
		kind, errno = opReaddir, f.readdir(r, w, false)
	case fuseReaddirplus:
		kind, errno = opReaddir, f.readdir(r, w, true)
	case fuseGetxattr:
		kind, errno = opXattr, f.xattr(r, w)
	case fuseListxattr:
		kind, errno = opXattr, f.listXattr(r, w)
	case fuseOpen:
		errno = f.open(w, capNoOpen, openKeepCache|openNoFlush)
	case fuseOpendir:
		errno = f.open(w, capNoOpendir, openKeepCache|openCacheDir)
	case fuseStatfs:
		f.stat(w)
	case fuseRelease, fuseReleasedir, fuseDestroy:
	default:
		errno = unix.ENOSYS
	}
	f.requests[kind].Add(1)
	return errno
}

// errnoOf is the errno of the index's errors.
func errnoOf(err error) unix.Errno {
	if err == nil {
		return 0
	}
	if e, ok := err.(*fserr.Error); ok { //nolint:errorlint // those of an index are bare, and this way takes no memory
		return e.Kind.Errno()
	}
	return fserr.Errno(err)
}

// open refuses to be asked, where the kernel can do without.
func (f *indexFront) open(w *reply, without, flags uint32) unix.Errno {
	if f.flags&without != 0 {
		return unix.ENOSYS
	}
	w.u64(0) // handle
	w.u32(flags)
	w.u32(0)
	return 0
}

// lookup finds a name. That it is absent is an answer to keep, too.
func (f *indexFront) lookup(r *fuseRequest, w *reply) unix.Errno {
	name := r.name(0)
	if len(name) > maxName {
		return unix.ENAMETOOLONG
	}
	n, err := f.x.Lookup(r.node, name)
	switch errno := errnoOf(err); errno {
	case 0:
	case unix.ENOENT:
		if _, err := f.x.Attr(r.node); err != nil {
			return unix.ESTALE
		}
		w.u64(0) // node 0: there is no such name
		w.u64(0)
		w.u64(foreverSeconds)
		w.zeros(entrySize - 24)
		return 0
	default:
		return errno
	}
	a, err := f.attr(n)
	if err != nil {
		return errnoOf(err)
	}
	w.entry(&a)
	return 0
}

func (w *reply) entry(a *layerindex.Attr) {
	w.u64(a.Ino)
	w.u64(0) // generation
	w.u64(foreverSeconds)
	w.u64(foreverSeconds)
	w.u64(0) // nanoseconds of both
	w.attr(a)
}

// attr appends a node's attributes: 4096 bytes is what a read should have, and
// 512 bytes are what blocks are counted in.
func (w *reply) attr(a *layerindex.Attr) {
	blocks := uint64(0)
	if a.Mode&layerindex.ModeTypeMask == layerindex.ModeReg {
		blocks = a.Size/512 + (a.Size%512+511)/512
	}
	w.u64(a.Ino)
	w.u64(a.Size)
	w.u64(blocks)
	for range 3 { // access, modification, change
		w.u64(uint64(a.Mtime))
	}
	for range 3 {
		w.u32(a.MtimeNsec)
	}
	w.u32(a.Mode)
	w.u32(a.NLink)
	w.u32(a.UID)
	w.u32(a.GID)
	w.u32(uint32(a.Rdev))
	w.u32(pageSize)
	w.u32(0)
}

// getattr is asked for the root, and for nodes whose attributes the kernel
// dropped.
func (f *indexFront) getattr(r *fuseRequest, w *reply) unix.Errno {
	a, err := f.attr(r.node)
	if err != nil {
		return unix.ESTALE
	}
	w.u64(foreverSeconds)
	w.u64(0)
	w.attr(&a)
	return 0
}

// readlink is asked once per link; the kernel keeps targets as pages.
func (f *indexFront) readlink(r *fuseRequest, w *reply) unix.Errno {
	target, err := f.x.Readlink(r.node)
	w.b = append(w.b, target...)
	return errnoOf(err)
}

// dots are the entries that an index does not have. They come first, so that
// position p of the index has the cookie p+dots.
const dots = 2

// maxDirReply bounds the answer to one request for entries, bytes.
const maxDirReply = 128 << 10

// readdir lists a directory, with the attributes of everything in it if plus is
// set, so that a walk over the tree needs no lookup at all.
func (f *indexFront) readdir(r *fuseRequest, w *reply, plus bool) unix.Errno {
	cookie, size := r.u64(8), min(int(r.u32(16)), maxDirReply)
	w.room(size)
	if cookie < dots {
		up, err := f.x.Parent(r.node)
		if err != nil {
			return errnoOf(err)
		}
		if cookie == 0 {
			w.dirent(&layerindex.Attr{Ino: r.node}, layerindex.DTDir, ".", 1, plus)
		}
		w.dirent(&layerindex.Attr{Ino: up}, layerindex.DTDir, "..", dots, plus)
		cookie = dots
	}
	for pos := cookie - dots; ; {
		d, next, ok, err := f.x.Readdir(r.node, pos)
		if err != nil {
			return errnoOf(err)
		}
		if !ok || len(w.b)-outHeaderSize+entrySize+direntFixed+maxName+8 > size {
			return f.fits(w, size, ok)
		}
		a := layerindex.Attr{Ino: d.Ino}
		if plus {
			if a, err = f.attr(d.Ino); err != nil {
				return errnoOf(err)
			}
		}
		direntOf(w, &a, &d, next+dots, plus)
		pos = next
	}
}

// fits looks whether there was room for anything.
func (*indexFront) fits(w *reply, size int, more bool) unix.Errno {
	if len(w.b)-outHeaderSize > size || more && len(w.b) == outHeaderSize {
		return unix.EINVAL
	}
	return 0
}

// room makes sure that size bytes can be appended without growing.
func (w *reply) room(size int) {
	if cap(w.b)-len(w.b) < size {
		w.b = append(make([]byte, 0, len(w.b)+size), w.b...)
	}
}

func direntOf(w *reply, a *layerindex.Attr, d *layerindex.Dirent, cookie uint64, plus bool) {
	if plus {
		w.entry(a)
	}
	w.direntHead(d.Ino, cookie, len(d.Name), d.Type)
	w.b = append(w.b, d.Name...)
	w.pad(len(d.Name))
}

// dirent appends an entry without attributes (node 0, where there is room for
// them), which the kernel looks up if it needs to.
func (w *reply) dirent(a *layerindex.Attr, typ uint8, name string, cookie uint64, plus bool) {
	if plus {
		w.zeros(entrySize)
	}
	w.direntHead(a.Ino, cookie, len(name), typ)
	w.b = append(w.b, name...)
	w.pad(len(name))
}

func (w *reply) direntHead(ino, cookie uint64, name int, typ uint8) {
	w.u64(ino)
	w.u64(cookie)
	w.u32(uint32(name))
	w.u32(uint32(typ))
}

// pad fills up to a multiple of 8 after n bytes.
func (w *reply) pad(n int) { w.zeros((8 - n%8) % 8) }

// xattr gives an attribute's value or, asked for 0 bytes, its size.
func (f *indexFront) xattr(r *fuseRequest, w *reply) unix.Errno {
	value, err := f.x.Xattr(r.node, r.name(8))
	if err != nil {
		return errnoOf(err)
	}
	size := r.u32(0)
	if size == 0 {
		w.u32(uint32(len(value)))
		w.u32(0)
		return 0
	}
	if len(value) > int(size) {
		return unix.ERANGE
	}
	w.b = append(w.b, value...)
	return 0
}

// listXattr gives the names of the attributes or, asked for 0 bytes, their size.
func (f *indexFront) listXattr(r *fuseRequest, w *reply) unix.Errno {
	err := f.x.XattrNames(r.node, func(name []byte) bool {
		w.b = append(append(w.b, name...), 0)
		return true
	})
	got, size := len(w.b)-outHeaderSize, int(r.u32(0))
	switch {
	case err != nil:
		return errnoOf(err)
	case size == 0:
		w.b = w.b[:outHeaderSize]
		w.u32(uint32(got))
		w.u32(0)
	case got > size:
		return unix.ERANGE
	}
	return 0
}

// stat answers statfs(2). A file system that cannot be written has no room.
func (f *indexFront) stat(w *reply) {
	w.u64(f.statfs.blocks)
	w.u64(0)
	w.u64(0)
	w.u64(f.statfs.files)
	w.u64(0)
	w.u32(f.statfs.blockSize)
	w.u32(maxName)
	w.u32(f.statfs.blockSize)
	w.zeros(outHeaderSize + statfsSize - len(w.b))
}

// read passes the request on, cut at the end of the file.
func (f *indexFront) read(r *fuseRequest) (unix.Errno, bool) {
	off, size := r.u64(8), r.u32(16)
	a, err := f.x.Attr(r.node)
	switch {
	case err != nil:
		return unix.ESTALE, true
	case a.Mode&layerindex.ModeTypeMask != layerindex.ModeReg:
		return unix.EINVAL, true
	case off >= a.Size || size == 0:
		return 0, true
	}
	size = uint32(min(uint64(size), a.Size-off, maxHostRead))
	return f.reads.start(r, int64(off), size)
}
