package layerindex

import "github.com/nineply/nineply/estargz"

// Ino is a node number: 1 is the root, the others follow without gaps up to
// NumNodes.
type Ino = uint64

// RootIno is the number of the root directory of every index.
const RootIno Ino = 1

// File type bits of Attr.Mode, with the values of Linux (S_IFMT and friends),
// whatever system the program runs on.
const (
	ModeTypeMask uint32 = 0o170000
	ModeFifo     uint32 = 0o010000
	ModeChar     uint32 = 0o020000
	ModeDir      uint32 = 0o040000
	ModeBlock    uint32 = 0o060000
	ModeReg      uint32 = 0o100000
	ModeSymlink  uint32 = 0o120000

	modePerm uint32 = 0o7777
)

// Directory entry types, the DT_* values of Linux: the file type bits of the
// mode shifted down by 12.
const (
	DTFifo    uint8 = 1
	DTChar    uint8 = 2
	DTDir     uint8 = 4
	DTBlock   uint8 = 6
	DTReg     uint8 = 8
	DTSymlink uint8 = 10

	dtWhiteout uint8 = 14 // layer index only, never returned
)

// DirSize is the size every directory reports, in bytes.
const DirSize = 4096

// Attr is what stat tells of a node.
type Attr struct {
	Ino       Ino
	Mode      uint32 // file type and permission bits, as in st_mode
	UID, GID  uint32
	NLink     uint32 // names of a file; 2 + subdirectories of a directory
	Size      uint64 // bytes; length of the target of a symlink
	Mtime     int64  // seconds since 1970
	MtimeNsec uint32 // 0 to 999,999,999
	Rdev      uint64 // device number of a char or block node, Linux makedev encoding
}

// Dirent is one name in a directory. Name points into the mapping and is valid
// until the index is closed.
type Dirent struct {
	Ino  Ino
	Type uint8 // DT_*
	Name []byte
}

// Format says how a layer's blob is laid out.
type Format uint8

// The formats of a layer.
const (
	// FormatEStargz: chunks lie in gzip members of the blob.
	FormatEStargz Format = iota + 1
	// FormatStream: the layer can only be read from its start; chunks are ranges
	// of the uncompressed tar.
	FormatStream
	// FormatZstdChunked: chunks lie in zstd frames of the blob.
	FormatZstdChunked
	// FormatSpans: chunks are ranges of the uncompressed tar, which checkpoints
	// beside the index lead into.
	FormatSpans
	// FormatTar: the blob is an uncompressed tar, and chunks are ranges of it.
	FormatTar
	// FormatSOCI: as FormatSpans, but the digests of the chunks are not known in
	// advance, and what stands in their place are names.
	FormatSOCI
	numFormats = iota
)

// InMembers reports whether chunks lie in compressed members of the blob, not at
// offsets of the uncompressed tar.
func (f Format) InMembers() bool { return f == FormatEStargz || f == FormatZstdChunked }

func (f Format) known() bool { return f >= FormatEStargz && f <= numFormats }

// LayerInfo identifies a layer and its blob.
type LayerInfo struct {
	Digest    estargz.Digest // of the blob
	TOCDigest estargz.Digest // of the TOC the index was made from
	BlobSize  int64          // bytes
	// DataEnd is where chunk data ends: the offset of the TOC in a blob of members,
	// the size of the uncompressed tar of any other. It bounds the last member; 0
	// means the end of the blob (members) or unknown (tar).
	DataEnd int64
	// PrefetchEnd says that bytes [0, PrefetchEnd) of the blob are worth fetching
	// first; 0 is no advice. The Builder takes it from the landmark.
	PrefetchEnd int64
	Format      Format
}

// Content says where the bytes of a regular file are: chunks [First,
// First+Count) of the layer index with number Layer (0 is the bottom layer).
type Content struct {
	Layer        int
	First, Count uint32
	Size         uint64 // of the file, bytes
}

// makedev packs a device number as Linux user space does.
func makedev(major, minor uint32) uint64 {
	return uint64(major&0xfffff000)<<32 | uint64(major&0xfff)<<8 |
		uint64(minor&0xffffff00)<<12 | uint64(minor&0xff)
}
