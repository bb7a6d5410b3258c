package estargz

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/nineply/nineply/internal/fserr"
)

// Defaults and bounds of [WriterOptions].
const (
	DefaultChunkSize     = 1 << 20
	MaxChunkSize         = 64 << 20
	DefaultMinMemberSize = 256 << 10
	DefaultLevel         = 6
)

// Media types of layers (OCI image specification, media-types.md).
const (
	MediaTypeGzip = "application/vnd.oci.image.layer.v1.tar+gzip"
	MediaTypeZstd = "application/vnd.oci.image.layer.v1.tar+zstd"
)

// Format is what a [Writer] makes of a tar.
type Format uint8

const (
	// FormatEStargz is gzip members: what every runtime can unpack.
	FormatEStargz Format = iota
	// FormatZstdChunked is zstd frames: smaller, and faster to unpack.
	FormatZstdChunked
)

// Dialect says for which readers a zstd:chunked blob is.
type Dialect uint8

const (
	// DialectStargz is that of stargz-snapshotter: small files share frames.
	DialectStargz Dialect = iota
	// DialectContainers is that of containers/storage (Podman, CRI-O, Buildah): a
	// frame for each chunk, and tar-split data, out of which the original tar can
	// be put together again.
	DialectContainers
)

// WriterOptions tune a [Writer]. The zero value is good.
type WriterOptions struct {
	Format Format
	// Dialect is of use for FormatZstdChunked alone.
	Dialect Dialect
	// KeepDiffID has the blob decompress to the very tar it was made of. An
	// eStargz blob then has its TOC outside, see [Result.ExternalTOC]. What a TOC
	// can only describe after a change to the tar is refused: sparse files with
	// holes. There are no landmarks, and no prioritized files.
	KeepDiffID bool
	// ChunkSize is the size in bytes into which larger files are cut: what is
	// fetched and verified as one. 0 means DefaultChunkSize; at most MaxChunkSize.
	ChunkSize int64
	// MinMemberSize is the uncompressed size in bytes up to which files smaller
	// than it share a gzip member. 0 means DefaultMinMemberSize, which costs a
	// reader of one small file some 100 KB and spares the layer most of what
	// lazy reading adds to it. -1 gives every file a member of its own.
	MinMemberSize int64
	// Level is the compression level, 1 to 9. 0 means DefaultLevel.
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
	o.ChunkSize = cmp.Or(o.ChunkSize, DefaultChunkSize)
	o.MinMemberSize = cmp.Or(o.MinMemberSize, DefaultMinMemberSize)
	o.Level = cmp.Or(o.Level, DefaultLevel)
	o.Workers = cmp.Or(o.Workers, runtime.GOMAXPROCS(0))
	o.Limits = o.Limits.withDefaults()
	maxChunk := min(MaxChunkSize, o.Limits.ChunkSize)
	if o.Format != FormatEStargz || o.KeepDiffID {
		return o, fserr.Newf(fserr.Unsupported, "write layer", "", "this format cannot be written")
	}
	switch {
	case o.ChunkSize < 0 || o.ChunkSize > maxChunk:
		return o, fserr.Newf(fserr.Invalid, "write layer", "", "chunk size %d is not in 1..%d", o.ChunkSize, maxChunk)
	case o.MinMemberSize < -1 || o.MinMemberSize > maxChunk:
		return o, fserr.Newf(fserr.Invalid, "write layer", "", "member size %d is not in -1..%d", o.MinMemberSize, maxChunk)
	case o.Level < 1 || o.Level > 9:
		return o, fserr.Newf(fserr.Invalid, "write layer", "", "compression level %d is not in 1..9", o.Level)
	case o.Workers < 0:
		return o, fserr.Newf(fserr.Invalid, "write layer", "", "%d workers", o.Workers)
	}
	return o, nil
}

// Result describes a finished blob.
type Result struct {
	BlobDigest       Digest // of the blob
	BlobSize         int64  // bytes
	DiffID           Digest // of the tar stream the blob decompresses to
	UncompressedSize int64  // bytes of that tar stream
	TOCDigest        Digest // of the TOC's JSON
	// NotFound lists the prioritized names that the tar has no entry for.
	NotFound []string

	// MediaType and Annotations are what the layer's descriptor needs, besides
	// digest and size.
	MediaType   string
	Annotations map[string]string
	// ExternalTOC is a layer that holds the TOC alone, tar+gzip, for an image of
	// its own; its descriptor there needs [AnnotationLayerDigest]. It is nil but for
	// eStargz that keeps the DiffID.
	ExternalTOC []byte
}

// Writer writes one eStargz blob. Its bytes depend on the tar and the options
// alone: member boundaries follow from sizes, never from the number of workers.
// It is not safe for concurrent use.
type Writer struct {
	opts   WriterOptions
	out    *assembler
	used   bool
	failed error
	result Result
}

// NewWriter returns a Writer to w. Invalid options are reported by AppendTar.
func NewWriter(w io.Writer, opts WriterOptions) *Writer {
	opts, err := opts.withDefaults()
	return &Writer{opts: opts, failed: err, out: newAssembler(w, opts.Limits)}
}

var errWriterUsed = errors.New("a layer is made of one tar stream")

// AppendTar writes the entries of the uncompressed tar stream r; it may be
// called once. The stream is read once and members are written as they are
// ready, but if there are prioritized files: then r should be an [io.ReaderAt]
// and [io.Seeker], such as a file, or it is first copied to a temporary file.
//
// Entries keep all their headers say. Earlier landmarks and TOCs are dropped;
// of entries with the same name the last counts; sparse files are written out;
// PAX global headers are applied to what follows. What a TOC cannot express is
// an fserr.Unsupported error that names the entry.
func (w *Writer) AppendTar(ctx context.Context, r io.Reader) error {
	if w.failed == nil && w.used {
		w.failed = fserr.New(fserr.Invalid, "write layer", "", errWriterUsed)
	}
	w.used = true
	if w.failed != nil {
		return w.failed
	}
	if err := w.appendTar(ctx, r); err != nil {
		w.failed = fmt.Errorf("write layer: %w", err)
	}
	return w.failed
}

func (w *Writer) appendTar(ctx context.Context, r io.Reader) (err error) {
	src, err := w.source(ctx, r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()

	g, gctx := errgroup.WithContext(ctx)
	lane := newLane(w.opts)
	for range w.opts.Workers {
		g.Go(lane.compress)
	}
	g.Go(func() error { return lane.assemble(gctx, w.out) })
	p := packer{opts: w.opts, lane: lane, ctx: gctx}
	perr := p.run(src)
	lane.close()
	// When the assembler fails first, the packer's error only says it was
	// stopped; when the packer fails, the others end in peace.
	if err := g.Wait(); err != nil {
		return err
	}
	if perr != nil {
		return perr
	}
	w.result.NotFound = src.missing()
	return nil
}

// Close writes the TOC and the footer, and returns what the blob is. It does not
// close the underlying writer.
func (w *Writer) Close() (Result, error) {
	if w.failed == nil && !w.used {
		w.failed = fserr.New(fserr.Invalid, "write layer", "", errWriterUsed)
	}
	if w.failed != nil {
		return Result{}, w.failed
	}
	w.failed = fserr.New(fserr.Closed, "write layer", "", nil)
	if err := w.out.finish(w.opts.Level, &w.result); err != nil {
		w.failed = fmt.Errorf("write layer: %w", err)
		return Result{}, w.failed
	}
	return w.result, nil
}

// tally writes on, counting and hashing.
type tally struct {
	w    io.Writer
	hash hash.Hash
	n    int64
}

func newTally(w io.Writer) *tally { return &tally{w: w, hash: sha256.New()} }

func (t *tally) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	t.n += int64(n)
	t.hash.Write(p[:n]) // never fails
	return n, err
}

func (t *tally) sum() Digest { return Digest(t.hash.Sum(nil)) }
