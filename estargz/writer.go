package estargz

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/nineply/nineply/internal/fserr"
)

// Media types of layers (OCI image specification, media-types.md).
const (
	MediaTypeGzip = "application/vnd.oci.image.layer.v1.tar+gzip"
	MediaTypeZstd = "application/vnd.oci.image.layer.v1.tar+zstd"
)

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
	split  *tarSplit // nil: none is made
	used   bool
	failed error
	result Result
}

// NewWriter returns a Writer to w. Invalid options are reported by AppendTar.
func NewWriter(w io.Writer, opts WriterOptions) *Writer {
	opts, err := opts.withDefaults()
	return &Writer{opts: opts, failed: err, out: newAssembler(w, opts)}
}

var errWriterUsed = errors.New("a layer is made of one tar stream")

// AppendTar writes the entries of the uncompressed tar stream r; it may be
// called once. The stream is read once and members are written as they are
// ready, but if there are prioritized files: then r should be an [io.ReaderAt]
// and [io.Seeker], such as a file, or it is first copied to a temporary file.
//
// Entries keep all their headers say, and of entries with the same name the last
// counts. Sparse files are written out, contiguous ones become plain ones, PAX
// global headers are applied to what follows, and landmarks and TOCs that the tar
// has are dropped: unless the DiffID is to be kept, or in [DialectContainers], where
// no more than the first three is changed. What a TOC cannot express is an
// fserr.Unsupported error that names the entry.
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

	if w.opts.Dialect == DialectContainers {
		if w.split, err = newTarSplit(); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	lane := newLane(w.opts)
	for range w.opts.Workers {
		g.Go(lane.compress)
	}
	g.Go(func() error { return lane.assemble(gctx, w.out) })
	p := packer{opts: w.opts, lane: lane, ctx: gctx, split: w.split}
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
	if err := w.out.finish(w.split, &w.result); err != nil {
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
