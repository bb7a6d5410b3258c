package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"go.uber.org/zap"
)

// The kinds of events.
const (
	EventVerified   = "verified"   // a layer was read to its end and is what was claimed
	EventPoisoned   = "poisoned"   // a layer is not what was claimed, and is not served any more
	EventUnverified = "unverified" // a layer could not be verified
	EventRefused    = "refused"    // a layer cannot be read here, whoever asked has to fetch it
)

// Event is something that happened to a layer and that an operator may want to know.
type Event struct {
	Time  time.Time
	Kind  string
	Layer string // digest of the blob
	Text  string
}

// verdict is what came of reading all of a layer. It is about the bytes and the
// index that is used for them, not about what an image claims of them.
type verdict struct {
	DiffID string    `json:"diffID,omitempty"` // of the tar, which the index describes
	Wrong  string    `json:"wrong,omitempty"`  // why the layer must not be served
	Index  string    `json:"index,omitempty"`  // digest of the index beside the image that it is about, if there is one
	At     time.Time `json:"at"`
}

func (v *verdict) settled() bool { return v.DiffID != "" || v.Wrong != "" }

// found is what is known of a layer without looking into records.
func (l *Layer) found() *verdict {
	if v := l.verdict.Load(); v != nil {
		return v
	}
	if l.id.vouch.IsZero() { // its index was made of the tar, which was hashed then
		return &verdict{DiffID: l.rec.DiffID}
	}
	return &verdict{}
}

// verdict is what is known of a layer.
func (c *Catalog) verdict(ctx context.Context, l *Layer) *verdict {
	if v := l.found(); v.settled() {
		return v
	}
	v := new(verdict)
	switch err := c.load(ctx, keyFill+l.id.String(), v); {
	case err == nil && v.settled() && v.Index == l.rec.Index:
		l.verdict.Store(v)
		return v
	case err != nil && !fserr.Is(err, fserr.NotExist) && ctx.Err() == nil:
		c.log.Warn("what is known of a layer cannot be read", zap.Stringer("layer", l.id), zap.Error(err))
	}
	return &verdict{}
}

// mismatch says what is wrong with a layer that an image claims to have a DiffID, ""
// if the claim is not known; "" if nothing is known to be wrong.
func (v *verdict) mismatch(claim string) string {
	switch {
	case v.Wrong != "":
		return v.Wrong
	case v.DiffID != "" && claim != "" && v.DiffID != claim:
		return fmt.Sprintf("its tar has diff ID %s, and the image's config says %s", v.DiffID, claim)
	}
	return ""
}

// judge fails for layers of which one is known to be wrong.
func (c *Catalog) judge(ctx context.Context, layers []*Layer, claims []string) error {
	for i, l := range layers {
		if reason := c.verdict(ctx, l).mismatch(claims[i]); reason != "" {
			c.fill.condemn(l.id, reason)
			return poisonError(l.id, reason)
		}
	}
	return nil
}

func poisonError(id layerID, reason string) error {
	return fserr.Newf(fserr.Corrupt, "serve", "layer "+id.blob.String(), "poisoned: %s", reason)
}

// poisoned is why a tree must not be read any more.
type poisoned struct{ err error }

// check fails when the tree is poisoned. It costs a load.
func (t *treeState) check() error {
	if p := t.poison.Load(); p != nil {
		return p.err
	}
	return nil
}

// claims gives the DiffIDs that are claimed of layers to be opened.
func claims(wants []want) []string {
	list := make([]string, len(wants))
	for i, w := range wants {
		list[i] = w.diffID
	}
	return list
}

// condemn notes that a layer is wrong, and tells of it the first time.
func (f *filler) condemn(id layerID, reason string) {
	f.mu.Lock()
	_, known := f.wrong[id]
	f.wrong[id] = reason
	f.mu.Unlock()
	if known {
		return
	}
	f.c.log.Error("a layer is not what its image claims, it is not served any more", zap.Stringer("layer", id), zap.String("reason", reason))
	f.Event(Event{Time: time.Now(), Kind: EventPoisoned, Layer: id.blob.String(), Text: reason})
}

// settle keeps what came of reading a layer, and has everybody feel it: the trees in
// use, and the chains.
func (f *filler) settle(ctx context.Context, l *Layer, v *verdict) error {
	v.At, v.Index = time.Now().UTC(), l.rec.Index
	if err := f.c.save(ctx, keyFill+l.id.String(), v); err != nil {
		return err
	}
	l.verdict.Store(v)
	if v.Wrong == "" {
		f.verified.Add(1)
		f.Event(Event{Time: v.At, Kind: EventVerified, Layer: l.id.blob.String(), Text: "diff ID " + v.DiffID})
	}
	for t, claim := range f.treesOf(l.id) {
		if reason := v.mismatch(claim); reason != "" {
			t.poison.Store(&poisoned{poisonError(l.id, reason)})
			f.condemn(l.id, reason)
		}
	}
	if v.Wrong != "" {
		f.condemn(l.id, v.Wrong)
		if l.distrust != nil { // whoever opens the layer next gets it without that index
			l.distrust(poisonError(l.id, v.Wrong))
		}
	}
	return f.markChains(ctx, l.id, v)
}

// treesOf lists the trees in use that have a layer, with what they claim of it.
func (f *filler) treesOf(id layerID) map[*treeState]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	trees := map[*treeState]string{}
	for t := range f.attached {
		i := slices.IndexFunc(t.layers, func(l *Layer) bool { return l.id == id })
		if i >= 0 {
			trees[t] = t.claims[i]
		}
	}
	return trees
}

// markChains records what was found in the chains that end in the layer.
func (f *filler) markChains(ctx context.Context, id layerID, v *verdict) error {
	chains := map[string]*chainRecord{}
	err := f.c.eachChain(ctx, func(chain string, rec *chainRecord) {
		if rec.isOf(id) {
			chains[chain] = rec
		}
	})
	if err != nil {
		return err
	}
	for chain, rec := range chains {
		rec.State, rec.Reason = FillVerified, v.mismatch(rec.DiffID)
		if rec.Reason != "" {
			rec.State = FillPoisoned
			f.condemn(id, rec.Reason)
		}
		if err := f.c.save(ctx, keyChain+chain, rec); err != nil {
			return err
		}
	}
	return nil
}

// eachChain calls fn with every chain.
func (c *Catalog) eachChain(ctx context.Context, fn func(id string, rec *chainRecord)) error {
	return c.records.Walk(ctx, keyChain, func(key string, val []byte) error {
		rec := new(chainRecord)
		if err := json.Unmarshal(val, rec); err != nil {
			return fserr.New(fserr.Corrupt, "record", key, err)
		}
		fn(key[len(keyChain):], rec)
		return nil
	})
}

func (r *chainRecord) isOf(id layerID) bool {
	vouch := ""
	if !id.vouch.IsZero() {
		vouch = id.vouch.String()
	}
	return r.Layer == id.blob.String() && r.Vouch == vouch
}

// id is the layer that the chain ends in.
func (r *chainRecord) id() (id layerID, err error) {
	if id.blob, err = parseDigest("layer", r.Layer); err != nil || r.Vouch == "" {
		return id, err
	}
	id.vouch, err = parseDigest("index", r.Vouch)
	return id, err
}

// forget drops what is held against the layer of a chain that was removed, if it was the
// last to use it. That it was verified stays true.
func (c *Catalog) forget(ctx context.Context, rec *chainRecord) error {
	id, err := rec.id()
	if err != nil {
		return err
	}
	f := c.fill
	var v verdict
	if err := c.load(ctx, keyFill+id.String(), &v); err != nil && !fserr.Is(err, fserr.NotExist) {
		return err
	}
	f.mu.Lock()
	held := f.jobs[id] != nil || f.wrong[id] != "" || v.Wrong != ""
	f.mu.Unlock()
	if !held || f.stillWanted(ctx, id) { // the first is quick, when many chains are removed
		return nil
	}
	f.mu.Lock()
	if j := f.jobs[id]; j != nil && !j.urgent.Load() {
		if j.cancel != nil {
			j.cancel()
		}
		f.dropLocked(j)
	}
	delete(f.wrong, id)
	f.mu.Unlock()
	if v.Wrong != "" {
		c.mu.Lock()
		if l := c.layers[id]; l != nil {
			l.verdict.Store(nil)
		}
		c.mu.Unlock()
		if err := c.records.Delete(ctx, keyFill+id.String()); err != nil && !fserr.Is(err, fserr.NotExist) {
			return err
		}
	}
	return f.clear(ctx, id)
}

// resume takes up what earlier runs left: layers of chains that are not verified, and
// those that are known to be wrong.
func (f *filler) resume(ctx context.Context) error {
	if err := f.prune(ctx); err != nil {
		return err
	}
	ids := map[layerID]string{} // with why they are wrong
	var order []layerID
	err := f.c.eachChain(ctx, func(_ string, rec *chainRecord) {
		id, err := rec.id()
		if err != nil {
			return // of another version
		}
		if _, ok := ids[id]; !ok {
			order = append(order, id)
		}
		ids[id] = max(ids[id], rec.Reason) // any of them, if there is one
	})
	if err != nil {
		return err
	}
	for _, id := range order {
		var v verdict
		if err := f.c.load(ctx, keyFill+id.String(), &v); err != nil && !fserr.Is(err, fserr.NotExist) {
			return err
		}
		var rec layerRecord
		if f.c.load(ctx, keyLayer+id.String(), &rec) != nil {
			continue
		}
		if v.Index != rec.Index {
			v = verdict{}
		}
		if reason := cmp.Or(v.Wrong, ids[id]); reason != "" {
			f.mu.Lock()
			f.wrong[id] = reason
			f.mu.Unlock()
			continue
		}
		if v.settled() || id.vouch.IsZero() && rec.DiffID != "" {
			continue
		}
		f.add(id, rec.Desc.Size)
	}
	return nil
}

// treeKey tells apart the trees of the same layers of which different things are
// claimed: one that is wrong must not reach who uses the other.
func treeKey(name string, claims []string) string {
	h := sha256.New()
	for _, claim := range claims {
		h.Write([]byte(claim + " "))
	}
	return name + " " + hex.EncodeToString(h.Sum(nil))
}

// enter has a tree that was just opened judged, and filled in the background. If it is
// refused, it is given back.
func (c *Catalog) enter(ctx context.Context, t *treeState) error {
	before := t.poison.Load()
	c.fill.enter(ctx, t)
	err := c.proveAll(ctx, t.layers, t.claims)
	if err == nil {
		err = c.judge(ctx, t.layers, t.claims)
	}
	if err != nil {
		c.fill.leave(t)
		c.releaseTree(t)
		return err
	}
	// It was poisoned, and what was held against it was forgotten since.
	t.poison.CompareAndSwap(before, nil)
	return nil
}

// infoOf describes a layer.
func (c *Catalog) infoOf(l *Layer) LayerInfo {
	i := l.info()
	i.Fill = c.fill.info(l)
	return i
}
