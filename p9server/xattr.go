package p9server

import (
	"encoding/binary"
	"math"
	"syscall"
)

const (
	// maxXattrFIDs bounds the fids of one connection that hold a value.
	maxXattrFIDs = 1024
	// xattrListMax is the longest list of names that Linux takes.
	xattrListMax = 64 << 10
)

// xattrwalk answers Txattrwalk: newfid holds the value of the attribute, or the
// list of names where name is empty, to be read with Tread.
func (c *conn) xattrwalk(tag uint16, d *decoder) syscall.Errno {
	id, newID, name := d.u32(), d.u32(), d.str()
	if d.bad {
		return syscall.EINVAL
	}
	f, errno := c.node(id)
	if errno != 0 {
		return errno
	}
	if errno := c.checkNewFID(newID); errno != 0 {
		return errno
	}
	to := fid{id: newID, slot: f.slot, node: f.node, kind: f.kind}
	if len(name) == 0 {
		errno = c.openNames(&to)
	} else {
		errno = c.openValue(&to, name)
	}
	if errno != 0 {
		return errno
	}
	c.putFID(to)
	c.begin(tag, txattrwalk+1, 8)
	c.out.b = binary.LittleEndian.AppendUint64(c.out.b, to.size)
	c.end()
	return 0
}

// openNames makes f the list of names. The list itself is made when read.
func (c *conn) openNames(f *fid) syscall.Errno {
	size, err := c.names.measure(c.tree(f), f.node)
	switch {
	case err != nil:
		return errnoOf(err)
	case size > xattrListMax:
		return syscall.E2BIG
	}
	f.state, f.size = fidXattrList, uint64(size)
	return 0
}

// openValue makes f the value of name.
func (c *conn) openValue(f *fid, name []byte) syscall.Errno {
	if len(c.values) >= maxXattrFIDs {
		return syscall.EMFILE
	}
	value, err := c.tree(f).Xattr(f.node, name)
	if err != nil {
		return errnoOf(err)
	}
	f.state, f.size = fidXattr, uint64(len(value))
	c.values[f.id] = value
	if c.ledger != nil {
		c.ledger.names[f.id] = string(name)
	}
	return 0
}

// readValue answers a Tread of a value.
func (c *conn) readValue(tag uint16, value []byte, off uint64, count uint32) syscall.Errno {
	n := c.payload(count, off, uint64(len(value)))
	c.begin(tag, tread+1, 4+n)
	c.out.b = binary.LittleEndian.AppendUint32(c.out.b, uint32(n))
	if n > 0 {
		c.out.b = append(c.out.b, value[off:off+uint64(n)]...)
	}
	c.end()
	return 0
}

// readNames answers a Tread of a list of names.
func (c *conn) readNames(tag uint16, f *fid, off uint64, count uint32) syscall.Errno {
	n := c.payload(count, off, f.size)
	c.begin(tag, tread+1, 4+n)
	c.out.b = binary.LittleEndian.AppendUint32(c.out.b, uint32(n))
	if n > 0 {
		at := len(c.out.b)
		b, err := c.names.append(c.out.b, c.tree(f), f.node, int(off), n)
		if err == nil && len(b) != at+n {
			err = errShort
		}
		if err != nil {
			c.undo()
			return errnoOf(err)
		}
		c.out.b = b
	}
	c.end()
	return 0
}

// nameList makes the NUL-terminated list of a node's attribute names, or a part
// of it, without holding more of it than the part. It exists once per
// connection so that the function given to the tree is made once.
type nameList struct {
	add  func(name []byte) bool
	b    []byte
	skip int // bytes of the list not wanted before those that are
	room int // bytes still wanted
	size int // bytes of the list so far
}

func (l *nameList) init() { l.add = l.name }

// measure gives the length of the whole list.
func (l *nameList) measure(tree Tree, node uint64) (int, error) {
	l.skip, l.room, l.size = math.MaxInt, 0, 0
	err := tree.XattrNames(node, l.add)
	return l.size, err
}

// append appends bytes [off, off+n) of the list to b, which has room for them.
func (l *nameList) append(b []byte, tree Tree, node uint64, off, n int) ([]byte, error) {
	l.b, l.skip, l.room, l.size = b, off, n, 0
	err := tree.XattrNames(node, l.add)
	b, l.b = l.b, nil
	return b, err
}

// name takes one name of the list.
func (l *nameList) name(name []byte) bool {
	l.size += len(name) + 1
	if l.skip < math.MaxInt {
		l.part(name)
		l.end()
		return l.room > 0
	}
	return l.size <= xattrListMax
}

// part appends what is wanted of p.
func (l *nameList) part(p []byte) {
	skip := min(l.skip, len(p))
	l.skip -= skip
	p = p[skip:]
	p = p[:min(l.room, len(p))]
	l.room -= len(p)
	l.b = append(l.b, p...)
}

// end appends the NUL behind a name if it is wanted.
func (l *nameList) end() {
	switch {
	case l.skip > 0:
		l.skip--
	case l.room > 0:
		l.room--
		l.b = append(l.b, 0)
	}
}
