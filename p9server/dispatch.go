package p9server

import (
	"encoding/binary"
	"syscall"

	"github.com/nineply/nineply/layerindex"
)

// dispatch answers one whole message. It gives the errno to answer instead of
// a reply, 0 if the reply has been made, or errDeferred if it comes later.
func (c *conn) dispatch(typ uint8, tag uint16, d *decoder) syscall.Errno {
	switch typ {
	case twalk:
		return c.walk(tag, d)
	case tgetattr:
		return c.getattr(tag, d)
	case tread:
		return c.read(tag, d)
	case tclunk:
		return c.clunk(tag, d)
	case tlopen:
		return c.open(tag, d)
	case treaddir:
		return c.readdir(tag, d)
	case treadlink:
		return c.readlink(tag, d)
	case txattrwalk:
		return c.xattrwalk(tag, d)
	case tstatfs:
		return c.statfs(tag, d)
	case tattach:
		return c.attach(tag, d)
	case tflush:
		return c.flushRequest(tag, d)
	case tversion:
		return c.version(tag, d)
	case tfsync:
		return c.fsync(tag, d)
	case tlock:
		return c.lock(tag, d)
	case tgetlock:
		return c.getlock(tag, d)
	case tremove:
		return c.remove(d)
	case tauth:
		// Not required. This is the errno that diod's clients take for that;
		// others take any.
		return syscall.ENOENT
	}
	if isMutation(typ) {
		return c.mutation(d)
	}
	return syscall.EOPNOTSUPP
}

// isMutation tells the requests that would change the tree.
func isMutation(typ uint8) bool {
	switch typ {
	case tlcreate, tsymlink, tmknod, trename, tsetattr, txattrcreate, tlink, tmkdir, trenameat,
		tunlinkat, twrite:
		return true
	}
	return false
}

// mutation refuses a request to change the tree. All of them start with a fid.
func (c *conn) mutation(d *decoder) syscall.Errno {
	id := d.u32()
	switch {
	case d.bad:
		return syscall.EINVAL
	case c.usable(id) == nil:
		return syscall.EBADF
	}
	return syscall.EROFS
}

// remove refuses Tremove, which clunks its fid all the same.
func (c *conn) remove(d *decoder) syscall.Errno {
	id := d.u32()
	switch {
	case d.bad:
		return syscall.EINVAL
	case !c.dropUsable(id):
		return syscall.EBADF
	}
	return syscall.EROFS
}

// getattr answers Tgetattr.
func (c *conn) getattr(tag uint16, d *decoder) syscall.Errno {
	id, mask := d.u32(), d.u64()
	if d.bad {
		return syscall.EINVAL
	}
	f, errno := c.node(id)
	if errno != 0 {
		return errno
	}
	a, err := c.tree(f).Attr(f.node)
	if err != nil {
		return errnoOf(err)
	}
	c.begin(tag, tgetattr+1, attrSize)
	c.out.b = appendAttr(c.out.b, mask&attrBasic, c.qidVersion(f), f.node, &a)
	c.end()
	return 0
}

// attrSize is the size of an Rgetattr's body.
const attrSize = 8 + 13 + 3*4 + 15*8

// appendAttr appends the body of an Rgetattr. All fields are filled whatever
// valid says; birth time, generation and data version are unknown and 0.
func appendAttr(b []byte, valid uint64, version uint32, node uint64, a *layerindex.Attr) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, valid)
	b = appendQid(b, version, qidTypeOf(a.Mode), node)
	b = le.AppendUint32(b, a.Mode)
	b = le.AppendUint32(b, a.UID)
	b = le.AppendUint32(b, a.GID)
	b = le.AppendUint64(b, uint64(a.NLink))
	b = le.AppendUint64(b, a.Rdev)
	b = le.AppendUint64(b, a.Size)
	b = le.AppendUint64(b, blockSize)
	b = le.AppendUint64(b, blocks(a))
	for range 3 { // access, modification, change
		b = le.AppendUint64(b, uint64(a.Mtime))
		b = le.AppendUint64(b, uint64(a.MtimeNsec))
	}
	return append(b, make([]byte, 4*8)...)
}

// blockSize is the preferred size of reads, st_blksize.
const blockSize = 4096

// blocks gives st_blocks, in units of 512 bytes.
func blocks(a *layerindex.Attr) uint64 {
	if a.Mode&layerindex.ModeTypeMask != layerindex.ModeReg {
		return 0
	}
	return a.Size/512 + (a.Size%512+511)/512
}

// readlink answers Treadlink.
func (c *conn) readlink(tag uint16, d *decoder) syscall.Errno {
	id := d.u32()
	if d.bad {
		return syscall.EINVAL
	}
	f, errno := c.node(id)
	if errno != 0 {
		return errno
	}
	if f.mode() != layerindex.ModeSymlink {
		return syscall.EINVAL
	}
	target, err := c.tree(f).Readlink(f.node)
	if err != nil {
		return errnoOf(err)
	}
	if len(target) > min(int(c.msize)-headerSize-2, 0xffff) {
		return syscall.ENAMETOOLONG
	}
	c.begin(tag, treadlink+1, 2+len(target))
	c.out.b = appendString(c.out.b, target)
	c.end()
	return 0
}

// v9fsMagic is the file system type that Linux itself gives for v9fs.
const v9fsMagic = 0x01021997

// statfs answers Tstatfs.
func (c *conn) statfs(tag uint16, d *decoder) syscall.Errno {
	id := d.u32()
	if d.bad {
		return syscall.EINVAL
	}
	f, errno := c.node(id)
	if errno != 0 {
		return errno
	}
	s := c.tree(f).Statfs()
	le := binary.LittleEndian
	c.begin(tag, tstatfs+1, 3*4+6*8)
	b := le.AppendUint32(c.out.b, valueOr(s.Type, v9fsMagic))
	b = le.AppendUint32(b, valueOr(s.BlockSize, blockSize))
	b = le.AppendUint64(b, s.Blocks)
	b = le.AppendUint64(b, s.BlocksFree)
	b = le.AppendUint64(b, s.BlocksFree) // available to ordinary users
	b = le.AppendUint64(b, s.Files)
	b = le.AppendUint64(b, s.FilesFree)
	b = le.AppendUint64(b, s.FSID)
	c.out.b = le.AppendUint32(b, valueOr(s.NameLen, nameMax))
	c.end()
	return 0
}

func valueOr(v, def uint32) uint32 {
	if v == 0 {
		return def
	}
	return v
}

// fsync answers Tfsync: there is nothing to write.
func (c *conn) fsync(tag uint16, d *decoder) syscall.Errno {
	id := d.u32()
	if d.bad {
		return syscall.EINVAL
	}
	if _, errno := c.node(id); errno != 0 {
		return errno
	}
	return c.replyEmpty(tag, tfsync+1)
}

// lock answers Tlock. Every lock is granted, as on a read-only file system:
// Linux has already settled it among the processes of the client, and clients
// share nothing that another could change.
func (c *conn) lock(tag uint16, d *decoder) syscall.Errno {
	id, typ := d.u32(), d.u8()
	d.u32() // flags
	d.u64() // start
	d.u64() // length
	d.u32() // proc_id
	d.str() // client_id
	if d.bad {
		return syscall.EINVAL
	}
	if _, errno := c.node(id); errno != 0 {
		return errno
	}
	if typ > lockUnlock {
		return syscall.EINVAL
	}
	c.begin(tag, tlock+1, 1)
	c.out.b = append(c.out.b, lockSuccess)
	c.end()
	return 0
}

// getlock answers Tgetlock: nothing is in the way of the lock described.
func (c *conn) getlock(tag uint16, d *decoder) syscall.Errno {
	id, typ := d.u32(), d.u8()
	start, length, proc, client := d.u64(), d.u64(), d.u32(), d.str()
	if d.bad || len(client) > minMsize/2 {
		return syscall.EINVAL
	}
	if _, errno := c.node(id); errno != 0 {
		return errno
	}
	if typ > lockUnlock {
		return syscall.EINVAL
	}
	le := binary.LittleEndian
	c.begin(tag, tgetlock+1, 1+8+8+4+2+len(client))
	b := append(c.out.b, lockUnlock)
	b = le.AppendUint64(b, start)
	b = le.AppendUint64(b, length)
	b = le.AppendUint32(b, proc)
	c.out.b = appendString(b, client)
	c.end()
	return 0
}
