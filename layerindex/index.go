package layerindex

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
)

// Info describes the layer of a layer index. For a merged index it is zero.
func (x *Index) Info() LayerInfo {
	if x.kind != kindLayer {
		return LayerInfo{}
	}
	return x.layers[0]
}

// Layers describes the layers, bottom first: those merged, or the one layer of a
// layer index.
func (x *Index) Layers() []LayerInfo { return slices.Clone(x.layers) }

// Merged reports whether the index was made by [Merge].
func (x *Index) Merged() bool { return x.kind == kindMerged }

// NumNodes is the number of nodes, and the highest node number.
func (x *Index) NumNodes() int { return int(x.numNodes) }

// NumChunks is the number of chunks of a layer index; 0 for a merged one.
func (x *Index) NumChunks() int { return int(x.numChunks) }

// record returns the bytes of node n, nil if there is none.
func (x *Index) record(n Ino) *[nodeSize]byte {
	if n-1 >= x.numNodes {
		return nil
	}
	return (*[nodeSize]byte)(x.nodes[(n-1)*nodeSize:])
}

// direntAt returns dirent i, which must exist.
func (x *Index) direntAt(i uint32) dirent {
	return decodeDirent((*[direntSize]byte)(x.dirents[uint64(i)*direntSize:]))
}

// nameOf returns the name of d.
func (x *Index) nameOf(d dirent) []byte {
	end := uint64(d.nameOff) + uint64(d.nameLen)
	return x.names[d.nameOff:end:end]
}

func modeOf(p *[nodeSize]byte) uint32 { return binary.LittleEndian.Uint32(p[0:]) }

// operands returns the two fields whose meaning depends on the type.
func operands(p *[nodeSize]byte) (a, b uint32) {
	return binary.LittleEndian.Uint32(p[40:]), binary.LittleEndian.Uint32(p[44:])
}

// badIno is the error for a number that has no node.
func (x *Index) badIno() error {
	if x.data == nil {
		return errClosed
	}
	return errBadIno
}

// Attr returns the attributes of node n. A number that has no node is
// fserr.NotExist, as it is for all accessors.
func (x *Index) Attr(n Ino) (Attr, error) {
	p := x.record(n)
	if p == nil {
		return Attr{}, x.badIno()
	}
	d := decodeNode(p)
	a := Attr{
		Ino: n, Mode: d.mode, UID: d.uid, GID: d.gid, NLink: d.nlink,
		Size: d.size, Mtime: d.mtime, MtimeNsec: d.nsec,
	}
	if k := d.kind(); k == ModeChar || k == ModeBlock {
		a.Rdev = makedev(d.a, d.b)
	}
	return a, nil
}

// Parent returns the directory that dir is in; the root is in itself. It is
// fserr.NotDir for other nodes, which may be in several.
func (x *Index) Parent(dir Ino) (Ino, error) {
	p := x.record(dir)
	if p == nil {
		return 0, x.badIno()
	}
	if modeOf(p)&ModeTypeMask != ModeDir {
		return 0, errNotDir
	}
	return Ino(binary.LittleEndian.Uint32(p[36:])), nil
}

// Path returns the path of node n from the root, without a slash in front; of a
// node with several names, that of the first one. It is meant for reports: it
// searches each directory on the way and allocates.
func (x *Index) Path(n Ino) (string, error) {
	if x.record(n) == nil {
		return "", x.badIno()
	}
	var parts []string
	for n != RootIno {
		// Never higher than n: this ends.
		dir := Ino(binary.LittleEndian.Uint32(x.record(n)[36:]))
		first, count := operands(x.record(dir))
		for i := range count {
			if d := x.direntAt(first + i); Ino(d.ino) == n {
				parts = append(parts, string(x.nameOf(d)))
				break
			}
		}
		n = dir
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/"), nil
}

// Lookup finds name in directory dir. It knows neither "." nor "..". Errors are
// fserr.NotExist and fserr.NotDir.
func (x *Index) Lookup(dir Ino, name []byte) (Ino, error) {
	p := x.record(dir)
	if p == nil {
		return 0, x.badIno()
	}
	if modeOf(p)&ModeTypeMask != ModeDir {
		return 0, errNotDir
	}
	lo, n := operands(p)
	hi := lo + n
	want := namePrefix(name)
	for lo < hi {
		mid := lo + (hi-lo)/2
		d := x.direntAt(mid)
		var order int
		switch {
		case d.prefix < want:
			order = -1
		case d.prefix > want:
			order = 1
		default:
			order = bytes.Compare(x.nameOf(d), name)
		}
		switch {
		case order < 0:
			lo = mid + 1
		case order > 0:
			hi = mid
		case d.typ == dtWhiteout:
			return 0, errNotExist
		default:
			return Ino(d.ino), nil
		}
	}
	return 0, errNotExist
}

// Readdir returns the entry at position pos of directory dir, in the order of
// the name bytes, and the position of the next. Positions begin at 0 and never
// change; "." and ".." are not included. ok is false at the end.
func (x *Index) Readdir(dir Ino, pos uint64) (d Dirent, next uint64, ok bool, err error) {
	p := x.record(dir)
	if p == nil {
		return Dirent{}, 0, false, x.badIno()
	}
	if modeOf(p)&ModeTypeMask != ModeDir {
		return Dirent{}, 0, false, errNotDir
	}
	first, n := operands(p)
	for ; pos < uint64(n); pos++ {
		if at := x.direntAt(first + uint32(pos)); at.typ != dtWhiteout {
			return Dirent{Ino: Ino(at.ino), Type: at.typ, Name: x.nameOf(at)}, pos + 1, true, nil
		}
	}
	return Dirent{}, pos, false, nil
}

// Readlink returns the target of symlink n, verbatim. Other nodes are
// fserr.Invalid.
func (x *Index) Readlink(n Ino) ([]byte, error) {
	p := x.record(n)
	if p == nil {
		return nil, x.badIno()
	}
	if modeOf(p)&ModeTypeMask != ModeSymlink {
		return nil, errNotLink
	}
	off, size := operands(p)
	end := uint64(off) + uint64(size)
	return x.targets[off:end:end], nil
}

// Content says where the bytes of regular file n are. Directories are
// fserr.IsDir, other nodes fserr.Invalid.
func (x *Index) Content(n Ino) (Content, error) {
	p := x.record(n)
	if p == nil {
		return Content{}, x.badIno()
	}
	switch d := decodeNode(p); d.kind() {
	case ModeReg:
		return Content{Layer: int(d.layer), First: d.a, Count: d.b, Size: d.size}, nil
	case ModeDir:
		return Content{}, errIsDir
	}
	return Content{}, errNotFile
}

// xattrsOf returns the attribute records of node n.
func (x *Index) xattrsOf(n Ino) ([]byte, error) {
	p := x.record(n)
	if p == nil {
		return nil, x.badIno()
	}
	set := binary.LittleEndian.Uint32(p[48:])
	if set == 0 {
		return nil, nil
	}
	s := getSpan(x.xattrSets[uint64(set-1)*xattrSetSize:])
	return x.xattrs[uint64(s.off)*xattrSize : (uint64(s.off)+uint64(s.n))*xattrSize], nil
}

func (x *Index) xattrBlob(s span) []byte {
	end := uint64(s.off) + uint64(s.n)
	return x.xattrBytes[s.off:end:end]
}

// Xattr returns the value of an extended attribute of node n; one that the node
// does not have is fserr.NoAttr.
func (x *Index) Xattr(n Ino, name []byte) ([]byte, error) {
	recs, err := x.xattrsOf(n)
	if err != nil {
		return nil, err
	}
	for ; len(recs) > 0; recs = recs[xattrSize:] {
		if bytes.Equal(x.xattrBlob(getSpan(recs)), name) {
			return x.xattrBlob(getSpan(recs[8:])), nil
		}
	}
	return nil, errNoAttr
}

// XattrNames gives the names of n's extended attributes to fn, in the order of
// their bytes, until fn returns false.
func (x *Index) XattrNames(n Ino, fn func(name []byte) bool) error {
	recs, err := x.xattrsOf(n)
	if err != nil {
		return err
	}
	for ; len(recs) > 0; recs = recs[xattrSize:] {
		if !fn(x.xattrBlob(getSpan(recs))) {
			break
		}
	}
	return nil
}
