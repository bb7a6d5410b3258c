package p9server

import (
	"encoding/binary"
	"math"
	"syscall"

	"github.com/nineply/nineply/layerindex"
)

// open answers Tlopen. The I/O unit is 0: reads are bounded by msize alone.
func (c *conn) open(tag uint16, d *decoder) syscall.Errno {
	id, flags := d.u32(), d.u32()
	if d.bad {
		return syscall.EINVAL
	}
	f, errno := c.node(id)
	if errno != 0 {
		return errno
	}
	if f.state == fidOpen {
		return syscall.EINVAL
	}
	if errno := mayOpen(f.mode(), flags); errno != 0 {
		return errno
	}
	a, err := c.tree(f).Attr(f.node)
	if err != nil {
		return errnoOf(err)
	}
	if a.Size > math.MaxInt64 {
		return syscall.EFBIG
	}
	f.state, f.size = fidOpen, a.Size
	if c.ledger != nil {
		c.ledger.noteFID(c.attaches[f.slot], *f)
	}
	c.begin(tag, tlopen+1, 13+4)
	c.out.b = appendQid(c.out.b, c.qidVersion(f), qidTypeOf(f.mode()), f.node)
	c.out.b = append(c.out.b, 0, 0, 0, 0)
	c.end()
	return 0
}

// mayOpen answers as open(2) of an existing file does on a read-only file
// system. Creating what exists is no change: O_CREAT alone is let pass, as
// Linux passes the flag on with every open that has it.
func mayOpen(mode, flags uint32) syscall.Errno {
	isDir := mode == layerindex.ModeDir
	switch {
	case flags&openCreate != 0 && flags&openExcl != 0:
		return syscall.EEXIST
	case isDir && flags&(openCreate|openAccess|openTruncate) != 0:
		return syscall.EISDIR
	case !isDir && flags&openDirectory != 0:
		return syscall.ENOTDIR
	case mode == layerindex.ModeSymlink:
		return syscall.ELOOP
	case !isDir && mode != layerindex.ModeReg:
		return syscall.ENXIO // devices, pipes and sockets are the client's own
	case flags&(openAccess|openTruncate) != 0:
		return syscall.EROFS
	}
	return 0
}

// read answers Tread: at once if the bytes are at hand.
func (c *conn) read(tag uint16, d *decoder) syscall.Errno {
	id, off, count := d.u32(), d.u64(), d.u32()
	if d.bad || off > math.MaxInt64 {
		return syscall.EINVAL
	}
	f := c.usable(id)
	switch {
	case f == nil || f.state == fidWalked:
		return syscall.EBADF
	case f.state == fidXattr:
		return c.readValue(tag, c.values[f.id], off, count)
	case f.state == fidXattrList:
		return c.readNames(tag, f, off, count)
	case f.mode() == layerindex.ModeDir:
		return syscall.EISDIR
	}
	n := c.payload(count, off, f.size)
	c.begin(tag, tread+1, 4+n)
	c.out.b = binary.LittleEndian.AppendUint32(c.out.b, uint32(n))
	at := len(c.out.b)
	c.out.b = c.out.b[:at+n]
	local, err := readLocal(c.tree(f), f.node, c.out.b[at:], int64(off))
	switch {
	case err != nil:
		c.undo()
		return errnoOf(err)
	case !local:
		c.undo()
		c.srv.stats.misses.Add(1)
		c.count.misses.Add(1)
		c.start(&request{
			tag: tag, at: c.hold(c.attaches[f.slot]), node: f.node, off: int64(off), n: n,
		}, c.srv.opts.ReadTimeout)
		return errDeferred
	}
	c.end()
	c.tally.localReads++
	c.tally.payload += uint64(n)
	return 0
}

// payload gives how many bytes answer a read of count bytes at off of size.
func (c *conn) payload(count uint32, off, size uint64) int {
	if off >= size {
		return 0
	}
	return int(min(uint64(count), uint64(c.msize-readHeader), size-off))
}

// readLocal fills p if that takes no waiting.
func readLocal(tree Tree, node uint64, p []byte, off int64) (bool, error) {
	for done := 0; done < len(p); {
		n, local, err := tree.TryReadAt(node, p[done:], off+int64(done))
		if done += n; done >= len(p) {
			break
		}
		if err != nil || !local {
			return false, err
		}
		if n <= 0 {
			return false, errShort
		}
	}
	return true, nil
}
