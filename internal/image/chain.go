package image

import (
	"context"
	"fmt"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"go.uber.org/zap"
)

// LayerRequest names one layer of an image on top of a chain.
type LayerRequest struct {
	Ref      string // image reference
	Manifest string // digest of its manifest, when known
	Digest   string // of the layer's blob
	ChainID  string // of the chain that ends in this layer
	Parent   string // chain ID below; "" for the bottom layer
	DiffID   string // that the chain ID stands for, when known
}

// AddLayer makes a layer servable and records the chain it ends. All layers of
// its image are opened meanwhile, since the next ones will be asked for.
func (c *Catalog) AddLayer(ctx context.Context, r LayerRequest) (LayerInfo, error) {
	info, err := c.addLayer(ctx, r)
	if kind := fserr.KindOf(err); err != nil && (kind == fserr.Unsupported || kind == fserr.TooLarge) {
		c.fill.Event(Event{Time: time.Now(), Kind: EventRefused, Layer: r.Digest, Text: err.Error()})
	}
	return info, err
}

func (c *Catalog) addLayer(ctx context.Context, r LayerRequest) (LayerInfo, error) {
	if _, err := parseDigest("layer", r.Digest); err != nil {
		return LayerInfo{}, err
	}
	if _, err := parseDigest("chain", r.ChainID); err != nil {
		return LayerInfo{}, err
	}
	if err := c.checkChain(ctx, r); err != nil {
		return LayerInfo{}, err
	}
	rec, i, err := c.imageOf(ctx, r.Ref, r.Manifest, r.Digest)
	if err != nil {
		return LayerInfo{}, err
	}
	if r.DiffID != "" && rec.DiffIDs[i] != r.DiffID {
		return LayerInfo{}, fserr.Newf(fserr.Corrupt, "layer", r.Digest, "the chain ID stands for diff ID %s, the config of %s says %s", r.DiffID, r.Ref, rec.DiffIDs[i])
	}
	rec = c.withSOCI(ctx, rec, r.Ref)
	wants, err := rec.wants()
	if err != nil {
		return LayerInfo{}, err
	}
	for i := range wants {
		wants[i].ref = withTag(wants[i].ref, r.Ref)
	}
	if info, found, err := c.sharedChain(ctx, r.ChainID, wants[i]); err != nil || found {
		return info, err
	}
	c.warm(wants, c.pulled(rec))
	l, err := c.acquire(ctx, wants[i])
	if err != nil {
		return LayerInfo{}, err
	}
	defer c.release(l)
	claim := rec.DiffIDs[i : i+1]
	if err := c.proveAll(ctx, []*Layer{l}, claim); err != nil {
		return LayerInfo{}, err
	}
	if err := c.judge(ctx, []*Layer{l}, claim); err != nil {
		return LayerInfo{}, err
	}
	r.DiffID = rec.DiffIDs[i]
	if err := c.saveChain(ctx, r, l); err != nil {
		return LayerInfo{}, err
	}
	c.fill.want(ctx, l)
	return c.infoOf(l), nil
}

// saveChain records a chain. What is recorded already stays, unless the layer was
// read whole meanwhile: nothing is surer than that.
func (c *Catalog) saveChain(ctx context.Context, r LayerRequest, l *Layer) error {
	id := l.id
	rec := chainRecord{Layer: r.Digest, Parent: r.Parent, DiffID: r.DiffID}
	if c.verdict(ctx, l).DiffID != "" { // and it was judged
		rec.State = FillVerified
	}
	if !id.vouch.IsZero() {
		rec.Vouch = id.vouch.String()
		if err := c.load(ctx, keyChain+r.ChainID, new(chainRecord)); err == nil {
			return nil
		}
	}
	return c.save(ctx, keyChain+r.ChainID, rec)
}

// checkChain refuses a layer whose chain below is not known, or is another one than
// the chain ID was known with.
func (c *Catalog) checkChain(ctx context.Context, r LayerRequest) error {
	if r.Parent != "" {
		if err := c.load(ctx, keyChain+r.Parent, new(chainRecord)); err != nil {
			return fmt.Errorf("the chain below: %w", err)
		}
	}
	var old chainRecord
	err := c.load(ctx, keyChain+r.ChainID, &old)
	switch {
	case fserr.Is(err, fserr.NotExist):
		return nil
	case err != nil:
		return err
	case old.Parent != r.Parent:
		return fserr.Newf(fserr.Busy, "chain", r.ChainID, "known on top of %q, not of %q", old.Parent, r.Parent)
	}
	return nil
}

// warm opens layers in the background, and has fetched what a profile names of
// them. Whoever needs one of them waits for the same work and sees its error.
func (c *Catalog) warm(wants []want, profiled func() *asked) {
	for i, w := range wants {
		c.goBackground(func(ctx context.Context) {
			l, err := c.acquire(ctx, w)
			if err != nil {
				c.log.Debug("layer not opened ahead", zap.Stringer("layer", w.digest), zap.Error(err))
				return
			}
			profiled().layer(i, l)
			c.release(l)
		})
	}
}

// RemoveChain forgets a chain. Its layers stay open and cached as long as other
// chains or attaches use them, or until space is needed.
func (c *Catalog) RemoveChain(ctx context.Context, id string) error {
	if _, err := parseDigest("chain", id); err != nil {
		return err
	}
	var rec chainRecord
	if err := c.load(ctx, keyChain+id, &rec); err != nil {
		if fserr.Is(err, fserr.NotExist) {
			return nil
		}
		return err
	}
	if err := c.records.Delete(ctx, keyChain+id); err != nil && !fserr.Is(err, fserr.NotExist) {
		return err
	}
	return c.forget(ctx, &rec)
}
