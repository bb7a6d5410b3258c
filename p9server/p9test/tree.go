package p9test

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
	"github.com/nineply/nineply/p9server"
)

// File describes one file of a [Tree].
type File struct {
	// Path is absolute and clean; its directory must come before it.
	Path string
	// Mode holds type and permission bits as in st_mode.
	Mode uint32
	// UID, GID, Mtime (seconds) and Rdev are as in stat(2).
	UID, GID uint32
	Mtime    int64
	Rdev     uint64
	// Data is the content of a regular file or the target of a symbolic link.
	Data string
	// Xattrs are name and value in turn.
	Xattrs []string
	// LinkTo makes it a further name of another file, named by path.
	LinkTo string
	// Remote content is never at hand: reads of it go through Tree.Fetch.
	Remote bool
}

// Tree is a [p9server.Tree] in memory. Inode numbers are given in the order of
// the files, the root being 1.
type Tree struct {
	// Fetch, if set, is called by ReadAt before it answers for a Remote file,
	// and fails the read with its error.
	Fetch func(ctx context.Context, path string) error

	nodes []*node // by inode number - 1
}

type node struct {
	File
	data    []byte
	xattrs  []xattr
	attr    layerindex.Attr
	parent  uint64
	entries []layerindex.Dirent // sorted by name
	names   map[string]uint64
}

type xattr struct{ name, value []byte }

// NewTree makes a tree; its root is a directory of mode 0755 unless files
// starts with "/".
func NewTree(files []File) (*Tree, error) {
	t := &Tree{}
	if len(files) == 0 || files[0].Path != "/" {
		t.add(File{Path: "/", Mode: layerindex.ModeDir | 0o755})
	}
	for _, f := range files {
		if err := t.place(f); err != nil {
			return nil, err
		}
	}
	for _, n := range t.nodes {
		slices.SortFunc(n.entries, func(a, b layerindex.Dirent) int { return slices.Compare(a.Name, b.Name) })
	}
	return t, nil
}

// place adds f to the tree and to its directory.
func (t *Tree) place(f File) error {
	if f.Path == "/" {
		t.add(f)
		return nil
	}
	dir, err := t.Find(path.Dir(f.Path))
	if err != nil {
		return fmt.Errorf("directory of %s: %w", f.Path, err)
	}
	var ino uint64
	if f.LinkTo != "" {
		if ino, err = t.Find(f.LinkTo); err != nil {
			return fmt.Errorf("target of %s: %w", f.Path, err)
		}
		t.node(ino).attr.NLink++
	} else {
		ino = t.add(f)
		t.node(ino).parent = dir
	}
	n, parent := t.node(ino), t.node(dir)
	name := path.Base(f.Path)
	parent.names[name] = ino
	parent.entries = append(parent.entries, layerindex.Dirent{Ino: ino, Type: uint8(n.attr.Mode >> 12), Name: []byte(name)})
	if n.names != nil {
		parent.attr.NLink++
	}
	return nil
}

func (t *Tree) add(f File) uint64 {
	ino := uint64(len(t.nodes) + 1)
	n := &node{File: f, data: []byte(f.Data), parent: ino, attr: layerindex.Attr{
		Ino: ino, Mode: f.Mode, UID: f.UID, GID: f.GID, NLink: 1,
		Size: uint64(len(f.Data)), Mtime: f.Mtime, Rdev: f.Rdev,
	}}
	if f.Mode&layerindex.ModeTypeMask == layerindex.ModeDir {
		n.names = map[string]uint64{}
		n.attr.NLink, n.attr.Size = 2, layerindex.DirSize
	}
	for i := 0; i+1 < len(f.Xattrs); i += 2 {
		n.xattrs = append(n.xattrs, xattr{[]byte(f.Xattrs[i]), []byte(f.Xattrs[i+1])})
	}
	t.nodes = append(t.nodes, n)
	return ino
}

// Find gives the inode number of an absolute path.
func (t *Tree) Find(p string) (uint64, error) {
	ino := t.Root()
	for name := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if name == "" {
			continue
		}
		var err error
		if ino, err = t.Lookup(ino, []byte(name)); err != nil {
			return 0, fmt.Errorf("%s: %w", p, err)
		}
	}
	return ino, nil
}

// node gives nil for numbers that name nothing.
func (t *Tree) node(ino uint64) *node {
	if ino == 0 || ino > uint64(len(t.nodes)) {
		return nil
	}
	return t.nodes[ino-1]
}

var (
	errNotExist = fserr.New(fserr.NotExist, "lookup", "name", nil)
	errNotDir   = fserr.New(fserr.NotDir, "lookup", "name", nil)
	errNoNode   = fserr.New(fserr.Internal, "find", "node", nil)
	errNoAttr   = fserr.New(fserr.NoAttr, "find", "extended attribute", nil)
)

// Root implements [p9server.Tree].
func (t *Tree) Root() uint64 { return 1 }

// Lookup implements [p9server.Tree].
func (t *Tree) Lookup(dir uint64, name []byte) (uint64, error) {
	n := t.node(dir)
	switch {
	case n == nil:
		return 0, errNoNode
	case n.names == nil:
		return 0, errNotDir
	}
	if ino, ok := n.names[string(name)]; ok {
		return ino, nil
	}
	return 0, errNotExist
}

// Attr implements [p9server.Tree].
func (t *Tree) Attr(ino uint64) (layerindex.Attr, error) {
	if n := t.node(ino); n != nil {
		return n.attr, nil
	}
	return layerindex.Attr{}, errNoNode
}

// Parent implements [p9server.Tree].
func (t *Tree) Parent(dir uint64) (uint64, error) {
	if n := t.node(dir); n != nil {
		return n.parent, nil
	}
	return 0, errNoNode
}

// Readdir implements [p9server.Tree].
func (t *Tree) Readdir(dir, pos uint64) (layerindex.Dirent, uint64, bool, error) {
	n := t.node(dir)
	switch {
	case n == nil:
		return layerindex.Dirent{}, 0, false, errNoNode
	case n.names == nil:
		return layerindex.Dirent{}, 0, false, errNotDir
	case pos >= uint64(len(n.entries)):
		return layerindex.Dirent{}, 0, false, nil
	}
	return n.entries[pos], pos + 1, true, nil
}

// Readlink implements [p9server.Tree].
func (t *Tree) Readlink(ino uint64) ([]byte, error) {
	n := t.node(ino)
	if n == nil {
		return nil, errNoNode
	}
	return n.data, nil
}

// Xattr implements [p9server.Tree].
func (t *Tree) Xattr(ino uint64, name []byte) ([]byte, error) {
	n := t.node(ino)
	if n == nil {
		return nil, errNoNode
	}
	for _, x := range n.xattrs {
		if string(x.name) == string(name) {
			return x.value, nil
		}
	}
	return nil, errNoAttr
}

// XattrNames implements [p9server.Tree].
func (t *Tree) XattrNames(ino uint64, fn func(name []byte) bool) error {
	n := t.node(ino)
	if n == nil {
		return errNoNode
	}
	for _, x := range n.xattrs {
		if !fn(x.name) {
			break
		}
	}
	return nil
}

// TryReadAt implements [p9server.Tree]: false for Remote files.
func (t *Tree) TryReadAt(ino uint64, p []byte, off int64) (int, bool, error) {
	n := t.node(ino)
	switch {
	case n == nil:
		return 0, false, errNoNode
	case n.Remote:
		return 0, false, nil
	}
	return n.readAt(p, off), true, nil
}

// ReadAt implements [p9server.Tree], with Fetch for Remote files.
func (t *Tree) ReadAt(ctx context.Context, ino uint64, p []byte, off int64) (int, error) {
	n := t.node(ino)
	if n == nil {
		return 0, errNoNode
	}
	if n.Remote && t.Fetch != nil {
		if err := t.Fetch(ctx, n.Path); err != nil {
			return 0, err
		}
	}
	return n.readAt(p, off), nil
}

func (n *node) readAt(p []byte, off int64) int {
	if off >= int64(len(n.data)) {
		return 0
	}
	return copy(p, n.data[off:])
}

// Statfs implements [p9server.Tree].
func (t *Tree) Statfs() p9server.Statfs {
	return p9server.Statfs{Blocks: 1000, Files: uint64(len(t.nodes)), FSID: 1}
}
