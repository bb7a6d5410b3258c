package image

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/soci"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/zran"
	"github.com/nineply/nineply/layerindex"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// indexSOCI makes a layer's index from its zTOC in a SOCI index.
func (c *Catalog) indexSOCI(ctx context.Context, w want, blob source.Blob, id layerID, x *soci.Index) error {
	desc, ok := x.ZTOC(w.digest.String())
	if !ok {
		return fserr.Newf(fserr.Unsupported, "read", "SOCI index", "it has nothing for this layer")
	}
	data, err := c.object(ctx, w.ref, desc, int64(soci.DefaultLimits().ZTOCBytes))
	if err != nil {
		return fmt.Errorf("zTOC %s: %w", desc.Digest, err)
	}
	c.tocBytes.Add(int64(len(data)))
	z, err := soci.Parse(data, soci.Limits{ChunkSize: wholeChunk})
	if err != nil {
		return fmt.Errorf("zTOC %s: %w", desc.Digest, err)
	}
	if z.BlobSize() != blob.Size() {
		return fmt.Errorf("zTOC %s: %w: of %d bytes, this one has %d", desc.Digest, soci.ErrLayer, z.BlobSize(), blob.Size())
	}
	ztoc, err := parseDigest("zTOC", desc.Digest.String())
	if err != nil {
		return err
	}
	b := layerindex.NewBuilder(layerindex.LayerInfo{
		Digest: w.digest, TOCDigest: ztoc, BlobSize: blob.Size(), DataEnd: z.TarSize(), Format: layerindex.FormatSOCI,
	}, layerindex.DefaultLimits())
	err = z.Entries(func(e *estargz.Entry) error {
		if e.ChunkSize > 0 {
			e.ChunkDigest, e.HasChunkDigest = chunkName(w.digest, e.Offset), true
		}
		return b.Add(e)
	})
	if err != nil {
		return fmt.Errorf("zTOC %s: %w", desc.Digest, err)
	}
	if err := writeSpans(c.spansPath(id), w.digest, z); err != nil {
		return err
	}
	return b.WriteFile(c.layerPath(id))
}

// object reads a blob that is small enough to keep in memory.
func (c *Catalog) object(ctx context.Context, ref string, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size > limit {
		return nil, fserr.Newf(fserr.TooLarge, "read", desc.Digest.String(), "%d bytes, at most %d are read", desc.Size, limit)
	}
	blob, err := c.source.Blob(ctx, ref, desc)
	if err != nil {
		return nil, err
	}
	rc, err := blob.Stream(ctx, 0)
	if err != nil {
		return nil, err
	}
	return source.ReadObject(rc, desc, limit)
}

// writeSpans writes the checkpoints of a zTOC in the form that layers are read
// through.
func writeSpans(path string, blob estargz.Digest, z *soci.ZTOC) error {
	spans := z.Spans()
	points := make([]zran.Point, len(spans))
	size := z.TarSize()
	for i, s := range spans {
		points[i] = zran.Point{In: s.Lo, Bit: s.Bit, Out: s.Out, Window: s.Window, Digest: s.Digest}
		size = max(size, s.Out) // padding that the zTOC does not count may reach into a span of its own
	}
	return replaceFile(path, func(w io.Writer) error {
		return zran.WriteSpans(w, zran.Info{Blob: blob, BlobSize: z.BlobSize(), Size: size, Plain: !z.Gzip()}, points)
	})
}

// chunkName stands for the digest of a chunk that is not known yet: the digest of
// the blob, with the chunk's place in the tar worked into it. Nothing else in the
// cache can have it.
func chunkName(blob estargz.Digest, off int64) estargz.Digest {
	tail := binary.BigEndian.Uint64(blob[24:])
	binary.BigEndian.PutUint64(blob[24:], tail^uint64(off)^math.MaxUint64)
	return blob
}

// bindSOCI connects a layer with the spans that its chunks lie in, and with the
// digests that were learned of them.
func (c *Catalog) bindSOCI(l *Layer, name string, blob source.Blob) error {
	var err error
	if l.spans, err = openSpans(c.spansPath(l.id), l.id.blob, blob.Size()); err != nil {
		return err
	}
	if !l.spans.index.Verifies() {
		return fserr.Newf(fserr.Corrupt, "open", c.spansPath(l.id), "no digests of spans: nothing would verify the layer")
	}
	if l.learned, err = openLearned(c.learnedPath(l.id), l.index); err != nil {
		return err
	}
	l.bytes = c.sched.NewLearnedLayer(name, blob, l.spans, l.learned)
	return nil
}

// sociIndex reads the SOCI index with a digest from the repository of ref. Few are
// kept in memory: those of images whose layers are being opened.
func (c *Catalog) sociIndex(ctx context.Context, ref string, d digest.Digest) (*soci.Index, error) {
	c.mu.Lock()
	x := c.soci[d]
	c.mu.Unlock()
	if x != nil {
		return x, nil
	}
	data, err := c.manifest(ctx, ref, d)
	if err != nil {
		return nil, err
	}
	if x, err = soci.ParseIndex(data, soci.DefaultLimits()); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.soci) >= maxSOCIIndexes {
		clear(c.soci)
	}
	c.soci[d] = x
	return x, nil
}

// maxSOCIIndexes bounds what sociIndex keeps.
const maxSOCIIndexes = 16

// manifest reads a manifest by its digest from the repository of ref.
func (c *Catalog) manifest(ctx context.Context, ref string, d digest.Digest) ([]byte, error) {
	fetcher, ok := c.source.(source.Fetcher)
	if !ok {
		return nil, fserr.Newf(fserr.Unsupported, "read", ref, "the source has no manifests")
	}
	name, err := source.WithDigest(ref, d)
	if err != nil {
		return nil, err
	}
	_, data, err := fetcher.FetchManifest(ctx, name)
	return data, err
}
