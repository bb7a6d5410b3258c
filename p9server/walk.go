package p9server

import (
	"bytes"
	"encoding/binary"
	"syscall"

	"github.com/nineply/nineply/layerindex"
)

// walk answers Twalk. A walk that fails after its first name gives the qids of
// the names found, and makes no fid.
func (c *conn) walk(tag uint16, d *decoder) syscall.Errno {
	id, newID, n := d.u32(), d.u32(), int(d.u16())
	if d.bad || n > maxWalk {
		return syscall.EINVAL
	}
	f, errno := c.node(id)
	if errno != 0 {
		return errno
	}
	if newID == id {
		if f.state == fidOpen {
			return syscall.EINVAL
		}
	} else if errno := c.checkNewFID(newID); errno != 0 {
		return errno
	}
	to := fid{id: newID, slot: f.slot, node: f.node, kind: f.kind, state: fidWalked}
	tree := c.tree(f)

	c.begin(tag, twalk+1, 2+13*n)
	c.out.b = append(c.out.b, 0, 0)
	found := 0
	for found < n {
		if errno = step(tree, &to, d); errno != 0 {
			break
		}
		c.out.b = appendQid(c.out.b, c.qidVersion(&to), qidTypeOf(to.mode()), to.node)
		found++
	}
	if d.bad || (errno != 0 && found == 0) {
		c.undo()
		return errno
	}
	binary.LittleEndian.PutUint16(c.out.b[c.frame+headerSize:], uint16(found))
	c.end()
	switch {
	case found < n:
	case newID == id:
		f.node, f.kind = to.node, to.kind
		if c.ledger != nil {
			c.ledger.noteFID(c.attaches[f.slot], *f)
		}
	default:
		c.putFID(to)
	}
	return 0
}

// step takes f to the entry whose name comes next in d.
func step(tree Tree, f *fid, d *decoder) syscall.Errno {
	name := d.str()
	if d.bad {
		return syscall.EINVAL
	}
	if f.mode() != layerindex.ModeDir {
		return syscall.ENOTDIR
	}
	node, errno := lookup(tree, f.node, name)
	if errno != 0 {
		return errno
	}
	attr, err := tree.Attr(node)
	if err != nil {
		return errnoOf(err)
	}
	f.node, f.kind = node, uint8(attr.Mode>>12)
	return 0
}

// lookup finds name in dir, "." and ".." included.
func lookup(tree Tree, dir uint64, name []byte) (uint64, syscall.Errno) {
	switch {
	case len(name) == 0:
		return 0, syscall.EINVAL
	case len(name) > nameMax:
		return 0, syscall.ENAMETOOLONG
	case name[0] == '.' && len(name) == 1:
		return dir, 0
	case name[0] == '.' && name[1] == '.' && len(name) == 2:
		parent, err := tree.Parent(dir)
		if err != nil {
			return 0, errnoOf(err)
		}
		return parent, 0
	case bytes.IndexByte(name, '/') >= 0 || bytes.IndexByte(name, 0) >= 0:
		return 0, syscall.ENOENT // no entry can have that name
	}
	node, err := tree.Lookup(dir, name)
	if err != nil {
		return 0, errnoOf(err)
	}
	return node, 0
}
