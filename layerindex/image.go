package layerindex

import (
	"fmt"
	"iter"
	"slices"

	"github.com/nineply/nineply/internal/fserr"
)

// image is an index in memory, ready to be written. Nodes are numbered in
// breadth-first order: node 1 is the root, the names of a directory are
// consecutive dirents, and a node's number is given at its first name. So
// parents come before children, and the dirents, names and symlink targets lie
// in the order of the nodes that own them.
type image struct {
	kind    uint32
	layers  []LayerInfo
	nodes   []node // node i has number i+1
	dirents []entry
	names   []byte
	targets []byte
	xattrs  xattrTable
	chunks  iter.Seq[*chunk]
}

// entry is a dirent whose prefix is left to be computed when it is written.
type entry struct {
	ino, nameOff uint32
	nameLen, typ uint8
}

// overflows reports whether a section of have records has no room for more: it
// would outgrow the 32-bit numbers that refer to its records.
func overflows(have, more int) bool { return int64(have)+int64(more) > maxSection }

// addNode appends a node found under parent and returns its number.
func (im *image) addNode(n node, parent uint32) (uint32, error) {
	if len(im.nodes) >= maxNodes {
		return 0, fserr.Newf(fserr.TooLarge, "index", "", "%w: more than %d nodes", ErrLimit, maxNodes)
	}
	n.parent = parent
	im.nodes = append(im.nodes, n)
	return uint32(len(im.nodes)), nil
}

// addDirent appends a name to the directory under construction.
func (im *image) addDirent(name []byte, ino uint32, typ uint8) error {
	if overflows(len(im.names), len(name)) || overflows(len(im.dirents), 1) {
		return fserr.Newf(fserr.TooLarge, "index", "", "%w: more than %d bytes of names", ErrLimit, int64(maxSection))
	}
	im.dirents = append(im.dirents, entry{ino: ino, nameOff: uint32(len(im.names)), nameLen: uint8(len(name)), typ: typ})
	im.names = append(im.names, name...)
	return nil
}

// addTarget stores the target of symlink n.
func (im *image) addTarget(n *node, target []byte) error {
	if overflows(len(im.targets), len(target)) {
		return fserr.Newf(fserr.TooLarge, "index", "", "%w: more than %d bytes of symlink targets", ErrLimit, int64(maxSection))
	}
	n.a, n.b = uint32(len(im.targets)), uint32(len(target))
	n.size = uint64(len(target))
	im.targets = append(im.targets, target...)
	return nil
}

// xattrTable holds distinct sets of extended attributes.
type xattrTable struct {
	sets  []span
	attrs []xattr
	bytes []byte
	known map[string]uint32 // encoded set: its number
	blobs map[string]span   // name or value: its place in bytes
}

// span is a range of a section.
type span struct{ off, n uint32 }

type xattr struct{ name, value span }

// pair is one attribute on its way into the table.
type pair struct {
	name  string
	value []byte
}

// intern returns the number of the set of pairs, which are sorted by name. No
// pairs are set 0.
func (t *xattrTable) intern(pairs []pair) (uint32, error) {
	if len(pairs) == 0 {
		return 0, nil
	}
	var key []byte
	for _, p := range pairs {
		key = fmt.Appendf(key, "%d,%d:%s%s", len(p.name), len(p.value), p.name, p.value)
	}
	if n, ok := t.known[string(key)]; ok {
		return n, nil
	}
	if t.known == nil {
		t.known, t.blobs = map[string]uint32{}, map[string]span{}
	}
	first := uint32(len(t.attrs))
	for _, p := range pairs {
		name, err := t.blob(p.name)
		if err != nil {
			return 0, err
		}
		value, err := t.blob(string(p.value))
		if err != nil {
			return 0, err
		}
		t.attrs = append(t.attrs, xattr{name, value})
	}
	t.sets = append(t.sets, span{first, uint32(len(pairs))})
	t.known[string(key)] = uint32(len(t.sets))
	return uint32(len(t.sets)), nil
}

func (t *xattrTable) blob(s string) (span, error) {
	if at, ok := t.blobs[s]; ok {
		return at, nil
	}
	if overflows(len(t.bytes), len(s)) || overflows(len(t.attrs), 1) {
		return span{}, fserr.Newf(fserr.TooLarge, "index", "", "%w: more than %d bytes of extended attributes", ErrLimit, int64(maxSection))
	}
	at := span{uint32(len(t.bytes)), uint32(len(s))}
	t.bytes = append(t.bytes, s...)
	t.blobs[s] = at
	return at, nil
}

// checkXattrs applies the limits of Linux and returns the attributes in order.
func checkXattrs(owner string, xattrs map[string][]byte) ([]pair, error) {
	if len(xattrs) == 0 {
		return nil, nil
	}
	pairs := make([]pair, 0, len(xattrs))
	list := 0
	for name, value := range xattrs {
		switch {
		case name == "" || hasZero(name):
			return nil, refuse(owner, ErrName, "extended attribute %.40q", name)
		case len(name) > maxXattrName:
			return nil, refuse(owner, ErrLimit, "extended attribute name of %d bytes", len(name))
		case len(value) > maxXattrValue:
			return nil, refuse(owner, ErrLimit, "extended attribute of %d bytes", len(value))
		}
		list += len(name) + 1
		pairs = append(pairs, pair{name, value})
	}
	if list > maxXattrList {
		return nil, refuse(owner, ErrLimit, "%d bytes of extended attribute names", list)
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return pairs, nil
}
