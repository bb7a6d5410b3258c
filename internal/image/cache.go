package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
	"go.uber.org/zap"
)

// CacheStore is what a [Cache] needs of the chunk store.
type CacheStore interface {
	EachChunk(ctx context.Context, fn func(chunkstore.Digest) error) error
	SetPinned(keys chunkstore.Keys) error
	Retain(ctx context.Context, keep func(chunkstore.Digest) bool) (int64, error)
	EvictTo(ctx context.Context, target int64) (int64, error)
}

// Cache tells what the images of a catalog have in the chunk store, keeps pinned
// images in it, and removes what is not used any more.
type Cache struct {
	c     *Catalog
	store CacheStore
	mu    sync.Mutex // held while pins are changed
}

// NewCache makes a cache of the catalog's images, and pins what was pinned before.
func NewCache(ctx context.Context, c *Catalog, store CacheStore) (*Cache, error) {
	h := &Cache{c: c, store: store}
	if err := h.applyPins(ctx); err != nil {
		return nil, fmt.Errorf("pinned images: %w", err)
	}
	return h, nil
}

// CachedLayer is a layer of an image, and what the store has of it.
type CachedLayer struct {
	Digest     string // of the blob
	Format     string
	Reason     string // why nothing is known of its chunks
	Chunks     int    // that differ
	Local      int    // of these, in the store
	Bytes      int64  // of all chunks, decompressed
	LocalBytes int64  // of those in the store
	IndexBytes int64  // of its index files
}

// CachedImage is an image, and what the store has of it. A chunk that is in two
// layers is counted for both.
type CachedImage struct {
	Ref, Manifest string
	Pinned        bool
	InUse         bool // a chain has all its layers, or a tree of it is attached
	Layers        []CachedLayer
}

// Images lists the images that the catalog knows, by reference; one, if name is
// not "".
func (h *Cache) Images(ctx context.Context, name string) ([]CachedImage, error) {
	only := ""
	if name != "" {
		rec, err := h.c.resolve(ctx, name)
		if err != nil {
			return nil, err
		}
		only = rec.Manifest
	}
	var list []uint64
	err := h.store.EachChunk(ctx, func(d chunkstore.Digest) error {
		list = append(list, chunkstore.PinKey(d))
		return nil
	})
	if err != nil {
		return nil, err
	}
	there := chunkstore.NewKeys(list)
	used, err := h.roots(ctx, nil)
	if err != nil {
		return nil, err
	}
	layers := map[layerID]CachedLayer{}
	var out []CachedImage
	for _, rec := range used.images {
		if only != "" && rec.Manifest != only {
			continue
		}
		img := CachedImage{Ref: rec.Ref, Manifest: rec.Manifest, Pinned: used.pinned[rec.Manifest], InUse: used.all(rec.ids)}
		for i, id := range rec.ids {
			l, ok := layers[id]
			if !ok {
				l = h.layer(ctx, id, there)
				layers[id] = l
			}
			if l.Format == "" && l.Reason == "" {
				l.Reason = "never opened"
			}
			l.Digest = rec.Layers[i].Digest.String()
			img.Layers = append(img.Layers, l)
		}
		out = append(out, img)
	}
	slices.SortFunc(out, func(a, b CachedImage) int {
		return cmp.Or(cmp.Compare(a.Ref, b.Ref), cmp.Compare(a.Manifest, b.Manifest))
	})
	return out, nil
}

// layer counts what the store has of a layer.
func (h *Cache) layer(ctx context.Context, id layerID, there chunkstore.Keys) CachedLayer {
	l := CachedLayer{IndexBytes: h.c.filesSize(id)}
	var rec layerRecord
	if h.c.load(ctx, keyLayer+id.String(), &rec) != nil {
		return l
	}
	l.Format = rec.Format
	seen := map[uint64]struct{}{}
	err := h.c.eachChunk(id, func(c estargz.Chunk) {
		key := chunkstore.PinKey(chunkstore.Digest(c.Digest))
		if _, ok := seen[key]; ok {
			return
		}
		seen[key] = struct{}{}
		l.Chunks++
		l.Bytes += c.Size
		if there.Has(chunkstore.Digest(c.Digest)) {
			l.Local++
			l.LocalBytes += c.Size
		}
	})
	if err != nil {
		l.Reason = err.Error()
	}
	return l
}

// eachChunk calls fn with the chunks of a layer that has an index here, holes left
// out. Nothing is fetched, and the layer is not opened for it.
func (c *Catalog) eachChunk(id layerID, fn func(estargz.Chunk)) error {
	chunk, count, done, err := c.chunksOf(id)
	if err != nil {
		return err
	}
	defer done()
	for i := range uint32(count) {
		if x, ok := chunk(i); ok && !x.Hole {
			fn(x)
		}
	}
	return nil
}

// chunksOf gives access to a layer's chunks until done is called.
func (c *Catalog) chunksOf(id layerID) (chunk func(uint32) (estargz.Chunk, bool), count int, done func(), err error) {
	c.mu.Lock()
	l := c.layers[id]
	if l != nil {
		l.users++
	}
	c.mu.Unlock()
	if l != nil {
		chunk = l.index.Chunk
		if l.learned != nil {
			chunk = l.learned.Chunk
		}
		return chunk, l.index.NumChunks(), func() { c.release(l) }, nil
	}
	x, err := layerindex.Open(c.layerPath(id))
	if err != nil {
		return nil, 0, nil, err
	}
	if x.Info().Format != layerindex.FormatSOCI {
		return x.Chunk, x.NumChunks(), func() { c.closeIndex(x) }, nil
	}
	learned, err := openLearned(c.learnedPath(id), x)
	if err != nil {
		return nil, 0, nil, errors.Join(err, x.Close())
	}
	return learned.Chunk, x.NumChunks(), func() {
		if err := learned.close(); err != nil {
			c.log.Warn("closing learned digests", zap.Error(err))
		}
		c.closeIndex(x)
	}, nil
}

// The keys of pins, each followed by the manifest digest of an image.
const (
	keyPin       = "pin/"        // → pinRecord
	keyPinChunks = "pin-chunks/" // → its chunks, as chunkstore.Keys
)

// pinRecord is an image that is to stay.
type pinRecord struct {
	Ref string `json:"ref"` // normalised, as it was given
}

// Pin keeps the chunks of an image in the store: those there and those that come.
// The indexes of its layers are made if need be. It gives the manifest digest and
// the number of chunks.
func (h *Cache) Pin(ctx context.Context, name string) (manifest string, chunks int, err error) {
	rec, err := h.c.resolve(ctx, name)
	if err != nil {
		return "", 0, err
	}
	wants, err := rec.wants()
	if err != nil {
		return "", 0, err
	}
	layers, err := h.c.acquireAll(ctx, wants)
	if err != nil {
		return "", 0, err
	}
	defer h.c.release(layers...)
	var list []uint64
	for _, l := range layers {
		err = errors.Join(err, h.c.eachChunk(l.id, func(c estargz.Chunk) {
			list = append(list, chunkstore.PinKey(chunkstore.Digest(c.Digest)))
		}))
	}
	if err != nil {
		return "", 0, err
	}
	keys := chunkstore.NewKeys(list)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.c.records.Put(ctx, keyPinChunks+rec.Manifest, keys.Encode()); err != nil {
		return "", 0, fmt.Errorf("pin %s: %w", name, err)
	}
	if err = h.c.save(ctx, keyPin+rec.Manifest, pinRecord{Ref: rec.Ref}); err == nil {
		err = h.applyPins(ctx)
	}
	if err != nil { // too many, or a disk that fails: as before
		return "", 0, errors.Join(fmt.Errorf("pin %s: %w", name, err), h.dropPin(ctx, rec.Manifest))
	}
	return rec.Manifest, keys.Len(), nil
}

// Unpin lets the chunks of an image go when space is needed: of the image with a
// manifest digest, or all that were pinned by a reference. Nobody is asked what the
// reference stands for now. fserr.NotExist if there is none.
func (h *Cache) Unpin(ctx context.Context, name string) ([]string, error) {
	ref := name
	if n, err := normalize(name); err == nil {
		ref = n
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	pins, err := h.pins(ctx)
	if err != nil {
		return nil, err
	}
	var gone []string
	for manifest, p := range pins {
		if manifest == name || p.Ref == ref || p.Ref == name {
			gone = append(gone, manifest)
		}
	}
	if len(gone) == 0 {
		return nil, fserr.Newf(fserr.NotExist, "unpin", name, "it is not pinned")
	}
	slices.Sort(gone)
	for _, manifest := range gone {
		if err := h.dropPin(ctx, manifest); err != nil {
			return nil, err
		}
	}
	return gone, h.applyPins(ctx)
}

func (h *Cache) dropPin(ctx context.Context, manifest string) error {
	return errors.Join(h.c.records.Delete(ctx, keyPin+manifest), h.c.records.Delete(ctx, keyPinChunks+manifest))
}

// pins gives the pinned images by manifest digest.
func (h *Cache) pins(ctx context.Context) (map[string]pinRecord, error) {
	pins := map[string]pinRecord{}
	err := h.c.records.Walk(ctx, keyPin, func(key string, val []byte) error {
		var p pinRecord
		if err := json.Unmarshal(val, &p); err != nil {
			h.c.log.Warn("record is damaged", zap.String("key", key), zap.Error(err))
		}
		pins[strings.TrimPrefix(key, keyPin)] = p
		return nil
	})
	return pins, err
}

// applyPins tells the store of all pins there are.
func (h *Cache) applyPins(ctx context.Context) error {
	pins, err := h.pins(ctx)
	if err != nil {
		return err
	}
	var list []uint64
	for manifest := range pins {
		val, err := h.c.records.Get(ctx, keyPinChunks+manifest)
		if fserr.Is(err, fserr.NotExist) {
			continue // between two writes of an unfinished change
		}
		if err != nil {
			return err
		}
		list = append(list, chunkstore.DecodeKeys(val).All()...)
	}
	return h.store.SetPinned(chunkstore.NewKeys(list))
}

// removeIfThere removes a file and gives its size.
func removeIfThere(path string) (int64, error) {
	st, err := os.Stat(path)
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}
