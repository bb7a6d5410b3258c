package layerindex

import (
	"bytes"
	"math"
)

// verifier checks the structure of an index while it is read. What it accepts,
// the accessors rely on: every reference is in range, the tree is one tree, and
// walking it ends, because the directories below a directory have higher
// numbers.
type verifier struct {
	h      *header
	in     [numSections]stream
	layers []LayerInfo

	// found has, for each node but the root in the order of the numbers, the
	// type and directory of its first name.
	found []foundName
	// files has, by node number, the chunks that name the node as their owner;
	// numFiles of them are not empty.
	files    []fileSpan
	numFiles int

	numNodes, numSets, numChunks uint32
	dirents, names, targets      uint32 // how far the nodes seen so far reach
}

type foundName struct {
	parent uint32
	typ    uint8
}

type fileSpan struct {
	first, count uint32
	size         uint64
}

func (v *verifier) records(sec int) uint32 {
	return uint32(v.h.sections[sec].size / recordSizes()[sec])
}

func (v *verifier) run() error {
	v.numNodes, v.numSets, v.numChunks = v.records(secNodes), v.records(secXattrSets), v.records(secChunks)
	if v.numNodes == 0 || v.numNodes > maxNodes {
		return corrupt("%d nodes", v.numNodes)
	}
	for _, check := range []func() error{v.checkLayers, v.checkXattrs, v.checkChunks, v.checkNodes} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) checkLayers() error {
	n := v.records(secLayers)
	if n > maxLayers || v.h.kind == kindLayer && n != 1 {
		return corrupt("%d layers", n)
	}
	for i := range n {
		p := v.in[secLayers].next(layerSize)
		if p == nil {
			return corrupt("layer table")
		}
		l := decodeLayer((*[layerSize]byte)(p))
		if !l.Format.known() || p[89]|p[90]|p[91] != 0 || l.BlobSize < 0 || l.DataEnd < 0 || l.PrefetchEnd < 0 {
			return corrupt("layer %d", i)
		}
		v.layers = append(v.layers, l)
	}
	return nil
}

// checkXattrs: the sets tile the attributes, whose bytes exist.
func (v *verifier) checkXattrs() error {
	total, blob := v.records(secXattrs), uint64(v.h.sections[secXattrBytes].size)
	next := uint32(0)
	for i := range v.numSets {
		p := v.in[secXattrSets].next(xattrSetSize)
		if p == nil {
			return corrupt("extended attribute sets")
		}
		s := getSpan(p)
		if s.off != next || s.n == 0 || s.n > total-next {
			return corrupt("extended attribute set %d", i+1)
		}
		next += s.n
	}
	if next != total {
		return corrupt("extended attributes outside of sets")
	}
	for i := range total {
		p := v.in[secXattrs].next(xattrSize)
		if p == nil {
			return corrupt("extended attributes")
		}
		name, value := getSpan(p), getSpan(p[8:])
		if name.n == 0 || name.n > maxXattrName || value.n > maxXattrValue ||
			uint64(name.off)+uint64(name.n) > blob || uint64(value.off)+uint64(value.n) > blob {
			return corrupt("extended attribute %d", i)
		}
	}
	return nil
}

// checkChunks: the chunks are in blob order, and those of a file are together
// and tile it. Whether the file agrees is checked with its node.
func (v *verifier) checkChunks() error {
	if v.h.kind != kindLayer {
		if v.numChunks != 0 {
			return corrupt("chunks in a merged index")
		}
		return nil
	}
	v.files = make([]fileSpan, v.numNodes+1)
	streamed := !v.layers[0].Format.InMembers()
	var last, data chunk // data: the last chunk that is no hole
	var file fileSpan
	for i := range v.numChunks {
		p := v.in[secChunks].next(chunkSize)
		if p == nil {
			return corrupt("chunk table")
		}
		c := decodeChunk((*[chunkSize]byte)(p))
		if !v.plausible(&c, streamed) || c.member < last.member || data.size > 0 && !follows(&data, &c, streamed) {
			return corrupt("chunk %d", i)
		}
		if err := v.continues(i, &c, &last, &file); err != nil {
			return err
		}
		v.files[c.owner] = file
		if last = c; c.hole == 0 {
			data = c
		}
	}
	return nil
}

// continues adds chunk i to the file before it, or begins another one.
func (v *verifier) continues(i uint32, c, last *chunk, file *fileSpan) error {
	if c.offset == 0 {
		if v.files[c.owner].count != 0 {
			return corrupt("chunk %d begins node %d again", i, c.owner)
		}
		*file = fileSpan{first: i}
		v.numFiles++
	} else if i == 0 || c.owner != last.owner || uint64(c.offset) != file.size {
		return corrupt("chunk %d does not continue a file", i)
	}
	file.count++
	if file.size += uint64(c.length()); file.size > math.MaxInt64 {
		return corrupt("chunk %d ends too far", i)
	}
	return nil
}

// plausible reports whether c can be a chunk at all.
func (v *verifier) plausible(c *chunk, streamed bool) bool {
	if c.owner == 0 || c.owner > v.numNodes || c.member < 0 || c.member > maxMember {
		return false
	}
	if c.size == 0 {
		return c.hole > 0 && c.inner|c.stored == 0 && c.digest.IsZero()
	}
	return !streamed || c.inner|c.stored == 0
}

// follows reports whether c may come after last, which is no hole, in blob order.
func follows(last, c *chunk, streamed bool) bool {
	switch {
	case streamed:
		return c.member-last.member >= int64(last.size)
	case c.member == last.member:
		return c.hole > 0 || c.stored == last.stored && uint64(c.inner) >= uint64(last.inner)+uint64(last.size)
	}
	return c.member-last.member >= int64(last.stored)
}

func (v *verifier) checkNodes() error {
	v.found = append(make([]foundName, 0, v.numNodes), foundName{parent: 1, typ: DTDir})
	for ino := uint32(1); ino <= v.numNodes; ino++ {
		p := v.in[secNodes].next(nodeSize)
		if p == nil {
			return corrupt("node table")
		}
		n := decodeNode((*[nodeSize]byte)(p))
		if int(ino) > len(v.found) {
			return corrupt("node %d has no name", ino)
		}
		if err := v.checkNode(ino, &n); err != nil {
			return err
		}
	}
	switch {
	case int(v.numNodes) != len(v.found):
		return corrupt("names for %d nodes, of %d", len(v.found), v.numNodes)
	case v.dirents != v.records(secDirents), v.names != v.records(secNames), v.targets != v.records(secTargets):
		return corrupt("names or targets that belong to no node")
	case v.numFiles != 0:
		return corrupt("chunks that belong to no file")
	}
	return nil
}

// checkNode checks what is common to all nodes and what the type asks for.
func (v *verifier) checkNode(ino uint32, n *node) error {
	at := v.found[ino-1]
	if n.mode&^(ModeTypeMask|modePerm) != 0 || uint8(n.kind()>>12) != at.typ || n.parent != at.parent ||
		n.nlink == 0 || n.nsec > 999_999_999 || n.xattrs > v.numSets || n.size > math.MaxInt64 ||
		n.flags&^(flagOpaque|flagImplied) != 0 || n.flags != 0 && (v.h.kind != kindLayer || n.kind() != ModeDir) {
		return corrupt("node %d", ino)
	}
	ok := n.size == 0
	switch n.kind() {
	case ModeDir:
		return v.checkDir(ino, n)
	case ModeReg:
		return v.checkFile(ino, n)
	case ModeSymlink:
		ok = n.a == v.targets && n.b > 0 && n.b <= maxLinkBytes && n.size == uint64(n.b) &&
			v.in[secTargets].next(int(n.b)) != nil
		v.targets += n.b
	case ModeChar, ModeBlock, ModeFifo:
	default:
		ok = false
	}
	if !ok || n.layer != 0 {
		return corrupt("node %d", ino)
	}
	return nil
}

func (v *verifier) checkFile(ino uint32, n *node) error {
	if (n.b == 0) != (n.size == 0) || uint64(n.a)+uint64(n.b) > math.MaxUint32 {
		return corrupt("chunk range of node %d", ino)
	}
	if v.h.kind == kindMerged {
		if n.layer >= uint32(len(v.layers)) {
			return corrupt("layer of node %d", ino)
		}
		return nil
	}
	file := v.files[ino]
	if file.count != 0 {
		v.numFiles--
	}
	if n.layer != 0 || n.size != file.size || n.b != file.count || n.b > 0 && n.a != file.first {
		return corrupt("chunks of node %d", ino)
	}
	return nil
}

// checkDir reads the names of a directory.
func (v *verifier) checkDir(ino uint32, n *node) error {
	if n.a != v.dirents || n.layer != 0 {
		return corrupt("directory %d", ino)
	}
	var last [maxNameBytes]byte
	lastLen, subdirs := 0, uint32(0)
	for range n.b {
		p := v.in[secDirents].next(direntSize)
		if p == nil {
			return corrupt("directory %d ends behind the table", ino)
		}
		d := decodeDirent((*[direntSize]byte)(p))
		name := v.in[secNames].next(int(d.nameLen))
		if d.nameOff != v.names || name == nil || d.prefix != namePrefix(name) || !isName(name) ||
			bytes.Compare(last[:lastLen], name) >= 0 {
			return corrupt("names of directory %d", ino)
		}
		if !v.findName(ino, &d) {
			return corrupt("name of node %d in directory %d", d.ino, ino)
		}
		if d.typ == DTDir {
			subdirs++
		}
		lastLen = copy(last[:], name)
		v.names += uint32(d.nameLen)
		v.dirents++
	}
	if n.nlink != 2+subdirs {
		return corrupt("link count of directory %d", ino)
	}
	return nil
}

// isName reports whether name can stand in a directory.
func isName(name []byte) bool {
	return len(name) > 0 && bytes.IndexByte(name, '/') < 0 && bytes.IndexByte(name, 0) < 0 &&
		string(name) != "." && string(name) != ".."
}

// findName records the first name of a node, or checks a further one.
func (v *verifier) findName(dir uint32, d *dirent) bool {
	switch {
	case d.typ == dtWhiteout:
		return d.ino == 0 && v.h.kind == kindLayer
	case d.ino == uint32(len(v.found))+1 && d.ino <= v.numNodes:
		v.found = append(v.found, foundName{parent: dir, typ: d.typ})
		return true
	}
	return d.ino > 1 && d.ino <= uint32(len(v.found)) && d.typ != DTDir && d.typ == v.found[d.ino-1].typ
}
