package estargz

import "time"

// EntryType says what a TOC entry describes.
type EntryType uint8

// The entry types of the TOC, by their JSON names dir, reg, symlink, hardlink,
// char, block, fifo and chunk.
const (
	TypeDir EntryType = iota + 1
	TypeReg
	TypeSymlink
	TypeHardlink
	TypeChar
	TypeBlock
	TypeFifo
	TypeChunk
)

var typeNames = [...]string{ //nolint:gochecknoglobals // a constant table
	TypeDir: "dir", TypeReg: "reg", TypeSymlink: "symlink", TypeHardlink: "hardlink",
	TypeChar: "char", TypeBlock: "block", TypeFifo: "fifo", TypeChunk: "chunk",
}

// String gives the type's name in the TOC.
func (t EntryType) String() string {
	if t == 0 || int(t) >= len(typeNames) {
		return "unknown"
	}
	return typeNames[t]
}

// Entry is one record of a TOC: a file, directory, link or device, or a further
// chunk of the regular file before it.
type Entry struct {
	Name     string    // tar name verbatim
	Type     EntryType // never 0
	Size     int64     // logical size of a regular file, bytes
	ModTime  time.Time // UTC; whole seconds in eStargz
	LinkName string    // symlink target verbatim, or the tar name a hard link points at
	Mode     uint32    // permission, setuid, setgid and sticky bits: 07777
	UID, GID uint32

	DevMajor, DevMinor uint32            // char and block
	Xattrs             map[string][]byte // name to raw value

	Digest    Digest // of the whole payload, when HasDigest
	HasDigest bool

	Offset         int64  // of the gzip member holding the payload, in the blob
	InnerOffset    int64  // of the payload, in the uncompressed member
	ChunkOffset    int64  // of this chunk, in the file
	ChunkSize      int64  // 0: to the end of the file
	ChunkDigest    Digest // of the uncompressed chunk, when HasChunkDigest
	HasChunkDigest bool
	// Hole: the chunk is nothing but zeros, of any number, and not worth reading.
	Hole bool
}

// Chunk is one verified unit of file content, the currency between the index,
// the cache and the fetch scheduler.
type Chunk struct {
	// Digest is the sha256 of the uncompressed chunk.
	Digest Digest
	// Offset and Size are the chunk's place in its file, in bytes.
	Offset, Size int64
	// Member and MemberSize are the compressed range of the chunk's gzip member
	// in the blob. For layers without members they are the chunk's offset in the
	// uncompressed tar stream and 0.
	Member, MemberSize int64
	// Inner is the chunk's offset in the uncompressed member.
	Inner int64
	// Hole: the chunk is nothing but zeros. It has a Size of any number, no Digest
	// and no MemberSize, and is never fetched.
	Hole bool
}

// FetchSize is how many bytes from the start of the chunk's member are enough to
// decode the chunk: the member, but not more than any sane compressor can need
// for what is in front of the chunk, the chunk itself, and the rest of the zstd
// block that it ends in.
func (c *Chunk) FetchSize() int64 {
	n := c.Inner + c.Size
	return min(c.MemberSize, n+n/4+4096+maxZstdBlock)
}

// Names and annotation keys of the eStargz format (stargz-snapshotter,
// docs/estargz.md).
const (
	// TOCName is the tar entry that holds the TOC.
	TOCName = "stargz.index.json"
	// PrefetchLandmark ends the range to prefetch.
	PrefetchLandmark = ".prefetch.landmark"
	// NoPrefetchLandmark says that nothing is to be prefetched.
	NoPrefetchLandmark = ".no.prefetch.landmark"
	// WhiteoutPrefix marks a name that a lower layer has and this one removes.
	WhiteoutPrefix = ".wh."
	// OpaqueWhiteout in a directory hides all that lower layers have in it.
	OpaqueWhiteout = ".wh..wh..opq"
	// AnnotationTOCDigest on a layer descriptor is the digest of the
	// uncompressed TOC JSON.
	AnnotationTOCDigest = "containerd.io/snapshot/stargz/toc.digest"
	// AnnotationUncompressedSize on a layer descriptor is the tar's size, bytes.
	AnnotationUncompressedSize = "io.containers.estargz.uncompressed-size"
	// AnnotationLayerDigest on a layer of a TOC image is the digest of the eStargz
	// blob that its TOC belongs to.
	AnnotationLayerDigest = "containerd.io/snapshot/stargz/layer.digest"
	// ExternalTOCSuffix makes the tag of a TOC image out of the image's.
	ExternalTOCSuffix = "-esgztoc"
)
