package image

import (
	"context"
	"errors"
	"fmt"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"go.uber.org/zap"
)

// A chain ID is a claim of an image's config. The first image that makes it decides
// which blob the chain is served from, and by which table of contents; both are in
// the chain's record. An image that claims the same chain ID for other bytes may be
// another compression of the same files, or one of the two lies. What is served is
// then read to its end, once, before the second image gets it.

// prove reads a layer to its end, if that was not done yet, and fails if it is not what
// an image claims. It may take as long as fetching the layer whole.
func (c *Catalog) prove(ctx context.Context, l *Layer, claim string) error {
	v, err := c.fill.demand(ctx, l)
	if err != nil {
		return fmt.Errorf("verifying layer %s: %w", l.id.blob, err)
	}
	if reason := v.mismatch(claim); reason != "" {
		c.fill.condemn(l.id, reason)
		return poisonError(l.id, reason)
	}
	return nil
}

// proveAll is prove for the layers of a tree, where nothing unproven is to be used.
func (c *Catalog) proveAll(ctx context.Context, layers []*Layer, claims []string) error {
	if !c.strict {
		return nil
	}
	for i, l := range layers {
		if err := c.prove(ctx, l, claims[i]); err != nil {
			return err
		}
	}
	return nil
}

// sharedChain looks whether the layer of an image may be served from what is recorded
// for a chain, which it may if it is the same blob read in the same way, or if what is
// recorded proves to be what the chain ID says. found is false if nothing is recorded.
func (c *Catalog) sharedChain(ctx context.Context, id string, w want) (info LayerInfo, found bool, err error) {
	var old chainRecord
	if err := c.load(ctx, keyChain+id, &old); err != nil {
		if fserr.Is(err, fserr.NotExist) {
			err = nil
		}
		return LayerInfo{}, false, err
	}
	was, err := old.id()
	if err != nil {
		return LayerInfo{}, false, err
	}
	if w.accepts(was) {
		return LayerInfo{}, false, nil
	}
	c.log.Warn("an image names other bytes for a chain that is known: what is known is verified",
		zap.String("chain", id), zap.String("image", w.ref), zap.Stringer("layer", w.digest), zap.Stringer("known", was))
	l, err := c.acquire(ctx, want{digest: was.blob, vouch: was.vouch})
	if err != nil {
		return LayerInfo{}, false, err
	}
	defer c.release(l)
	if err := c.prove(ctx, l, old.DiffID); err != nil {
		return LayerInfo{}, false, fmt.Errorf("chain %s is known with another layer: %w", id, err)
	}
	if old.DiffID != w.diffID {
		return LayerInfo{}, false, fserr.Newf(fserr.Busy, "chain", id, "known with diff ID %s, and %s claims it for %s", old.DiffID, w.ref, w.diffID)
	}
	return c.infoOf(l), true, nil
}

// CheckImage asks before an image is pulled whether one of its chain IDs is known with
// other bytes, and has those verified. Kind Corrupt says that the image would get files
// that are not its own: the image that brought them has to be removed first. manifest is
// the digest of the manifest or of the image index that ref stands for.
func (c *Catalog) CheckImage(ctx context.Context, ref, manifest string) error {
	if manifest != "" {
		if _, err := parseDigest("manifest", manifest); err != nil {
			return err
		}
	}
	rec, err := c.resolve(ctx, withDigest(ref, manifest))
	if err != nil {
		return err
	}
	wants, err := rec.wants()
	if err != nil {
		return err
	}
	var diffs []digest.Digest
	for i, w := range wants {
		d, err := digest.Parse(rec.DiffIDs[i])
		if err != nil {
			return fserr.Newf(fserr.Corrupt, "check", rec.Ref, "diff ID %q: %w", rec.DiffIDs[i], err)
		}
		diffs = append(diffs, d)
		// ChainID works in place.
		chain := identity.ChainID(append([]digest.Digest(nil), diffs...)).String()
		if _, _, err := c.sharedChain(ctx, chain, w); err != nil {
			return err
		}
	}
	return nil
}

// demand has a layer read to its end now, whatever else waits, and gives what came of
// it.
func (f *filler) demand(ctx context.Context, l *Layer) (*verdict, error) {
	ctx, leave, err := f.c.foreground(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	for {
		v := f.c.verdict(ctx, l)
		if v.settled() {
			return v, nil
		}
		j, ended, mine := f.take(l)
		if mine {
			err := f.read(ctx, j)
			f.finish(j, err)
			if err != nil {
				return nil, err
			}
			if v := f.c.verdict(ctx, l); v.settled() {
				return v, nil
			}
			return nil, fserr.Newf(fserr.Unsupported, "verify", "layer "+l.id.blob.String(), "it cannot be read from its start to its end")
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, fserr.New(fserr.KindOf(ctx.Err()), "verify", "layer "+l.id.blob.String(), ctx.Err())
		}
	}
}

// take makes a job for a layer that the caller has to do, or finds the one that is
// being done, which is hurried.
func (f *filler) take(l *Layer) (j *job, ended chan struct{}, mine bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if j = f.jobs[l.id]; j != nil && j.ended != nil {
		j.urgent.Store(true)
		return j, j.ended, false
	}
	if j == nil {
		j = &job{id: l.id, size: l.rec.Desc.Size}
		f.jobs[l.id] = j
		f.order = append(f.order, l.id)
	}
	j.urgent.Store(true)
	j.state, j.reason, j.ended = FillRunning, "", make(chan struct{})
	return j, j.ended, true
}

// finish ends a job that take gave. One that failed is left to the background, if it is
// on.
func (f *filler) finish(j *job, err error) {
	f.mu.Lock()
	close(j.ended)
	j.ended = nil
	j.urgent.Store(false)
	again := err != nil && f.Enabled && f.jobs[j.id] == j
	if again {
		j.state = FillWaiting
	} else {
		f.dropLocked(j)
	}
	f.mu.Unlock()
	if again {
		f.poke()
	}
}

// foreground gives a context that ends with the catalog too, which does not close before
// leave was called.
func (c *Catalog) foreground(ctx context.Context) (_ context.Context, leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, fserr.New(fserr.Closed, "catalog", "", errors.New("it is closing"))
	}
	c.wg.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
		c.wg.Done()
	}, nil
}
