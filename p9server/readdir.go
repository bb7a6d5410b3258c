package p9server

import (
	"encoding/binary"
	"syscall"

	"github.com/nineply/nineply/layerindex"
)

// Cookies: an entry's offset is where the next one starts. "." is at 0, ".." at
// 1, and the tree's position p at p+2. They mean the same on any connection.
const (
	cookieDot    = 0
	cookieDotDot = 1
	cookieTree   = 2
	// maxPosition keeps cookies positive in the signed file position of Linux.
	maxPosition = 1 << 62
)

// readdir answers Treaddir. Linux takes "." and ".." from the server.
func (c *conn) readdir(tag uint16, d *decoder) syscall.Errno {
	id, cookie, count := d.u32(), d.u64(), d.u32()
	if d.bad {
		return syscall.EINVAL
	}
	f := c.usable(id)
	switch {
	case f == nil || f.state == fidWalked:
		return syscall.EBADF
	case f.state != fidOpen || f.mode() != layerindex.ModeDir:
		return syscall.ENOTDIR
	case cookie >= maxPosition:
		return syscall.EINVAL
	}
	room := int(min(count, c.msize-readHeader))
	c.begin(tag, treaddir+1, 4+room)
	at := len(c.out.b) + 4
	c.out.b = append(c.out.b, 0, 0, 0, 0)
	errno := c.appendEntries(c.attaches[f.slot], f.node, cookie, at+room)
	if errno != 0 && len(c.out.b) == at {
		c.undo()
		return errno
	}
	// After some entries the error waits: the client asks again from there.
	binary.LittleEndian.PutUint32(c.out.b[at-4:], uint32(len(c.out.b)-at))
	c.end()
	return 0
}

// appendEntries appends the entries of dir from cookie on as long as out stays
// within limit bytes.
func (c *conn) appendEntries(a *attach, dir, cookie uint64, limit int) syscall.Errno {
	tree := a.tree
	if cookie == cookieDot {
		if !appendDirent(c, a.version, dir, layerindex.DTDir, ".", cookieDotDot, limit) {
			return syscall.EINVAL
		}
		cookie = cookieDotDot
	}
	if cookie == cookieDotDot {
		parent, err := tree.Parent(dir)
		if err != nil {
			return errnoOf(err)
		}
		if !appendDirent(c, a.version, parent, layerindex.DTDir, "..", cookieTree, limit) {
			return syscall.EINVAL
		}
		cookie = cookieTree
	}
	for pos := cookie - cookieTree; ; {
		e, next, ok, err := tree.Readdir(dir, pos)
		switch {
		case err != nil:
			return errnoOf(err)
		case !ok:
			return 0
		case next >= maxPosition-cookieTree || next == pos:
			return syscall.EIO // a broken tree; the client would loop or stop
		case !appendDirent(c, a.version, e.Ino, e.Type, e.Name, next+cookieTree, limit):
			// Nothing fits: an empty reply would mean the end, so say EINVAL as
			// getdents(2) does.
			return syscall.EINVAL
		}
		pos = next
	}
}

// appendDirent appends one entry; false if it does not fit.
func appendDirent[T string | []byte](c *conn, version uint32, ino uint64, typ uint8, name T, cookie uint64, limit int) bool {
	if len(c.out.b)+direntFixed+len(name) > limit {
		return false
	}
	b := appendQid(c.out.b, version, qidTypeOf(uint32(typ)<<12), ino)
	b = binary.LittleEndian.AppendUint64(b, cookie)
	b = append(b, typ)
	c.out.b = appendString(b, name)
	return true
}
