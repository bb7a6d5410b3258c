package image

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
)

// layerID tells apart what one blob is opened by. Two images may have the same
// blob and different things to say of what is in it, and what one says must not
// reach who uses the other.
type layerID struct {
	blob estargz.Digest
	// vouch is the digest of what vouches for the index: a TOC, a SOCI index, or the
	// manifest of an image by way of what refers to it. It is zero when the index was
	// made from the blob itself, read whole and found to have its digest.
	vouch estargz.Digest
}

func plainID(d estargz.Digest) layerID { return layerID{blob: d} }

// String is the end of the record's key.
func (id layerID) String() string {
	if id.vouch.IsZero() {
		return id.blob.String()
	}
	return id.blob.String() + "+" + id.vouch.String()
}

// file is the name of the layer's files, without the ending.
func (id layerID) file() string {
	if id.vouch.IsZero() {
		return hex.EncodeToString(id.blob[:])
	}
	return hex.EncodeToString(id.blob[:]) + "-" + hex.EncodeToString(id.vouch[:])
}

// claimVouch is what vouches for a layer that is opened by its TOC.
func claimVouch(c estargz.Claim) estargz.Digest {
	if c.TOC.IsZero() {
		return c.Packed
	}
	return c.TOC
}

// ids lists what the layer may be opened as, the most trusted first.
func (w want) ids() []layerID {
	if w.desc == nil {
		return []layerID{{blob: w.digest, vouch: w.vouch}}
	}
	var ids []layerID
	if claim, reason := claimOf(*w.desc); reason == "" {
		ids = append(ids, layerID{blob: w.digest, vouch: claimVouch(claim)})
	}
	ids = append(ids, plainID(w.digest))
	for _, text := range []string{w.soci, w.manifest} {
		if d, err := estargz.ParseDigest(text); err == nil {
			ids = append(ids, layerID{blob: w.digest, vouch: d})
		}
	}
	return ids
}

// accepts reports whether the layer may be opened as id.
func (w want) accepts(id layerID) bool {
	if w.desc == nil {
		return id.blob == w.digest // made anew of what the record says
	}
	for _, own := range w.ids() {
		if own == id {
			return true
		}
	}
	return false
}

// knowsMore reports whether a layer that is not lazy may be so by a TOC that nobody
// vouched for when it was read whole.
func (w want) knowsMore(rec *layerRecord) bool {
	if w.desc == nil || isLazy(rec.Format) {
		return false
	}
	_, now := claimOf(*w.desc)
	_, then := claimOf(rec.Desc)
	return now == "" && then != ""
}

// serves reports whether the index that is recorded for id may be used for a layer.
func (c *Catalog) serves(w want, id layerID, rec *layerRecord) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return rec.Refused == "" && !c.givenUp[id] && c.trust.allows(rec) && !w.knowsMore(rec)
}

// open opens a layer by the index it has, or makes one.
func (c *Catalog) open(ctx context.Context, w want) (*Layer, error) {
	ids := w.ids()
	if w.any {
		ids = c.recorded(ctx, w.digest)
	}
	err := fserr.New(fserr.NotExist, "layer", w.digest.String(), nil)
	var last *layerRecord
	for _, id := range ids {
		rec := new(layerRecord)
		if lerr := c.load(ctx, keyLayer+id.String(), rec); lerr != nil {
			err = fserr.New(fserr.NotExist, "layer", w.digest.String(), lerr)
			continue
		}
		last = rec
		if !c.serves(w, id, rec) {
			continue
		}
		l, oerr := c.reopen(ctx, id, *rec)
		if oerr == nil {
			return l, nil
		}
		c.log.Warn("layer index is made anew", zap.Stringer("layer", id), zap.Error(oerr))
	}
	if w.desc == nil && last == nil {
		return nil, err
	}
	if w.desc == nil {
		w = want{ref: last.Ref, digest: w.digest, desc: &last.Desc, diffID: last.DiffID, manifest: last.Manifest, soci: last.SOCI}
	}
	return c.make(ctx, w)
}

// recorded lists what a blob was opened as before.
func (c *Catalog) recorded(ctx context.Context, d estargz.Digest) []layerID {
	ids := []layerID{plainID(d)}
	err := c.records.Walk(ctx, keyLayer+d.String()+"+", func(key string, _ []byte) error {
		vouch, err := estargz.ParseDigest(key[len(keyLayer)+len(d.String())+1:])
		if err != nil {
			return err
		}
		ids = append(ids, layerID{blob: d, vouch: vouch})
		return nil
	})
	if err != nil {
		c.log.Warn("listing layers", zap.Error(err))
	}
	return ids
}

// reopen opens a layer whose index was made before.
func (c *Catalog) reopen(ctx context.Context, id layerID, rec layerRecord) (*Layer, error) {
	index, err := layerindex.Open(c.layerPath(id))
	if err != nil {
		return nil, err
	}
	return c.bind(ctx, id, index, rec)
}

// make makes a layer's index, records and opens it.
func (c *Catalog) make(ctx context.Context, w want) (*Layer, error) {
	id, rec, err := c.build(ctx, w)
	if err != nil {
		return nil, err
	}
	rec.Manifest, rec.SOCI = w.manifest, w.soci
	if err := c.save(ctx, keyLayer+id.String(), rec); err != nil {
		return nil, err
	}
	return c.reopen(ctx, id, rec)
}

// bind connects an index with the source of its bytes.
func (c *Catalog) bind(ctx context.Context, id layerID, index *layerindex.Index, rec layerRecord) (*Layer, error) {
	d := id.blob
	blob, err := c.source.Blob(ctx, rec.Ref, rec.Desc)
	if err != nil {
		return nil, errors.Join(err, index.Close())
	}
	l := &Layer{id: id, index: index, rec: rec}
	name := rec.Ref + " layer " + d.String()
	if rec.Origin != "" {
		l.distrust = func(err error) { c.distrust(id, err) }
	}
	switch format := index.Info().Format; format {
	case layerindex.FormatEStargz, layerindex.FormatZstdChunked:
		l.bytes = c.sched.NewLayer(name, blob, index)
		return l, nil
	case layerindex.FormatTar:
		l.bytes = c.sched.NewSpanLayer(name, blob, fetch.Plain{}, index)
		return l, nil
	case layerindex.FormatSOCI:
		if err := c.bindSOCI(l, name, blob); err != nil {
			return nil, errors.Join(err, l.close())
		}
		return l, nil
	case layerindex.FormatSpans:
		if l.spans, err = openSpans(c.spansPath(id), d, blob.Size()); err == nil {
			l.bytes = c.sched.NewSpanLayer(name, blob, l.spans, index)
			return l, nil
		}
		if !id.vouch.IsZero() {
			return nil, errors.Join(err, index.Close())
		}
		c.log.Warn("no checkpoints, the layer is read whole once more when needed", zap.Stringer("layer", d), zap.Error(err))
		l.rec.Format, l.rec.Reason = formatWhole, "its checkpoints are lost: "+err.Error()
	}
	l.bytes = c.sched.NewStreamLayer(name, &wholeLayer{c: c, blob: blob, desc: rec.Desc, index: index}, index)
	return l, nil
}

// build makes the index file of a layer: from its TOC where the manifest vouches
// for one, from an index that lies beside the image, else by reading the layer
// whole.
func (c *Catalog) build(ctx context.Context, w want) (id layerID, rec layerRecord, err error) {
	desc := *w.desc
	rec = layerRecord{Ref: w.ref, Desc: desc}
	select {
	case c.building <- struct{}{}:
		defer func() { <-c.building }()
	case <-ctx.Done():
		return id, rec, ctx.Err()
	}
	if strings.HasSuffix(desc.MediaType, "+encrypted") {
		return id, rec, fserr.Newf(fserr.Unsupported, "open", "", "media type %s: encrypted layers cannot be read", desc.MediaType)
	}
	blob, err := c.source.Blob(ctx, w.ref, desc)
	if err != nil {
		return id, rec, err
	}
	claim, reason := claimOf(desc)
	if rec.Reason = reason; reason == "" {
		rec.Format, err = c.indexTOC(ctx, w.ref, blob, w.digest, claim)
		if err == nil {
			return layerID{blob: w.digest, vouch: claimVouch(claim)}, rec, nil
		}
		if !unusable(err) {
			return id, rec, err
		}
		rec.Reason = err.Error()
	}
	id, found, err := c.indexBeside(ctx, w, blob, &rec)
	if err != nil || found {
		return id, rec, err
	}
	c.log.Info("layer is read whole", zap.String("image", w.ref), zap.Stringer("layer", w.digest), zap.String("reason", rec.Reason))
	return plainID(w.digest), rec, c.indexWhole(ctx, blob, w.digest, &rec, w.diffID)
}

// unusable reports whether an index or a TOC is to blame for an error, so that the
// layer may still be read without it.
func unusable(err error) bool {
	switch fserr.KindOf(err) {
	case fserr.Corrupt, fserr.TooLarge, fserr.Unsupported, fserr.Invalid:
		return true
	}
	return false
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
