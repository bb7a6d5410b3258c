package estargz

import (
	"cmp"
	"runtime"

	"github.com/nineply/nineply/internal/fserr"
)

// Format is what a [Writer] makes of a tar.
type Format uint8

const (
	// FormatEStargz is gzip members: what every runtime can unpack.
	FormatEStargz Format = iota
	// FormatZstdChunked is zstd frames: smaller, and faster to make and unpack.
	FormatZstdChunked
)

// Dialect says for which readers a zstd:chunked blob is.
type Dialect uint8

const (
	// DialectStargz is that of stargz-snapshotter: small files share frames.
	DialectStargz Dialect = iota
	// DialectContainers is that of containers/storage (Podman, CRI-O, Buildah): a
	// frame for each chunk, and tar-split data, out of which the tar can be put
	// together again. The tar stays as it is, but for what a TOC cannot express.
	DialectContainers
)

// Defaults and bounds of [WriterOptions].
const (
	DefaultChunkSize = 1 << 20
	MaxChunkSize     = 64 << 20
	// DefaultMinMemberSize is that of eStargz: the read of a small file costs some
	// 80 KB. Members of 1 MiB would cost four times that to save the layer 0.2 %.
	DefaultMinMemberSize = 256 << 10
	// DefaultZstdMemberSize is that of zstd:chunked, where half of it makes the
	// layer 2 % larger and a quarter 4 %: zstd has more use for what came before.
	DefaultZstdMemberSize = 1 << 20
	// DefaultLevel is that of eStargz: 2 % smaller than 6. Level 9 takes five times
	// as long to save 1.5 % more.
	DefaultLevel = 7
	// DefaultZstdLevel is that of zstd:chunked: 3 % smaller than 3, and a third
	// slower.
	DefaultZstdLevel = 6
)

// WriterOptions tune a [Writer]. The zero value is good.
type WriterOptions struct {
	Format Format
	// Dialect is of use for FormatZstdChunked alone.
	Dialect Dialect
	// KeepDiffID has the blob decompress to the very tar it was made of. An
	// eStargz blob then has its TOC outside, see [Result.ExternalTOC]. What a TOC
	// can only describe after a change to the tar is refused: sparse files with
	// holes. There are no landmarks but the tar's own, and no prioritized files.
	KeepDiffID bool
	// ChunkSize is the size in bytes into which larger files are cut: what is
	// fetched and verified as one. 0 means DefaultChunkSize; at most MaxChunkSize.
	ChunkSize int64
	// MinMemberSize is the uncompressed size in bytes up to which files smaller
	// than it share a member, with their neighbours in the tar: of the directory, or
	// of the list of those that come first. A member that is an eighth full ends
	// where the directory does. 0 means DefaultMinMemberSize or
	// DefaultZstdMemberSize. -1 gives every file a member of its own, as
	// DialectContainers always does.
	MinMemberSize int64
	// Level is the compression level, 1 to 9 of gzip, 1 to 22 of zstd, of which
	// there are four kinds. 0 means DefaultLevel or DefaultZstdLevel.
	Level int
	// Workers is how many members are compressed at once. 0 means one for each
	// CPU. The blob does not depend on it.
	Workers int
	// Prioritized names the files to put first, in order, to be fetched before
	// anything asks for them. Their directories and hard link targets come along.
	Prioritized []string
	// TempDir is where a tar stream is kept that has to be reordered. The
	// default is that of [os.CreateTemp].
	TempDir string
	// Limits are those of the readers that the blob is for.
	Limits Limits
}

func (o WriterOptions) withDefaults() (WriterOptions, error) {
	memberSize, level, maxLevel := int64(DefaultMinMemberSize), DefaultLevel, 9
	if o.Format == FormatZstdChunked {
		memberSize, level, maxLevel = DefaultZstdMemberSize, DefaultZstdLevel, 22
	}
	o.ChunkSize = cmp.Or(o.ChunkSize, DefaultChunkSize)
	o.MinMemberSize = cmp.Or(o.MinMemberSize, memberSize)
	o.Level = cmp.Or(o.Level, level)
	o.Workers = cmp.Or(o.Workers, runtime.GOMAXPROCS(0))
	o.Limits = o.Limits.withDefaults()
	maxChunk := min(MaxChunkSize, o.Limits.ChunkSize)
	invalid := func(format string, args ...any) (WriterOptions, error) {
		return o, fserr.Newf(fserr.Invalid, "write layer", "", format, args...)
	}
	switch {
	case o.Format > FormatZstdChunked || o.Dialect > DialectContainers:
		return invalid("there is no format %d, dialect %d", o.Format, o.Dialect)
	case o.Dialect != DialectStargz && o.Format != FormatZstdChunked:
		return invalid("only zstd:chunked has dialects")
	case o.KeepDiffID && len(o.Prioritized) > 0:
		return invalid("to put files first changes the DiffID, which is to be kept")
	case o.ChunkSize < 0 || o.ChunkSize > maxChunk:
		return invalid("chunk size %d is not in 1..%d", o.ChunkSize, maxChunk)
	case o.MinMemberSize < -1 || o.MinMemberSize > maxChunk:
		return invalid("member size %d is not in -1..%d", o.MinMemberSize, maxChunk)
	case o.Level < 1 || o.Level > maxLevel:
		return invalid("compression level %d is not in 1..%d", o.Level, maxLevel)
	case o.Workers < 0:
		return invalid("%d workers", o.Workers)
	}
	if o.Dialect == DialectContainers {
		o.MinMemberSize = -1
	}
	return o, nil
}

// keepsTar says whether entries are written with the bytes they were read from.
func (o *WriterOptions) keepsTar() bool {
	return o.KeepDiffID || o.Dialect == DialectContainers
}
