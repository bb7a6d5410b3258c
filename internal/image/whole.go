package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/layertar"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/layerindex"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
)

// wholeChunk is how much of a file becomes one chunk when a layer is read whole,
// bytes.
const wholeChunk = 1 << 20

// indexWhole reads a layer from start to end: its chunks go into the store, its
// entries into the index. Nothing is kept unless the blob has its digest and the
// tar the DiffID wanted, "" if none is known. A layer whose chunks lie where an
// index can lead to is lazy from then on.
func (c *Catalog) indexWhole(ctx context.Context, blob source.Blob, d estargz.Digest, rec *layerRecord, wantDiffID string) error {
	b := layerindex.NewBuilder(layerindex.LayerInfo{
		Digest: d, BlobSize: blob.Size(), Format: layerindex.FormatStream,
	}, layerindex.DefaultLimits())
	notStored := 0
	w := wholeReader{c: c, blob: blob, desc: rec.Desc, entry: b.Add}
	w.chunk = func(dg estargz.Digest, _ int64, payload []byte) error {
		if _, err := c.store.Put(ctx, chunkstore.Digest(dg), payload); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			notStored++
		}
		return nil
	}
	if err := w.read(ctx); err != nil {
		return err
	}
	if wantDiffID != "" && w.diffID != wantDiffID {
		return fserr.Newf(fserr.Corrupt, "verify", "", "its content has diff ID %s, the image's config says %s", w.diffID, wantDiffID)
	}
	rec.DiffID, rec.Format = w.diffID, formatWhole
	if notStored > 0 {
		c.log.Warn("the cache could not take all of a layer; it will be read again when needed",
			zap.Stringer("layer", d), zap.Int("chunks", notStored))
	}
	switch {
	case w.scattered:
	case w.compression == "tar":
		b.SetFormat(layerindex.FormatTar)
		rec.Format = formatTarIndex
	case w.compression == "gzip":
		if err := w.points.save(c.spansPath(plainID(d)), d); err != nil {
			c.log.Warn("checkpoints not kept", zap.Stringer("layer", d), zap.Error(err))
			break
		}
		b.SetFormat(layerindex.FormatSpans)
		rec.Format = formatGzipIndex
	}
	if isLazy(rec.Format) {
		rec.Reason = "indexed when it was first read: " + rec.Reason
	}
	return b.WriteFile(c.layerPath(plainID(d)))
}

// wholeReader streams, decompresses and cuts up a layer.
type wholeReader struct {
	c     *Catalog
	blob  source.Blob
	desc  ocispec.Descriptor
	entry func(*estargz.Entry) error
	chunk func(d estargz.Digest, pos int64, payload []byte) error

	// Known when the layer was read.
	diffID      string
	compression string
	points      recorder // of a gzip layer
	scattered   bool     // a file is not in one piece in the tar

	pos int64 // end of the last chunk
}

// read fails unless the blob had the digest of its descriptor.
func (w *wholeReader) read(ctx context.Context) error {
	rc, err := w.blob.Stream(ctx, 0)
	if err != nil {
		return err
	}
	verified := source.Verified(rc, w.desc.Digest, w.blob.Size())
	defer func() { _ = verified.Close() }() // read side; the digest decides
	stream, err := layertar.OpenWith(&countingReader{r: verified, n: &w.c.wholeBytes}, w.points.start)
	if err != nil {
		return err
	}
	defer stream.Close()
	w.compression = stream.Compression()
	hash := sha256.New()
	tee := io.TeeReader(stream, hash)
	if err := w.cutTar(tee); err != nil {
		return err
	}
	// What follows the last entry belongs to the DiffID and to the blob.
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return err
	}
	if err := stream.Drain(); err != nil {
		return err
	}
	w.diffID = digest.NewDigest(digest.SHA256, hash).String()
	return nil
}

// cutTar turns a tar stream into TOC entries and chunks.
func (w *wholeReader) cutTar(r io.Reader) error {
	tr := estargz.NewTarReader(r)
	buf := make([]byte, wholeChunk)
	for {
		e, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.Type != estargz.TypeReg || e.Size == 0 {
			if err := w.entry(e); err != nil {
				return err
			}
			continue
		}
		w.scattered = w.scattered || tr.Sparse()
		// The place of a chunk is its offset in the tar. A sparse file has more bytes
		// than the tar has of it; places go on behind it then, and are just numbers.
		w.pos = max(w.pos, tr.Offset())
		if err := w.cutFile(tr, e, buf); err != nil {
			return fmt.Errorf("%.256q: %w", e.Name, err)
		}
	}
}

// cutFile emits one regular file: its entry with the first chunk, then an entry
// for each further chunk.
func (w *wholeReader) cutFile(r io.Reader, e *estargz.Entry, buf []byte) error {
	for off := int64(0); off < e.Size; {
		n := min(int64(len(buf)), e.Size-off)
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return layertar.Wrap("read", err)
		}
		part := *e
		if off > 0 {
			part = estargz.Entry{Name: e.Name, Type: estargz.TypeChunk}
		}
		part.Offset, part.ChunkOffset, part.ChunkSize = w.pos, off, n
		part.ChunkDigest, part.HasChunkDigest = estargz.Sum(buf[:n]), true
		if err := w.entry(&part); err != nil {
			return err
		}
		if err := w.chunk(part.ChunkDigest, w.pos, buf[:n]); err != nil {
			return err
		}
		off += n
		w.pos += n
	}
	return nil
}

// wholeLayer reads a layer again when chunks of it were evicted.
type wholeLayer struct {
	c     *Catalog
	blob  source.Blob
	desc  ocispec.Descriptor
	index *layerindex.Index
}

// StreamChunks implements fetch.Streamer.
func (w *wholeLayer) StreamChunks(ctx context.Context, fn func(number uint32, payload []byte) error) error {
	r := wholeReader{c: w.c, blob: w.blob, desc: w.desc, entry: func(*estargz.Entry) error { return nil }}
	r.chunk = func(_ estargz.Digest, pos int64, payload []byte) error {
		number := w.index.ChunksFrom(pos)
		// A file that a later entry of the same name replaced has no chunks.
		if c, ok := w.index.Chunk(number); !ok || c.Member != pos {
			return nil
		}
		return fn(number, payload)
	}
	if err := r.read(ctx); err != nil {
		return err
	}
	if w.index.Info().Format != layerindex.FormatSpans {
		return nil
	}
	// The checkpoints were lost; when the layer is opened next, they are there.
	d := w.index.Info().Digest
	if err := r.points.save(w.c.spansPath(plainID(d)), d); err != nil {
		w.c.log.Warn("checkpoints not kept", zap.Stringer("layer", d), zap.Error(err))
	}
	return nil
}

// countingReader adds what passes to a counter.
type countingReader struct {
	r io.Reader
	n interface{ Add(int64) int64 }
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}
