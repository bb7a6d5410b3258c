package image

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/layerindex"
)

// CollectOptions say what is removed besides what is known of unused images.
type CollectOptions struct {
	Mounted []string // attach names that are held from outside and must stay
	Unused  bool     // chunks that no image left has
	Target  int64    // chunks, until the store takes so many bytes; negative: none
}

// Collected counts what was removed.
type Collected struct {
	Images, Layers int   // records of
	Files          int   // index files
	FileBytes      int64 // of these
	FreedBytes     int64 // by evicting chunks
}

// usage is what is in use, and by what.
type usage struct {
	images []usedImage
	layers map[layerID]bool // of chains and attached trees
	pinned map[string]bool  // manifests
	merged map[string]bool  // names of merged indexes
	keep   map[string]bool  // manifests of images that stay
}

// usedImage is an image with what its layers were opened as.
type usedImage struct {
	*imageRecord
	ids []layerID
}

// all says whether every one of the layers is in use.
func (u *usage) all(ids []layerID) bool {
	for _, id := range ids {
		if !u.layers[id] {
			return false
		}
	}
	return len(ids) > 0
}

// roots finds out what is in use.
func (h *Cache) roots(ctx context.Context, mounted []string) (*usage, error) {
	u := &usage{layers: map[layerID]bool{}, pinned: map[string]bool{}, merged: map[string]bool{}, keep: map[string]bool{}}
	pins, err := h.pins(ctx)
	if err != nil {
		return nil, err
	}
	for manifest := range pins {
		u.pinned[manifest], u.keep[manifest] = true, true
	}
	for _, aname := range mounted {
		if name, ok := strings.CutPrefix(aname, AttachImage); ok {
			u.keep[name] = true
		}
	}
	if err := h.chainRoots(ctx, u); err != nil {
		return nil, err
	}
	h.openRoots(u)
	err = h.c.eachImage(ctx, func(rec *imageRecord) {
		u.images = append(u.images, usedImage{imageRecord: rec})
	})
	if err != nil {
		return nil, err
	}
	for i := range u.images {
		img := &u.images[i]
		wants, err := img.wants()
		if err != nil {
			continue // nothing that could be opened
		}
		for _, w := range wants {
			img.ids = append(img.ids, h.idOf(ctx, w))
		}
		if u.keep[img.Manifest] || u.all(img.ids) {
			u.keep[img.Manifest] = true
			u.merged[mergedName(asLayers(img.ids))] = true
		}
	}
	return u, nil
}

// idOf gives what a layer of an image was opened as; what it would be opened as
// first, if it never was.
func (h *Cache) idOf(ctx context.Context, w want) layerID {
	ids := w.ids()
	for _, id := range ids {
		var rec layerRecord
		if h.c.load(ctx, keyLayer+id.String(), &rec) == nil && h.c.serves(w, id, &rec) {
			return id
		}
	}
	return ids[0]
}

func asLayers(ids []layerID) []*Layer {
	layers := make([]*Layer, len(ids))
	for i, id := range ids {
		layers[i] = &Layer{id: id}
	}
	return layers
}

// chainRoots adds the layers of chains, and the merged trees of these.
func (h *Cache) chainRoots(ctx context.Context, u *usage) error {
	var chains []string
	err := h.c.records.Walk(ctx, keyChain, func(key string, val []byte) error {
		chains = append(chains, strings.TrimPrefix(key, keyChain))
		var rec chainRecord
		if json.Unmarshal(val, &rec) != nil {
			return nil //nolint:nilerr // it cannot be opened either
		}
		id, err := parseLayerID(rec.Layer)
		if err == nil && rec.Vouch != "" {
			id.vouch, err = estargz.ParseDigest(rec.Vouch)
		}
		if err == nil {
			u.layers[id] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, chain := range chains {
		wants, err := h.c.chainWants(ctx, chain)
		if err != nil {
			continue // the chain below is gone
		}
		ids := make([]layerID, len(wants))
		for i, w := range wants {
			ids[i] = layerID{blob: w.digest, vouch: w.vouch}
		}
		u.merged[mergedName(asLayers(ids))] = true
	}
	return nil
}

// openRoots adds what is attached, or just being opened.
func (h *Cache) openRoots(u *usage) {
	c := h.c
	c.mu.Lock()
	defer c.mu.Unlock()
	idle := map[*Layer]int{}
	for _, t := range c.trees {
		if t.users > 0 {
			u.merged[t.name] = true
			continue
		}
		for _, l := range t.layers {
			idle[l]++
		}
	}
	for id, l := range c.layers {
		if l.users > idle[l] {
			u.layers[id] = true
		}
	}
}

// Collect removes what is known of images that no chain, attached tree or pin
// uses: their records, and the indexes of layers that only they have. Their chunks
// stay until space is needed, unless o says otherwise.
func (h *Cache) Collect(ctx context.Context, o CollectOptions) (Collected, error) {
	var out Collected
	began := time.Now()
	u, err := h.roots(ctx, o.Mounted)
	if err != nil {
		return out, err
	}
	left := map[layerID]bool{}
	for id := range u.layers {
		left[id] = true
	}
	for _, img := range u.images {
		if !u.keep[img.Manifest] {
			continue
		}
		for _, id := range img.ids {
			left[id] = true
		}
	}
	errs := []error{h.collectImages(ctx, u, &out), h.collectLayers(ctx, left, began, &out), h.collectFiles(u, left, began, &out)}
	if o.Unused {
		errs = append(errs, h.retain(ctx, left, &out))
	}
	if o.Target >= 0 {
		n, err := h.store.EvictTo(ctx, o.Target)
		out.FreedBytes += n
		errs = append(errs, err)
	}
	return out, errors.Join(errs...)
}

// collectImages removes the records of images that do not stay, and references to
// them.
func (h *Cache) collectImages(ctx context.Context, u *usage, out *Collected) error {
	for _, img := range u.images {
		if u.keep[img.Manifest] {
			continue
		}
		if err := h.c.records.Delete(ctx, keyImage+img.Manifest); err != nil {
			return err
		}
		out.Images++
	}
	var dangling []string
	err := h.c.records.Walk(ctx, keyRef, func(key string, val []byte) error {
		if !u.keep[string(val)] {
			dangling = append(dangling, key)
		}
		return nil
	})
	for _, key := range dangling {
		err = errors.Join(err, h.c.records.Delete(ctx, key))
	}
	return err
}

// collectLayers removes the layers that are not left and were not opened since.
func (h *Cache) collectLayers(ctx context.Context, left map[layerID]bool, began time.Time, out *Collected) error {
	var gone []layerID
	err := h.c.records.Walk(ctx, keyLayer, func(key string, _ []byte) error {
		if id, err := parseLayerID(strings.TrimPrefix(key, keyLayer)); err == nil && !left[id] {
			gone = append(gone, id)
		}
		return nil
	})
	errs := []error{err}
	// All are judged before any is detached: that leaves the trees that are kept open,
	// and their other layers look used just now.
	gone = slices.DeleteFunc(gone, func(id layerID) bool {
		busy := h.busy(id, began)
		if busy {
			left[id] = true
		}
		return busy
	})
	for _, id := range gone {
		if h.c.inUse(id) {
			left[id] = true
			continue
		}
		h.c.detach(id)
		if err := h.c.records.Delete(ctx, keyLayer+id.String()); err != nil {
			errs = append(errs, err)
			continue
		}
		h.c.setGivenUp(id, false)
		out.Layers++
		errs = append(errs, h.forgetFill(ctx, id))
		for _, path := range []string{h.c.layerPath(id), h.c.spansPath(id), h.c.learnedPath(id)} {
			errs = append(errs, out.remove(path))
		}
	}
	return errors.Join(errs...)
}

// forgetFill removes what the background found out about a layer, but not that it is
// wrong.
func (h *Cache) forgetFill(ctx context.Context, id layerID) error {
	var v verdict
	if h.c.load(ctx, keyFill+id.String(), &v) == nil && v.Wrong == "" {
		if err := h.c.records.Delete(ctx, keyFill+id.String()); err != nil {
			return err
		}
	}
	return h.c.fill.clear(ctx, id)
}

// busy reports whether a layer is in use, or was since.
func (h *Cache) busy(id layerID, since time.Time) bool {
	if h.c.inUse(id) {
		return true
	}
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	l := h.c.layers[id]
	return h.c.opens[id.blob] != nil || l != nil && l.used.After(since)
}

// How old a file must be to be removed, because what uses it comes after it: a
// layer's record, which may have to wait for a whole layer, and an attach.
const (
	strayAge  = time.Hour
	mergedAge = 10 * time.Second
)

// collectFiles removes merged indexes that nothing in use has, and files that no
// record is about.
func (h *Cache) collectFiles(u *usage, left map[layerID]bool, began time.Time, out *Collected) error {
	names := map[string]bool{}
	for id := range left {
		names[id.file()] = true
		u.merged[mergedName(asLayers([]layerID{id}))+"-overlay"] = true
	}
	h.openRoots(u) // again: what was attached since stays
	var errs []error
	for dir, keep := range map[string]map[string]bool{"layers": names, "merged": u.merged} {
		entries, err := os.ReadDir(filepath.Join(h.c.dir, dir))
		errs = append(errs, err)
		for _, e := range entries {
			name, _, _ := strings.Cut(e.Name(), ".")
			if layerindex.IsTemp(e.Name()) || keep[name] {
				continue
			}
			age := strayAge
			if dir == "merged" {
				age = mergedAge
			}
			if st, err := e.Info(); err != nil || st.ModTime().After(began.Add(-age)) {
				continue
			}
			errs = append(errs, out.remove(filepath.Join(h.c.dir, dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// remove removes an index file, if it is there.
func (o *Collected) remove(path string) error {
	n, err := removeIfThere(path)
	if n > 0 {
		o.Files++
		o.FileBytes += n
	}
	return err
}

// retain evicts the chunks that no layer left has.
func (h *Cache) retain(ctx context.Context, left map[layerID]bool, out *Collected) error {
	var list []uint64
	for id := range left {
		err := h.c.eachChunk(id, func(c estargz.Chunk) {
			list = append(list, chunkstore.PinKey(chunkstore.Digest(c.Digest)))
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err // better keep too much
		}
	}
	n, err := h.store.Retain(ctx, chunkstore.NewKeys(list).Has)
	out.FreedBytes += n
	return err
}
