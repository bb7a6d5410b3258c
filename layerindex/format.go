package layerindex

import (
	"encoding/binary"

	"github.com/nineply/nineply/estargz"

	"github.com/nineply/nineply/internal/crc32c"
)

// The file: a header of headerSize bytes, then the sections in the order of
// their numbers, each at a multiple of sectionAlign. All integers are little
// endian, except the name prefix of a dirent, which is compared as a number.
const (
	magic         = "nplyidx\n"
	formatVersion = 2

	headerSize   = 512
	sectionAlign = 64
	headerCRC    = headerSize - 4
	sectionTable = 32
	sectionEntry = 32
)

// The kinds of index file.
const (
	kindLayer  = 1
	kindMerged = 2
)

// The sections.
const (
	secLayers = iota
	secNodes
	secDirents
	secNames
	secTargets
	secXattrSets
	secXattrs
	secXattrBytes
	secChunks
	numSections
)

// Sizes of the records.
const (
	layerSize    = 128
	nodeSize     = 64
	direntSize   = 16
	xattrSetSize = 8
	xattrSize    = 16
	chunkSize    = 64
)

func recordSizes() [numSections]int64 {
	return [numSections]int64{layerSize, nodeSize, direntSize, 1, 1, xattrSetSize, xattrSize, 1, chunkSize}
}

// Flags of a directory node in a layer index.
const (
	// flagOpaque: nothing of lower layers is visible in it.
	flagOpaque uint32 = 1 << iota
	// flagImplied: no entry describes it; a lower layer's attributes win.
	flagImplied
)

func checksum(sum uint32, p []byte) uint32 {
	return crc32c.Update(sum, p)
}

// section is a row of the header's table.
type section struct {
	off, size int64
	crc       uint32
}

// header is the decoded first headerSize bytes.
type header struct {
	kind     uint32
	fileSize int64
	sections [numSections]section
}

func (h *header) encode() []byte {
	p := make([]byte, headerSize)
	le := binary.LittleEndian
	copy(p, magic)
	le.PutUint32(p[8:], formatVersion)
	le.PutUint32(p[12:], h.kind)
	le.PutUint64(p[16:], uint64(h.fileSize))
	le.PutUint32(p[24:], numSections)
	sizes := recordSizes()
	for i, s := range h.sections {
		row := p[sectionTable+i*sectionEntry:]
		le.PutUint64(row[0:], uint64(s.off))
		le.PutUint64(row[8:], uint64(s.size))
		le.PutUint32(row[16:], uint32(sizes[i]))
		le.PutUint32(row[20:], s.crc)
	}
	le.PutUint32(p[headerCRC:], checksum(0, p[:headerCRC]))
	return p
}

// decodeHeader checks everything that can be checked without the sections.
// size is the file's.
func decodeHeader(p []byte, size int64) (*header, error) {
	le := binary.LittleEndian
	switch {
	case string(p[:8]) != magic:
		return nil, corrupt("not an index file")
	case le.Uint32(p[8:]) != formatVersion:
		return nil, corrupt("version %d, want %d", le.Uint32(p[8:]), formatVersion)
	case le.Uint32(p[headerCRC:]) != checksum(0, p[:headerCRC]):
		return nil, corrupt("header checksum differs")
	case le.Uint64(p[16:]) != uint64(size):
		return nil, corrupt("file has %d bytes, header says %d", size, le.Uint64(p[16:]))
	case le.Uint32(p[24:]) != numSections:
		return nil, corrupt("%d sections, want %d", le.Uint32(p[24:]), numSections)
	}
	h := &header{kind: le.Uint32(p[12:]), fileSize: size}
	if h.kind != kindLayer && h.kind != kindMerged {
		return nil, corrupt("unknown kind %d", h.kind)
	}
	next := int64(headerSize)
	sizes := recordSizes()
	for i := range h.sections {
		row := p[sectionTable+i*sectionEntry:]
		off, length := le.Uint64(row), le.Uint64(row[8:])
		record := int64(le.Uint32(row[16:]))
		if off != uint64(next) || length > maxSection*uint64(sizes[i]) || length > uint64(size-next) ||
			record != sizes[i] || int64(length)%record != 0 {
			return nil, corrupt("section %d does not fit", i)
		}
		h.sections[i] = section{off: next, size: int64(length), crc: le.Uint32(row[20:])}
		next = align(next + int64(length))
		if next > size {
			return nil, corrupt("section %d ends behind the file", i)
		}
	}
	if next != size {
		return nil, corrupt("%d bytes behind the last section", size-next)
	}
	return h, nil
}

func align(off int64) int64 { return (off + sectionAlign - 1) &^ (sectionAlign - 1) }

// node is a decoded node record. What a and b mean depends on the type:
// directory: first dirent, dirents; regular: first chunk, chunks; symlink:
// offset and length of the target; device: major, minor.
type node struct {
	mode, uid, gid, nlink uint32
	size                  uint64
	mtime                 int64
	nsec, parent          uint32
	a, b                  uint32
	xattrs                uint32 // number of the set, from 1; 0 none
	layer                 uint32
	flags                 uint32
}

func (n *node) kind() uint32 { return n.mode & ModeTypeMask }

func (n *node) encode(p []byte) {
	le := binary.LittleEndian
	le.PutUint32(p[0:], n.mode)
	le.PutUint32(p[4:], n.uid)
	le.PutUint32(p[8:], n.gid)
	le.PutUint32(p[12:], n.nlink)
	le.PutUint64(p[16:], n.size)
	le.PutUint64(p[24:], uint64(n.mtime))
	le.PutUint32(p[32:], n.nsec)
	le.PutUint32(p[36:], n.parent)
	le.PutUint32(p[40:], n.a)
	le.PutUint32(p[44:], n.b)
	le.PutUint32(p[48:], n.xattrs)
	le.PutUint32(p[52:], n.layer)
	le.PutUint32(p[56:], n.flags)
	le.PutUint32(p[60:], 0)
}

func decodeNode(p *[nodeSize]byte) node {
	le := binary.LittleEndian
	return node{
		mode: le.Uint32(p[0:]), uid: le.Uint32(p[4:]), gid: le.Uint32(p[8:]), nlink: le.Uint32(p[12:]),
		size: le.Uint64(p[16:]), mtime: int64(le.Uint64(p[24:])), nsec: le.Uint32(p[32:]), parent: le.Uint32(p[36:]),
		a: le.Uint32(p[40:]), b: le.Uint32(p[44:]), xattrs: le.Uint32(p[48:]), layer: le.Uint32(p[52:]), flags: le.Uint32(p[56:]),
	}
}

// dirent is a decoded directory record.
type dirent struct {
	ino, nameOff uint32
	nameLen, typ uint8
	prefix       uint64 // of the name, see namePrefix
}

func (d *dirent) encode(p []byte) {
	binary.LittleEndian.PutUint32(p[0:], d.ino)
	binary.LittleEndian.PutUint32(p[4:], d.nameOff)
	binary.BigEndian.PutUint64(p[8:], d.prefix)
	p[8], p[9] = d.nameLen, d.typ
}

func decodeDirent(p *[direntSize]byte) dirent {
	return dirent{
		ino: binary.LittleEndian.Uint32(p[0:]), nameOff: binary.LittleEndian.Uint32(p[4:]),
		nameLen: p[8], typ: p[9], prefix: binary.BigEndian.Uint64(p[8:]) & prefixMask,
	}
}

const prefixMask = 1<<48 - 1

// namePrefix packs the first six bytes of a name, padded with zeros, into a
// number that orders as the bytes do. Names hold no zero bytes.
func namePrefix(name []byte) uint64 {
	if len(name) >= 8 {
		return binary.BigEndian.Uint64(name) >> 16
	}
	var v uint64
	for i := range min(len(name), 6) {
		v |= uint64(name[i]) << (40 - 8*i)
	}
	return v
}

// chunk is a decoded chunk record: a chunk and the node it belongs to. A hole has
// no digest, size, stored and inner, and in their stead its length.
type chunk struct {
	digest              estargz.Digest
	offset, member      int64
	size, stored, inner uint32 // stored: compressed size of the member
	owner               uint32
	hole                int64
}

// length is the number of bytes of the file that the chunk stands for.
func (c *chunk) length() int64 { return int64(c.size) + c.hole }

func (c *chunk) encode(p []byte) {
	le := binary.LittleEndian
	copy(p, c.digest[:])
	if c.hole > 0 {
		le.PutUint64(p, uint64(c.hole))
	}
	le.PutUint64(p[32:], uint64(c.offset))
	le.PutUint64(p[40:], uint64(c.member))
	le.PutUint32(p[48:], c.size)
	le.PutUint32(p[52:], c.stored)
	le.PutUint32(p[56:], c.inner)
	le.PutUint32(p[60:], c.owner)
}

func decodeChunk(p *[chunkSize]byte) chunk {
	le := binary.LittleEndian
	c := chunk{
		digest: estargz.Digest(p[:32]), offset: int64(le.Uint64(p[32:])), member: int64(le.Uint64(p[40:])),
		size: le.Uint32(p[48:]), stored: le.Uint32(p[52:]), inner: le.Uint32(p[56:]), owner: le.Uint32(p[60:]),
	}
	if c.size == 0 {
		c.hole = int64(le.Uint64(p[:8]))
		clear(c.digest[:8]) // the rest is zero, or the record is no hole
	}
	return c
}

func encodeLayer(l *LayerInfo, p []byte) {
	le := binary.LittleEndian
	clear(p[:layerSize])
	copy(p, l.Digest[:])
	copy(p[32:], l.TOCDigest[:])
	le.PutUint64(p[64:], uint64(l.BlobSize))
	le.PutUint64(p[72:], uint64(l.DataEnd))
	le.PutUint64(p[80:], uint64(l.PrefetchEnd))
	le.PutUint32(p[88:], uint32(l.Format))
}

func decodeLayer(p *[layerSize]byte) LayerInfo {
	le := binary.LittleEndian
	return LayerInfo{
		Digest: estargz.Digest(p[:32]), TOCDigest: estargz.Digest(p[32:64]),
		BlobSize: int64(le.Uint64(p[64:])), DataEnd: int64(le.Uint64(p[72:])), PrefetchEnd: int64(le.Uint64(p[80:])),
		Format: Format(le.Uint32(p[88:])),
	}
}
