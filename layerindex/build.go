package layerindex

import (
	"slices"
	"strings"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// rootNode is the place of the root in Builder.nodes; place 0 is never used.
const rootNode = 1

// modeLink is the type of a node that stands for a hard link whose target has
// not been seen. It exists only while building.
const modeLink uint32 = 0o030000

// treeNode is a node under construction. What a and b mean depends on the type:
// regular: first chunk in Builder.chunks, chunks; symlink: offset and length in
// Builder.targets; device: major, minor; pending hard link: place in
// Builder.links.
type treeNode struct {
	mode, uid, gid, nsec uint32
	mtime                int64
	size                 uint64
	a, b                 uint32
	xattrs               uint32
	parent               uint32 // of a directory
	depth                uint32 // of a directory
	implied              bool
}

func (n *treeNode) kind() uint32 { return n.mode & ModeTypeMask }

// slot is a name in a directory and the node it leads to.
type slot struct{ parent, name, node uint32 }

// Builder turns the entries of one TOC into a layer index.
//
// Entries are applied in order, as an extractor applies a tar archive: a later
// entry replaces what is in its way. A directory on a directory only replaces
// the attributes; anything else takes the whole subtree with it. Parents that
// have no entry are made; a parent that is a symbolic link of the same layer is
// followed inside the layer; a parent of any other type is replaced by a
// directory. A hard link binds to what its target is at that moment, or, when
// the target is not there yet, to what it is in the end.
//
// Memory is proportional to the entries. A Builder is for one goroutine.
type Builder struct {
	info LayerInfo
	lim  Limits
	fsys fileSystem
	err  error

	entries int
	made    int // directories
	steps   int // components of all names
	nodes   []treeNode
	slots   []slot
	child   map[uint64]uint32 // parent<<32|name: slot
	nameID  map[string]uint32
	names   []string
	targets []byte   // of symbolic links
	links   []string // targets of pending hard links
	// followed counts the bytes of symlink targets walked. Without a bound, short
	// entries below long links would make a small TOC cost hours.
	followed int
	xattrs   xattrTable
	chunks   chunkList

	path []string // scratch: the components of the entry's name
	work []string // scratch of descend
}

// NewBuilder starts a layer index. Fields of lim that are zero have their
// default; info.PrefetchEnd is ignored.
func NewBuilder(info LayerInfo, lim Limits) *Builder {
	b := &Builder{
		info: info, lim: lim.effective(), fsys: osFS{},
		nodes:  make([]treeNode, rootNode+1, 1024),
		child:  map[uint64]uint32{},
		nameID: map[string]uint32{},
	}
	b.nodes[rootNode] = impliedDir(rootNode, 0)
	b.chunks.info, b.chunks.lim = &b.info, b.lim
	if !info.Format.known() {
		b.err = fserr.Newf(fserr.Invalid, "build index", "", "unknown layer format %d", info.Format)
	}
	if info.BlobSize < 0 || info.DataEnd < 0 {
		b.err = fserr.Newf(fserr.Invalid, "build index", "", "negative blob size or data end")
	}
	return b
}

// SetTOCDigest says which TOC the entries were from, where that is only known
// when all were added.
func (b *Builder) SetTOCDigest(d estargz.Digest) { b.info.TOCDigest = d }

// SetFormat says what the layer's format is, where that is only known when all
// entries were added. Whether chunks lie in members cannot change.
func (b *Builder) SetFormat(f Format) {
	if (!f.known() || f.InMembers() != b.info.Format.InMembers()) && b.err == nil {
		b.err = fserr.Newf(fserr.Invalid, "build index", "", "layer format %d cannot become %d", b.info.Format, f)
	}
	b.info.Format = f
}

func impliedDir(parent, depth uint32) treeNode {
	return treeNode{mode: ModeDir | 0o755, parent: parent, depth: depth, implied: true}
}

// Add applies the next entry of the TOC. The entry is not kept. After an error
// the Builder is of no further use, and every call returns that error. Reasons
// are the Err values of this package.
func (b *Builder) Add(e *estargz.Entry) error {
	if b.err == nil {
		b.err = b.add(e)
	}
	return b.err
}

func (b *Builder) add(e *estargz.Entry) error {
	if b.entries++; b.entries > b.lim.Entries {
		return refuse(e.Name, ErrLimit, "more than %d entries", b.lim.Entries)
	}
	if e.Type == estargz.TypeChunk {
		return b.chunks.more(e)
	}
	if err := b.chunks.endFile(); err != nil {
		return err
	}
	if err := b.splitName(e.Name); err != nil {
		return err
	}
	if len(b.path) == 0 {
		return b.addRoot(e)
	}
	dir, err := b.descend(e.Name, b.path[:len(b.path)-1], true)
	if err != nil {
		return err
	}
	name := b.path[len(b.path)-1]
	switch e.Type {
	case estargz.TypeDir:
		return b.addDir(e, dir, name)
	case estargz.TypeHardlink:
		return b.addLink(e, dir, name)
	}
	n, err := b.newNode(e)
	if err != nil {
		return err
	}
	return b.put(dir, name, n)
}

// addRoot takes the attributes of the root from its entry.
func (b *Builder) addRoot(e *estargz.Entry) error {
	if e.Type != estargz.TypeDir {
		return refuse(e.Name, ErrEntry, "the root is not a directory")
	}
	return b.describe(e, &b.nodes[rootNode], ModeDir)
}

func (b *Builder) addDir(e *estargz.Entry, dir uint32, name string) error {
	if s, ok := b.find(dir, name); ok {
		if n := &b.nodes[b.slots[s].node]; n.kind() == ModeDir {
			n.implied = false
			return b.describe(e, n, ModeDir)
		}
	}
	n, err := b.mkdir(e.Name, dir, name)
	if err != nil {
		return err
	}
	b.nodes[n].implied = false
	return b.describe(e, &b.nodes[n], ModeDir)
}

// describe fills what all types have in common.
func (b *Builder) describe(e *estargz.Entry, n *treeNode, kind uint32) error {
	pairs, err := checkXattrs(e.Name, e.Xattrs)
	if err != nil {
		return err
	}
	if n.xattrs, err = b.xattrs.intern(pairs); err != nil {
		return err
	}
	n.mode = kind | e.Mode&modePerm
	n.uid, n.gid = e.UID, e.GID
	n.mtime, n.nsec = 0, 0
	if !e.ModTime.IsZero() {
		n.mtime, n.nsec = e.ModTime.Unix(), uint32(e.ModTime.Nanosecond())
	}
	n.implied = false
	return nil
}

// newNode makes the node of an entry that is neither directory nor link.
func (b *Builder) newNode(e *estargz.Entry) (uint32, error) {
	var n treeNode
	var kind uint32
	switch e.Type {
	case estargz.TypeReg:
		kind = ModeReg
	case estargz.TypeSymlink:
		kind = ModeSymlink
		if err := b.addTarget(e, &n); err != nil {
			return 0, err
		}
	case estargz.TypeChar, estargz.TypeBlock:
		kind = ModeChar
		if e.Type == estargz.TypeBlock {
			kind = ModeBlock
		}
		n.a, n.b = e.DevMajor, e.DevMinor
	case estargz.TypeFifo:
		kind = ModeFifo
	default:
		return 0, refuse(e.Name, ErrEntry, "unknown type %d", e.Type)
	}
	if err := b.describe(e, &n, kind); err != nil {
		return 0, err
	}
	id, err := b.newID(e.Name, n)
	if err != nil || kind != ModeReg {
		return id, err
	}
	return id, b.chunks.beginFile(e, id, &b.nodes[id])
}

func (b *Builder) newID(name string, n treeNode) (uint32, error) {
	// One place more than entries: place 0.
	if len(b.nodes) > b.lim.Entries {
		return 0, refuse(name, ErrLimit, "more than %d nodes, implied directories included", b.lim.Entries)
	}
	b.nodes = append(b.nodes, n)
	return uint32(len(b.nodes) - 1), nil
}

func (b *Builder) addTarget(e *estargz.Entry, n *treeNode) error {
	switch target := e.LinkName; {
	case target == "" || hasZero(target):
		return refuse(e.Name, ErrName, "symlink target %.40q", target)
	case len(target) > maxLinkBytes:
		return refuse(e.Name, ErrLimit, "symlink target of %d bytes", len(target))
	case overflows(len(b.targets), len(target)):
		return refuse(e.Name, ErrLimit, "more than %d bytes of symlink targets", int64(maxSection))
	}
	n.a, n.b = uint32(len(b.targets)), uint32(len(e.LinkName))
	n.size = uint64(n.b)
	b.targets = append(b.targets, e.LinkName...)
	return nil
}

// addLink binds a name to the node that another name has.
func (b *Builder) addLink(e *estargz.Entry, dir uint32, name string) error {
	if err := b.splitName(e.LinkName); err != nil {
		return err
	}
	target, err := b.lookup(e.LinkName, b.path)
	if err != nil {
		return err
	}
	if target == 0 {
		b.links = append(b.links, strings.Clone(e.LinkName))
		if target, err = b.newID(e.Name, treeNode{mode: modeLink, a: uint32(len(b.links) - 1)}); err != nil {
			return err
		}
	}
	if b.nodes[target].kind() == ModeDir {
		return refuse(e.Name, ErrLinkDir, "%.120q", e.LinkName)
	}
	return b.put(dir, name, target)
}

// put makes name in dir lead to node, whatever it led to before.
func (b *Builder) put(dir uint32, name string, node uint32) error {
	if s, ok := b.find(dir, name); ok {
		b.slots[s].node = node
		return nil
	}
	id, ok := b.nameID[name]
	if !ok {
		id = uint32(len(b.names))
		name = strings.Clone(name)
		b.names = append(b.names, name)
		b.nameID[name] = id
	}
	b.child[uint64(dir)<<32|uint64(id)] = uint32(len(b.slots))
	b.slots = append(b.slots, slot{parent: dir, name: id, node: node})
	return nil
}

// find returns the slot of name in dir.
func (b *Builder) find(dir uint32, name string) (uint32, bool) {
	id, ok := b.nameID[name]
	if !ok {
		return 0, false
	}
	s, ok := b.child[uint64(dir)<<32|uint64(id)]
	return s, ok
}

// mkdir puts a new implied directory in place.
func (b *Builder) mkdir(entry string, dir uint32, name string) (uint32, error) {
	if b.made++; b.made > maxFreeDirs+maxDirsPerEntry*b.entries {
		return 0, refuse(entry, ErrLimit, "%d entries make %d directories", b.entries, b.made)
	}
	depth := b.nodes[dir].depth + 1
	if int(depth) > b.lim.Depth {
		return 0, refuse(entry, ErrLimit, "deeper than %d directories", b.lim.Depth)
	}
	if len(name) > b.lim.NameBytes {
		return 0, refuse(entry, ErrLimit, "component of %d bytes", len(name))
	}
	n, err := b.newID(entry, impliedDir(dir, depth))
	if err != nil {
		return 0, err
	}
	return n, b.put(dir, name, n)
}

// descend walks from the root along path, through symbolic links of this layer.
// With create it makes the directories that are missing and replaces other
// nodes that are in the way; without, it returns 0 for a path that leads to no
// directory.
func (b *Builder) descend(entry string, path []string, create bool) (uint32, error) {
	b.work = append(b.work[:0], path...)
	slices.Reverse(b.work)
	cur, hops := uint32(rootNode), 0
	for len(b.work) > 0 {
		name := b.work[len(b.work)-1]
		b.work = b.work[:len(b.work)-1]
		if name == ".." {
			cur = b.nodes[cur].parent
			continue
		}
		if s, ok := b.find(cur, name); ok {
			switch n := b.slots[s].node; b.nodes[n].kind() {
			case ModeDir:
				cur = n
				continue
			case ModeSymlink:
				hops++
				if err := b.countHop(entry, hops, &b.nodes[n]); err != nil {
					return 0, err
				}
				if b.pushTarget(&b.nodes[n]) {
					cur = rootNode
				}
				continue
			}
		}
		if !create {
			return 0, nil
		}
		next, err := b.mkdir(entry, cur, name)
		if err != nil {
			return 0, err
		}
		cur = next
	}
	return cur, nil
}

// countHop bounds the symbolic links followed for one name, and the work of all.
func (b *Builder) countHop(entry string, hops int, link *treeNode) error {
	if hops > maxHops {
		return refuse(entry, ErrSymlinkLoop, "%d links followed", hops)
	}
	if b.followed += int(link.b); b.followed > maxFollowed {
		return refuse(entry, ErrLimit, "too many names lead through symbolic links")
	}
	return nil
}

// pushTarget puts the components of a symlink's target in front of what is left
// to walk, and reports whether the walk starts at the root again.
func (b *Builder) pushTarget(n *treeNode) (absolute bool) {
	target := string(b.targets[n.a : n.a+n.b])
	for rest := target; rest != ""; {
		cut := strings.LastIndexByte(rest, '/') + 1
		if name := rest[cut:]; name != "" && name != "." {
			b.work = append(b.work, name)
		}
		rest = rest[:max(0, cut-1)]
	}
	return target[0] == '/'
}

// lookup finds the node at path; the last component is not followed. 0 is none.
func (b *Builder) lookup(entry string, path []string) (uint32, error) {
	if len(path) == 0 {
		return rootNode, nil
	}
	dir, err := b.descend(entry, path[:len(path)-1], false)
	if err != nil || dir == 0 {
		return 0, err
	}
	s, ok := b.find(dir, path[len(path)-1])
	if !ok {
		return 0, nil
	}
	return b.slots[s].node, nil
}

// splitName cleans a tar name lexically and puts its components into b.path.
// The name is taken as absolute, so ".." stops at the root.
func (b *Builder) splitName(name string) error {
	b.path = b.path[:0]
	if len(name) > b.lim.PathBytes {
		return refuse(name, ErrLimit, "name of %d bytes", len(name))
	}
	if hasZero(name) {
		return refuse(name, ErrName, "zero byte")
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			b.path = b.path[:max(0, len(b.path)-1)]
		case len(part) > b.lim.NameBytes:
			return refuse(name, ErrLimit, "component of %d bytes", len(part))
		default:
			b.path = append(b.path, part)
		}
	}
	if b.steps += len(b.path); b.steps > maxFreeSteps+maxStepsPerEntry*b.entries {
		return refuse(name, ErrLimit, "%d entries have names of %d components", b.entries, b.steps)
	}
	return nil
}

func hasZero(s string) bool { return strings.IndexByte(s, 0) >= 0 }

// WriteFile writes the layer index to path: a temporary file in the same
// directory, synced and renamed, so that path holds a whole index or what it
// held before. It may be called again, for instance after the disk was full.
func (b *Builder) WriteFile(path string) error {
	if b.err != nil {
		return b.err
	}
	im, err := b.finish()
	if err != nil {
		if kind := fserr.KindOf(err); kind == fserr.Invalid || kind == fserr.TooLarge {
			b.err = err
		}
		return err
	}
	return im.writeFile(b.fsys, path)
}
