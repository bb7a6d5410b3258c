package layerindex

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/nineply/nineply/internal/fserr"
)

// Merge writes the tree that layers, bottom first, show when they lie on each
// other, to path, the way WriteFile writes. At most 512 layers; they stay open
// and are not needed by the result except for their chunks.
//
// A name is what the topmost layer that has it says. A whiteout hides the name
// in the layers below its own; an opaque directory hides what lower layers have
// in it, and so does a directory with a whiteout of its own name beside it.
// Directories on each other become one, with the attributes of the topmost
// layer that has an entry for it. Names that are hard links in their layer stay
// one node, whose link count is that of the names still visible.
func Merge(path string, layers []*Index) error {
	return mergeTo(osFS{}, path, layers)
}

// Overlay writes the tree of one layer as overlayfs wants a lower of several:
// a whiteout is a character device 0:0, and a directory that hides what lower
// layers have in it has the attribute trusted.overlay.opaque (Linux,
// Documentation/filesystems/overlayfs.rst).
func Overlay(path string, layer *Index) error {
	m, err := newMerger([]*Index{layer})
	if err != nil {
		return err
	}
	m.overlay = true
	if err := m.run(); err != nil {
		return err
	}
	return m.im.writeFile(osFS{}, path)
}

// opaqueName and opaqueValue are the attribute of an opaque directory.
const (
	opaqueName  = "trusted.overlay.opaque"
	opaqueValue = "y"
)

func mergeTo(fsys fileSystem, path string, layers []*Index) error {
	im, err := mergeLayers(layers)
	if err != nil {
		return err
	}
	return im.writeFile(fsys, path)
}

func mergeLayers(layers []*Index) (*image, error) {
	m, err := newMerger(layers)
	if err != nil {
		return nil, err
	}
	return m.im, m.run()
}

func newMerger(layers []*Index) (*merger, error) {
	if len(layers) > maxLayers {
		return nil, fserr.Newf(fserr.TooLarge, "merge", "", "%w: %d layers", ErrLimit, len(layers))
	}
	m := &merger{
		layers: layers,
		im:     &image{kind: kindMerged},
		links:  map[source]uint32{},
		xattrs: make([][]uint32, len(layers)),
	}
	largest := 1
	for i, x := range layers {
		if x == nil || x.kind != kindLayer {
			return nil, fserr.Newf(fserr.Invalid, "merge", "", "layer %d of %d is not an open layer index", i, len(layers))
		}
		m.im.layers = append(m.im.layers, x.layers[0])
		largest = max(largest, x.NumNodes())
	}
	// More often than not, one layer is most of the result.
	m.im.nodes, m.im.dirents = make([]node, 0, largest), make([]entry, 0, largest)
	return m, nil
}

// source is a node of a layer.
type source struct{ layer, ino uint32 }

// merger walks the directories of all layers together, breadth first. Only what
// it has found and not yet visited is held besides the result.
type merger struct {
	layers  []*Index
	im      *image
	overlay bool              // whiteouts and opaque directories are shown as overlayfs knows them
	links   map[source]uint32 // nodes with several names: their number
	xattrs  [][]uint32        // by layer and set: the set in the image

	queue   []dirSources
	sources []source // of the queue's directories, top first
	cursors []cursor // of the directory being merged, top first
	equal   []int    // the cursors at the lowest name, top first
	same    []source // scratch: the directories of one name
}

// dirSources is a directory of the result that is to be visited: the next n
// sources are its parts.
type dirSources struct {
	ino uint32
	n   int
}

// cursor is a position in a directory of one layer.
type cursor struct {
	name     []byte
	at       dirent
	layer    uint32
	pos, end uint32
}

func (m *merger) node(s source) node { return decodeNode(m.layers[s.layer].record(Ino(s.ino))) }

func (m *merger) run() error {
	parts := make([]source, 0, len(m.layers))
	for i := len(m.layers) - 1; i >= 0; i-- {
		parts = append(parts, source{uint32(i), uint32(RootIno)})
	}
	if len(parts) == 0 {
		root := node{mode: ModeDir | 0o755, nlink: 2, size: DirSize}
		_, err := m.im.addNode(root, uint32(RootIno))
		return err
	}
	if _, err := m.addDir(parts, uint32(RootIno)); err != nil {
		return err
	}
	for len(m.queue) > 0 {
		d := m.queue[0]
		m.queue = m.queue[1:]
		parts := m.sources[:d.n]
		m.sources = m.sources[d.n:]
		if err := m.directory(d.ino, parts); err != nil {
			return err
		}
	}
	return nil
}

// addDir numbers a directory made of parts, top first, all directories, and
// queues it.
func (m *merger) addDir(parts []source, parent uint32) (uint32, error) {
	described, visible := parts[0], len(parts)
	for i, s := range parts {
		if m.node(s).flags&flagImplied == 0 {
			described = s
			break
		}
		if i == len(parts)-1 {
			described = parts[0]
		}
	}
	for i, s := range parts {
		if m.node(s).flags&flagOpaque != 0 {
			visible = i + 1
			break
		}
	}
	n := m.node(described)
	opaque := m.overlay && n.flags&flagOpaque != 0
	n.flags, n.layer = 0, 0
	if err := m.moveXattrs(described.layer, &n, opaque); err != nil {
		return 0, err
	}
	ino, err := m.im.addNode(n, parent)
	if err != nil {
		return 0, err
	}
	m.queue = append(m.queue, dirSources{ino, visible})
	m.sources = append(m.sources, parts[:visible]...)
	return ino, nil
}

// directory merges the names of the parts of directory ino.
func (m *merger) directory(ino uint32, parts []source) error {
	m.cursors = m.cursors[:0]
	for _, s := range parts {
		n := m.node(s)
		c := cursor{layer: s.layer, pos: n.a, end: n.a + n.b}
		if m.load(&c) {
			m.cursors = append(m.cursors, c)
		}
	}
	first, subdirs := len(m.im.dirents), uint32(0)
	for len(m.cursors) > 0 {
		m.findLowest()
		isDir, err := m.name(ino)
		if err != nil {
			return err
		}
		if isDir {
			subdirs++
		}
		m.advance()
	}
	d := &m.im.nodes[ino-1]
	d.a, d.b = uint32(first), uint32(len(m.im.dirents)-first)
	d.nlink = 2 + subdirs
	return nil
}

// load reads the dirent at the cursor.
func (m *merger) load(c *cursor) bool {
	if c.pos >= c.end {
		return false
	}
	x := m.layers[c.layer]
	c.at = x.direntAt(c.pos)
	c.name = x.nameOf(c.at)
	return true
}

// findLowest sets equal to the cursors at the lowest name.
func (m *merger) findLowest() {
	m.equal = append(m.equal[:0], 0)
	for i := 1; i < len(m.cursors); i++ {
		c, low := &m.cursors[i], &m.cursors[m.equal[0]]
		order := cmp.Compare(c.at.prefix, low.at.prefix)
		if order == 0 {
			order = bytes.Compare(c.name, low.name)
		}
		if order < 0 {
			m.equal = m.equal[:0]
		}
		if order <= 0 {
			m.equal = append(m.equal, i)
		}
	}
}

// advance moves the cursors at the lowest name, and drops those that are done.
func (m *merger) advance() {
	done := false
	for _, i := range m.equal {
		c := &m.cursors[i]
		c.pos++
		done = !m.load(c) || done
	}
	if done {
		m.cursors = slices.DeleteFunc(m.cursors, func(c cursor) bool { return c.pos >= c.end })
	}
}

// name gives the lowest name to the image, unless it is hidden.
func (m *merger) name(dir uint32) (isDir bool, err error) {
	top := &m.cursors[m.equal[0]]
	var ino uint32
	switch top.at.typ {
	case dtWhiteout:
		if m.overlay {
			return false, m.addWhiteout(top.name, dir)
		}
		return false, nil
	case DTDir:
		ino, err = m.addDir(m.parts(), dir)
	default:
		ino, err = m.addFile(source{top.layer, top.at.ino}, dir)
	}
	if err != nil {
		return false, err
	}
	return top.at.typ == DTDir, m.im.addDirent(top.name, ino, top.at.typ)
}

// addWhiteout gives a name to a device 0:0.
func (m *merger) addWhiteout(name []byte, dir uint32) error {
	ino, err := m.im.addNode(node{mode: ModeChar, nlink: 1}, dir)
	if err != nil {
		return err
	}
	return m.im.addDirent(name, ino, DTChar)
}

// parts collects the directories on each other under the lowest name.
func (m *merger) parts() []source {
	m.same = m.same[:0]
	for _, i := range m.equal {
		c := &m.cursors[i]
		if c.at.typ != DTDir {
			break
		}
		m.same = append(m.same, source{c.layer, c.at.ino})
	}
	return m.same
}

// addFile numbers a node that is not a directory, unless another name did.
func (m *merger) addFile(s source, dir uint32) (uint32, error) {
	n := m.node(s)
	linked := n.nlink > 1
	if linked {
		if ino, ok := m.links[s]; ok {
			m.im.nodes[ino-1].nlink++
			return ino, nil
		}
	}
	n.nlink = 1
	switch n.kind() {
	case ModeReg:
		n.layer = s.layer
	case ModeSymlink:
		target, err := m.layers[s.layer].Readlink(Ino(s.ino))
		if err != nil {
			return 0, err
		}
		if err := m.im.addTarget(&n, target); err != nil {
			return 0, err
		}
	}
	if err := m.moveXattrs(s.layer, &n, false); err != nil {
		return 0, err
	}
	ino, err := m.im.addNode(n, dir)
	if err == nil && linked {
		m.links[s] = ino
	}
	return ino, err
}

// moveXattrs replaces a set of a layer by the same set of the image, with the
// mark of an opaque directory if it is one.
func (m *merger) moveXattrs(layer uint32, n *node, opaque bool) (err error) {
	if opaque {
		pairs := slices.DeleteFunc(m.pairs(layer, n.xattrs), func(p pair) bool { return p.name == opaqueName })
		pairs = append(pairs, pair{opaqueName, []byte(opaqueValue)})
		slices.SortFunc(pairs, func(a, b pair) int { return cmp.Compare(a.name, b.name) })
		n.xattrs, err = m.im.xattrs.intern(pairs)
		return err
	}
	if n.xattrs == 0 {
		return nil
	}
	if m.xattrs[layer] == nil {
		m.xattrs[layer] = make([]uint32, len(m.layers[layer].xattrSets)/xattrSetSize)
	}
	known := &m.xattrs[layer][n.xattrs-1]
	if *known == 0 {
		if *known, err = m.im.xattrs.intern(m.pairs(layer, n.xattrs)); err != nil {
			return err
		}
	}
	n.xattrs = *known
	return nil
}

// pairs reads a set of a layer; set 0 is empty.
func (m *merger) pairs(layer, set uint32) []pair {
	if set == 0 {
		return nil
	}
	x := m.layers[layer]
	s := getSpan(x.xattrSets[uint64(set-1)*xattrSetSize:])
	pairs := make([]pair, s.n)
	for i := range pairs {
		rec := x.xattrs[(uint64(s.off)+uint64(i))*xattrSize:]
		pairs[i] = pair{string(x.xattrBlob(getSpan(rec))), x.xattrBlob(getSpan(rec[8:]))}
	}
	return pairs
}
