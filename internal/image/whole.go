package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
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
// entries into the index, and the index is only kept if the blob's digest turns
// out right. It returns the DiffID.
func (c *Catalog) indexWhole(ctx context.Context, blob source.Blob, d estargz.Digest, desc ocispec.Descriptor) (string, error) {
	b := layerindex.NewBuilder(layerindex.LayerInfo{
		Digest: d, BlobSize: blob.Size(), Format: layerindex.FormatStream,
	}, layerindex.DefaultLimits())
	notStored := 0
	chunk := func(dg estargz.Digest, _ int64, payload []byte) error {
		if _, err := c.store.Put(ctx, chunkstore.Digest(dg), payload); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			notStored++
		}
		return nil
	}
	diffID, err := c.readWhole(ctx, blob, desc, b.Add, chunk)
	if err != nil {
		return "", err
	}
	if notStored > 0 {
		c.log.Warn("the cache could not take all of a layer; it will be read again when needed",
			zap.Stringer("layer", d), zap.Int("chunks", notStored))
	}
	return diffID, b.WriteFile(c.layerPath(d))
}

// readWhole streams, decompresses and cuts up a layer. It fails unless the blob
// had the digest of its descriptor.
func (c *Catalog) readWhole(ctx context.Context, blob source.Blob, desc ocispec.Descriptor, entry func(*estargz.Entry) error, chunk func(d estargz.Digest, pos int64, payload []byte) error) (string, error) {
	rc, err := blob.Stream(ctx, 0)
	if err != nil {
		return "", err
	}
	verified := source.Verified(rc, desc.Digest, blob.Size())
	defer func() { _ = verified.Close() }() // read side; the digest decides
	counted := &countingReader{r: verified, n: &c.wholeBytes}
	stream, err := layertar.Open(counted)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	hash := sha256.New()
	tee := io.TeeReader(stream, hash)
	if err := cutTar(tee, entry, chunk); err != nil {
		return "", err
	}
	// What follows the last entry belongs to the DiffID and to the blob.
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return "", err
	}
	if err := stream.Drain(); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, hash).String(), nil
}

// cutTar turns a tar stream into TOC entries and chunks. The offset of a chunk is
// its position in the concatenation of all file contents: it rises with every
// chunk, which is all that a layer without members needs of it.
func cutTar(r io.Reader, entry func(*estargz.Entry) error, chunk func(d estargz.Digest, pos int64, payload []byte) error) error {
	tr := estargz.NewTarReader(r)
	buf := make([]byte, wholeChunk)
	pos := int64(1)
	for {
		e, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.Type != estargz.TypeReg || e.Size == 0 {
			if err := entry(e); err != nil {
				return err
			}
			continue
		}
		if pos, err = cutFile(tr, e, buf, pos, entry, chunk); err != nil {
			return fmt.Errorf("%.256q: %w", e.Name, err)
		}
	}
}

// cutFile emits one regular file: its entry with the first chunk, then an entry
// for each further chunk.
func cutFile(r io.Reader, e *estargz.Entry, buf []byte, pos int64, entry func(*estargz.Entry) error, chunk func(d estargz.Digest, pos int64, payload []byte) error) (int64, error) {
	for off := int64(0); off < e.Size; {
		n := min(int64(len(buf)), e.Size-off)
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return pos, layertar.Wrap("read", err)
		}
		part := *e
		if off > 0 {
			part = estargz.Entry{Name: e.Name, Type: estargz.TypeChunk}
		}
		part.Offset, part.ChunkOffset, part.ChunkSize = pos, off, n
		part.ChunkDigest, part.HasChunkDigest = estargz.Sum(buf[:n]), true
		if err := entry(&part); err != nil {
			return pos, err
		}
		if err := chunk(part.ChunkDigest, pos, buf[:n]); err != nil {
			return pos, err
		}
		off += n
		pos += n
	}
	return pos, nil
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
	_, err := w.c.readWhole(ctx, w.blob, w.desc, func(*estargz.Entry) error { return nil },
		func(_ estargz.Digest, pos int64, payload []byte) error {
			number := w.index.ChunksFrom(pos)
			// A file that a later entry of the same name replaced has no chunks.
			if c, ok := w.index.Chunk(number); !ok || c.Member != pos {
				return nil
			}
			return fn(number, payload)
		})
	return err
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
