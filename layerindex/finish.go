package layerindex

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/nineply/nineply/estargz"
)

// finish numbers the tree. It changes nothing that a second call would see.
func (b *Builder) finish() (*image, error) {
	if err := b.chunks.finish(); err != nil {
		return nil, err
	}
	links, err := b.resolveLinks()
	if err != nil {
		return nil, err
	}
	info := b.info
	info.PrefetchEnd = b.prefetchEnd()
	n := &numbering{
		b: b, links: links,
		number: make([]uint32, len(b.nodes)),
		order:  make([]uint32, 0, len(b.nodes)),
		im: &image{
			kind: kindLayer, layers: []LayerInfo{info}, xattrs: b.xattrs,
			nodes: make([]node, 0, len(b.nodes)), dirents: make([]entry, 0, len(b.slots)),
		},
	}
	n.sortSlots()
	if err := n.run(); err != nil {
		return nil, err
	}
	n.numberChunks()
	return n.im, nil
}

// resolveLinks finds the node of each pending hard link, through chains of them.
// The result is indexed like Builder.links.
func (b *Builder) resolveLinks() ([]uint32, error) {
	const visiting = ^uint32(0)
	resolved := make([]uint32, len(b.links))
	var chain []uint32
	for i := range b.links {
		chain = chain[:0]
		at, target := uint32(i), uint32(0)
		for target == 0 {
			switch resolved[at] {
			case visiting:
				return nil, refuse(b.links[at], ErrLinkCycle, "it leads to itself")
			case 0:
			default:
				target = resolved[at]
				continue
			}
			resolved[at] = visiting
			chain = append(chain, at)
			next, err := b.linkTarget(b.links[at])
			if err != nil {
				return nil, err
			}
			if n := &b.nodes[next]; n.kind() == modeLink {
				at = n.a
				continue
			}
			target = next
		}
		for _, l := range chain {
			resolved[l] = target
		}
	}
	return resolved, nil
}

// linkTarget is the node, possibly another pending link, that name has now.
func (b *Builder) linkTarget(name string) (uint32, error) {
	if err := b.splitName(name); err != nil {
		return 0, err
	}
	n, err := b.lookup(name, b.path)
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, refuse(name, ErrLinkTarget, "no such name in the layer")
	case b.nodes[n].kind() == ModeDir:
		return 0, refuse(name, ErrLinkDir, "directory")
	}
	return n, nil
}

// prefetchEnd is the place of the landmark's payload, if that is the advice.
func (b *Builder) prefetchEnd() int64 {
	if _, ok := b.find(rootNode, estargz.NoPrefetchLandmark); ok || !b.info.Format.InMembers() {
		return 0
	}
	s, ok := b.find(rootNode, estargz.PrefetchLandmark)
	if !ok {
		return 0
	}
	n := &b.nodes[b.slots[s].node]
	if n.kind() != ModeReg || n.size == 0 {
		return 0
	}
	return b.chunks.all[n.a].member
}

// numbering turns the tree of a Builder into an image.
type numbering struct {
	b      *Builder
	im     *image
	links  []uint32 // by place in Builder.links: tree node
	number []uint32 // by tree node: its node number, 0 while unreached
	order  []uint32 // by node number - 1: tree node
	first  []uint32 // by tree node: where its slots begin in slots
	slots  []uint32 // places in Builder.slots, grouped by directory
	names  []childName
}

// childName is a visible name of the directory being numbered.
type childName struct {
	name     string
	node     uint32 // tree node; 0 is a whiteout
	whiteout bool   // the name has a whiteout beside it
}

// sortSlots groups the slots by their directory.
func (n *numbering) sortSlots() {
	n.first = make([]uint32, len(n.b.nodes)+1)
	for _, s := range n.b.slots {
		n.first[s.parent+1]++
	}
	for i := 1; i < len(n.first); i++ {
		n.first[i] += n.first[i-1]
	}
	next := slices.Clone(n.first)
	n.slots = make([]uint32, len(n.b.slots))
	for i, s := range n.b.slots {
		n.slots[next[s.parent]] = uint32(i)
		next[s.parent]++
	}
}

// run walks the directories in breadth-first order.
func (n *numbering) run() error {
	if _, err := n.reach(rootNode, 1); err != nil {
		return err
	}
	for ino := uint32(1); int(ino) <= len(n.order); ino++ {
		if n.im.nodes[ino-1].kind() != ModeDir {
			continue
		}
		if err := n.directory(ino); err != nil {
			return err
		}
	}
	return nil
}

// directory gives the names of one directory to the image.
func (n *numbering) directory(ino uint32) error {
	opaque := n.collect(n.order[ino-1])
	first, subdirs := len(n.im.dirents), uint32(0)
	for _, c := range n.names {
		child, typ := uint32(0), dtWhiteout
		if c.node != 0 {
			var err error
			if child, err = n.reach(c.node, ino); err != nil {
				return err
			}
			at := &n.im.nodes[child-1]
			typ = uint8(at.kind() >> 12)
			if typ == DTDir {
				subdirs++
				if c.whiteout {
					// The lower directory of this name is gone, this one is new.
					at.flags = flagOpaque
				}
			}
		}
		if err := n.im.addDirent([]byte(c.name), child, typ); err != nil {
			return err
		}
	}
	d := &n.im.nodes[ino-1]
	d.a, d.b = uint32(first), uint32(len(n.im.dirents)-first)
	d.nlink = 2 + subdirs
	if opaque {
		d.flags |= flagOpaque
	}
	return nil
}

// collect fills names with what directory dir shows, in order, and reports
// whether the directory is opaque.
func (n *numbering) collect(dir uint32) (opaque bool) {
	n.names = n.names[:0]
	for _, s := range n.slots[n.first[dir]:n.first[dir+1]] {
		at := &n.b.slots[s]
		name := n.b.names[at.name]
		hidden, isMark := strings.CutPrefix(name, estargz.WhiteoutPrefix)
		switch {
		case name == estargz.OpaqueWhiteout:
			opaque = true
		case isMark && (hidden == "" || hidden == "." || hidden == ".." || strings.HasPrefix(hidden, estargz.WhiteoutPrefix)):
			// Metadata of AUFS, or a whiteout of what cannot exist.
		case isMark:
			n.names = append(n.names, childName{name: hidden, whiteout: true})
		case dir == rootNode && isReserved(name):
		default:
			n.names = append(n.names, childName{name: name, node: n.target(at.node)})
		}
	}
	slices.SortFunc(n.names, func(a, b childName) int {
		// The node of a name comes before its whiteout.
		return cmp.Or(strings.Compare(a.name, b.name), -cmp.Compare(a.node, b.node))
	})
	n.mergeWhiteouts()
	return opaque
}

// mergeWhiteouts joins a whiteout with the node of the same name.
func (n *numbering) mergeWhiteouts() {
	kept := n.names[:0]
	for _, c := range n.names {
		if last := len(kept) - 1; last >= 0 && kept[last].name == c.name {
			kept[last].whiteout = true
			continue
		}
		kept = append(kept, c)
	}
	n.names = kept
}

// isReserved reports whether a name of the root belongs to the format.
func isReserved(name string) bool {
	return name == estargz.TOCName || name == estargz.PrefetchLandmark || name == estargz.NoPrefetchLandmark
}

// target follows a pending hard link.
func (n *numbering) target(node uint32) uint32 {
	if at := &n.b.nodes[node]; at.kind() == modeLink {
		return n.links[at.a]
	}
	return node
}

// reach returns the number of a tree node found in the directory parent,
// numbering it if this is its first name.
func (n *numbering) reach(from, parent uint32) (uint32, error) {
	if ino := n.number[from]; ino != 0 {
		n.im.nodes[ino-1].nlink++
		return ino, nil
	}
	t := &n.b.nodes[from]
	at := node{
		mode: t.mode, uid: t.uid, gid: t.gid, nlink: 1, size: t.size,
		mtime: t.mtime, nsec: t.nsec, xattrs: t.xattrs,
	}
	switch t.kind() {
	case ModeDir:
		at.size = DirSize
		if t.implied {
			at.flags = flagImplied
		}
	case ModeSymlink:
		if err := n.im.addTarget(&at, n.b.targets[t.a:t.a+t.b]); err != nil {
			return 0, err
		}
	case ModeChar, ModeBlock:
		at.a, at.b = t.a, t.b
	}
	ino, err := n.im.addNode(at, parent)
	if err != nil {
		return 0, err
	}
	n.number[from] = ino
	n.order = append(n.order, from)
	return ino, nil
}

// numberChunks tells the regular files their chunks: those of nodes that were
// reached, in blob order.
func (n *numbering) numberChunks() {
	live := uint32(0)
	for c := range n.liveChunks() {
		at := &n.im.nodes[c.owner-1]
		if c.offset == 0 {
			at.a, at.b = live, 0
		}
		at.b++
		live++
	}
	n.im.chunks = n.liveChunks()
}

func (n *numbering) liveChunks() iter.Seq[*chunk] {
	return func(yield func(*chunk) bool) {
		var c chunk
		for _, c = range n.b.chunks.all {
			if c.owner = n.number[c.owner]; c.owner == 0 {
				continue
			}
			if !yield(&c) {
				return
			}
		}
	}
}
