package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
)

// maxIdle is how many layers, and how many trees, stay open without users.
const maxIdle = 256

// maxBuilding is how many layers are indexed at once. Each needs a request, and
// a layer that is read whole the memory of a decompressor.
const maxBuilding = 8

// The formats a layer can have, as records and reports name them.
const (
	formatEStargz     = "estargz"
	formatZstdChunked = "zstd:chunked"
	formatGzipIndex   = "gzip+index"
	formatTarIndex    = "tar+index"
	formatWhole       = "whole" // read whole, whatever its compression
)

func isLazy(format string) bool { return format != formatWhole }

// Layer is one open layer: its index and the way to its bytes.
type Layer struct {
	digest estargz.Digest
	index  *layerindex.Index
	bytes  *fetch.Layer
	spans  *spans // of a layer that is reached through checkpoints
	rec    layerRecord

	// Guarded by Catalog.mu.
	users int
	used  time.Time
}

func (l *Layer) info() LayerInfo {
	local, total := l.bytes.Local()
	return LayerInfo{
		Digest: l.digest.String(), Lazy: isLazy(l.rec.Format), Reason: l.rec.Reason, Format: l.rec.Format,
		Size: l.rec.Desc.Size, Fetched: l.bytes.Fetched(), Files: int64(l.index.NumNodes()), Local: local, Chunks: total,
	}
}

// acquire opens a layer, or finds it open, and counts a user. desc may be nil
// for a layer that was opened before, in this or an earlier run.
func (c *Catalog) acquire(ctx context.Context, ref string, d estargz.Digest, desc *ocispec.Descriptor, diffID string) (*Layer, error) {
	for {
		c.mu.Lock()
		if l := c.layers[d]; l != nil {
			l.users++
			c.mu.Unlock()
			return l, nil
		}
		c.mu.Unlock()
		_, err := share(ctx, c, c.opens, d, func(ctx context.Context) (*Layer, error) {
			l, err := c.open(ctx, ref, d, desc, diffID)
			if err != nil {
				return nil, fmt.Errorf("layer %s of %s: %w", d, ref, err)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			l.used = time.Now()
			c.layers[d] = l
			return l, nil
		})
		if err != nil {
			return nil, err
		}
	}
}

// release takes back one user and closes layers that have been idle longest when
// too many are.
func (c *Catalog) release(layers ...*Layer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range layers {
		l.users--
		l.used = time.Now()
	}
	for idle := c.idleLayersLocked(); len(idle) > maxIdle; idle = idle[1:] {
		delete(c.layers, idle[0].digest)
		c.closeLayer(idle[0])
	}
}

// close lets go of the layer's files.
func (l *Layer) close() error {
	if l.spans == nil {
		return l.index.Close()
	}
	return errors.Join(l.index.Close(), l.spans.file.Close())
}

func (c *Catalog) closeLayer(l *Layer) {
	if err := l.close(); err != nil {
		c.log.Warn("closing a layer", zap.Stringer("layer", l.digest), zap.Error(err))
	}
}

func (c *Catalog) closeIndex(x *layerindex.Index) {
	if err := x.Close(); err != nil {
		c.log.Warn("closing an index", zap.Error(err))
	}
}

// open makes the index of a layer if there is none, and opens it.
func (c *Catalog) open(ctx context.Context, ref string, d estargz.Digest, desc *ocispec.Descriptor, diffID string) (*Layer, error) {
	var rec layerRecord
	err := c.load(ctx, keyLayer+d.String(), &rec)
	if err == nil {
		index, oerr := layerindex.Open(c.layerPath(d))
		if oerr == nil {
			return c.bind(ctx, d, index, rec)
		}
		c.log.Warn("layer index is made anew", zap.Stringer("layer", d), zap.Error(oerr))
		if desc == nil {
			desc = &rec.Desc
			ref = rec.Ref
		}
	}
	if desc == nil {
		return nil, fserr.New(fserr.NotExist, "layer", d.String(), err)
	}
	rec, err = c.build(ctx, ref, d, *desc, diffID)
	if err != nil {
		return nil, err
	}
	if err := c.save(ctx, keyLayer+d.String(), rec); err != nil {
		return nil, err
	}
	index, err := layerindex.Open(c.layerPath(d))
	if err != nil {
		return nil, err
	}
	return c.bind(ctx, d, index, rec)
}

// bind connects an index with the source of its bytes.
func (c *Catalog) bind(ctx context.Context, d estargz.Digest, index *layerindex.Index, rec layerRecord) (*Layer, error) {
	blob, err := c.source.Blob(ctx, rec.Ref, rec.Desc)
	if err != nil {
		return nil, errors.Join(err, index.Close())
	}
	l := &Layer{digest: d, index: index, rec: rec}
	name := rec.Ref + " layer " + d.String()
	switch format := index.Info().Format; format {
	case layerindex.FormatEStargz, layerindex.FormatZstdChunked:
		l.bytes = c.sched.NewLayer(name, blob, index)
		return l, nil
	case layerindex.FormatTar:
		l.bytes = c.sched.NewSpanLayer(name, blob, fetch.Plain{}, index)
		return l, nil
	case layerindex.FormatSpans:
		if l.spans, err = openSpans(c.spansPath(d), d, blob.Size()); err == nil {
			l.bytes = c.sched.NewSpanLayer(name, blob, l.spans, index)
			return l, nil
		}
		c.log.Warn("no checkpoints, the layer is read whole once more when needed", zap.Stringer("layer", d), zap.Error(err))
		l.rec.Format, l.rec.Reason = formatWhole, "its checkpoints are lost: "+err.Error()
	}
	l.bytes = c.sched.NewStreamLayer(name, &wholeLayer{c: c, blob: blob, desc: rec.Desc, index: index}, index)
	return l, nil
}

// build makes the index file of a layer: from its TOC where the manifest vouches
// for one, else by reading the layer whole.
func (c *Catalog) build(ctx context.Context, ref string, d estargz.Digest, desc ocispec.Descriptor, diffID string) (layerRecord, error) {
	rec := layerRecord{Ref: ref, Desc: desc}
	select {
	case c.building <- struct{}{}:
		defer func() { <-c.building }()
	case <-ctx.Done():
		return rec, ctx.Err()
	}
	if strings.HasSuffix(desc.MediaType, "+encrypted") {
		return rec, fserr.Newf(fserr.Unsupported, "open", "", "media type %s: encrypted layers cannot be read", desc.MediaType)
	}
	blob, err := c.source.Blob(ctx, ref, desc)
	if err != nil {
		return rec, err
	}
	claim, reason := claimOf(desc)
	rec.Reason = reason
	if rec.Reason == "" {
		rec.Format, err = c.indexTOC(ctx, ref, blob, d, claim)
		if err == nil {
			return rec, nil
		}
		if kind := fserr.KindOf(err); kind != fserr.Corrupt && kind != fserr.TooLarge && kind != fserr.Unsupported {
			return rec, err
		}
		rec.Reason = err.Error()
	}
	c.log.Info("layer is read whole", zap.String("image", ref), zap.Stringer("layer", d), zap.String("reason", rec.Reason))
	return rec, c.indexWhole(ctx, blob, d, &rec, diffID)
}

// claimOf gives what the manifest says of a layer's TOC, or the reason why the
// layer cannot be opened by one. Without a claim nothing ties a TOC to the image.
func claimOf(desc ocispec.Descriptor) (claim estargz.Claim, reason string) {
	claim, err := estargz.ClaimOf(desc.Annotations)
	switch {
	case err != nil:
		return claim, err.Error()
	case claim.None():
		return claim, "no TOC digest in the manifest"
	}
	return claim, ""
}
