package image

import (
	"context"
	"sync"
	"time"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/soci"
	"github.com/nineply/nineply/internal/source"
)

const (
	// maxEarly bounds the tables of contents that are fetched before anybody asks.
	maxEarly = 128
	// maxEarlyBytes bounds those that wait for being asked for, bytes.
	maxEarlyBytes = 64 << 20
	// earlyLife is how long they wait.
	earlyLife = 30 * time.Second
)

// earlyTOCs are tables of contents on their way, or here, that nobody has asked
// for yet: an image's manifest says of them all, and its config, which is needed
// too, is as far away as they are.
type earlyTOCs struct {
	mu    sync.Mutex
	tocs  map[layerID]*earlyTOC
	bytes int64 // of those that are here
}

// earlyTOC is one of them. What it brings is valid when done is closed.
type earlyTOC struct {
	done   chan struct{}
	begun  time.Time
	packed []byte
	footer estargz.Footer
	err    error
}

// add makes room for one; nil if there is none, or it is known.
func (e *earlyTOCs) add(id layerID, now time.Time) *earlyTOC {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, t := range e.tocs {
		if now.Sub(t.begun) > earlyLife {
			e.removeLocked(id)
		}
	}
	if e.tocs[id] != nil || len(e.tocs) >= maxEarly {
		return nil
	}
	if e.tocs == nil {
		e.tocs = map[layerID]*earlyTOC{}
	}
	t := &earlyTOC{done: make(chan struct{}), begun: now}
	e.tocs[id] = t
	return t
}

// arrived ends the way of one. If nobody waits and there is no room, it is lost.
func (e *earlyTOCs) arrived(id layerID, t *earlyTOC, packed []byte, footer estargz.Footer, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t.packed, t.footer, t.err = packed, footer, err
	close(t.done)
	if e.tocs[id] != t {
		return
	}
	e.bytes += int64(len(packed))
	if err != nil || e.bytes > maxEarlyBytes {
		e.removeLocked(id)
	}
}

// take gives one away; nil if there is none.
func (e *earlyTOCs) take(id layerID) *earlyTOC {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.tocs[id]
	e.removeLocked(id)
	return t
}

func (e *earlyTOCs) removeLocked(id layerID) {
	t := e.tocs[id]
	if t == nil {
		return
	}
	select {
	case <-t.done:
		e.bytes -= int64(len(t.packed))
	default: // not counted yet
	}
	delete(e.tocs, id)
}

// wait gives what an early request brought.
func (t *earlyTOC) wait(ctx context.Context) ([]byte, estargz.Footer, error) {
	select {
	case <-t.done:
		return t.packed, t.footer, t.err
	case <-ctx.Done():
		return nil, estargz.Footer{}, fserr.New(fserr.KindOf(ctx.Err()), "read", "TOC", ctx.Err())
	}
}

// readEarly asks for the tables of contents of an image's layers, where the
// manifest vouches for one and there is no index that will be used instead.
func (c *Catalog) readEarly(im *source.Image) {
	rec := imageRecord{Ref: im.Ref, Manifest: im.Digest.String(), Layers: im.Manifest.Layers, SOCI: im.Descriptor.Annotations[soci.AnnotationIndexDigest]}
	wants, err := rec.wants()
	if err != nil {
		return // whoever opens the layers will say so
	}
	for _, w := range wants {
		claim, reason := claimOf(*w.desc)
		if reason != "" || c.hasIndex(c.ctx, w) {
			continue
		}
		id := layerID{blob: w.digest, vouch: claimVouch(claim)}
		t := c.early.add(id, time.Now())
		if t == nil {
			continue
		}
		started := c.goBackground(func(ctx context.Context) { c.fetchEarly(ctx, w, id, claim, t) })
		if !started {
			c.early.arrived(id, t, nil, estargz.Footer{}, fserr.New(fserr.Closed, "catalog", "", nil))
		}
	}
}

// hasIndex reports whether a layer was opened before, and will be by the same index.
func (c *Catalog) hasIndex(ctx context.Context, w want) bool {
	for _, id := range w.ids() {
		var rec layerRecord
		if c.load(ctx, keyLayer+id.String(), &rec) == nil && c.serves(w, id, &rec) {
			return true
		}
	}
	return false
}

func (c *Catalog) fetchEarly(ctx context.Context, w want, id layerID, claim estargz.Claim, t *earlyTOC) {
	var packed []byte
	var footer estargz.Footer
	blob, err := c.source.Blob(ctx, w.ref, *w.desc)
	if err == nil {
		packed, footer, err = c.tocRequest(w.ref, blob, w.digest, claim).fetch(ctx)
	}
	c.early.arrived(id, t, packed, footer, err)
}

// fetchTOC gives a layer's compressed TOC: the one that was asked for early, if
// that came.
func (c *Catalog) fetchTOC(ctx context.Context, ref string, blob source.Blob, id layerID, claim estargz.Claim) ([]byte, estargz.Footer, error) {
	if t := c.early.take(id); t != nil {
		if packed, footer, err := t.wait(ctx); err == nil || ctx.Err() != nil {
			return packed, footer, err
		}
	}
	return c.tocRequest(ref, blob, id.blob, claim).fetch(ctx)
}

func (c *Catalog) tocRequest(ref string, blob source.Blob, d estargz.Digest, claim estargz.Claim) *tocRequest {
	return &tocRequest{src: c.source, ref: ref, blob: blob, digest: d, claim: claim, fetched: func(n int64) { c.tocBytes.Add(n) }}
}
