package image

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
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
	formatSOCI        = "soci"
	formatWhole       = "whole" // read whole, whatever its compression
)

func isLazy(format string) bool { return format != formatWhole }

// Layer is one open layer: its index and the way to its bytes.
type Layer struct {
	id      layerID
	index   *layerindex.Index
	bytes   *fetch.Layer
	spans   *spans   // of a layer that is reached through checkpoints
	learned *learned // of a layer whose chunks have no digests in advance
	rec     layerRecord
	// distrust is told when bytes of the layer proved wrong; nil: nobody is.
	distrust func(error)
	verdict  atomic.Pointer[verdict] // nil: not looked up, or none yet

	// Guarded by Catalog.mu.
	users int
	used  time.Time
}

func (l *Layer) info() LayerInfo {
	local, total := l.bytes.Local()
	return LayerInfo{
		Digest: l.id.blob.String(), Lazy: isLazy(l.rec.Format), Reason: l.rec.Reason, Format: l.rec.Format,
		Origin: l.rec.Origin, Size: l.rec.Desc.Size, Fetched: l.bytes.Fetched(), Files: int64(l.index.NumNodes()), Local: local, Chunks: total,
	}
}

// acquire opens a layer, or finds it open, and counts a user.
func (c *Catalog) acquire(ctx context.Context, w want) (*Layer, error) {
	for {
		if l := c.find(w, 1); l != nil {
			return l, nil
		}
		l, err := share(ctx, c, c.opens, w.digest, func(ctx context.Context) (*Layer, error) {
			if l := c.find(w, 0); l != nil {
				return l, nil
			}
			l, err := c.open(ctx, w)
			if err != nil {
				return nil, fmt.Errorf("layer %s of %s: %w", w.digest, w.ref, err)
			}
			return c.install(w, l), nil
		})
		if err != nil {
			return nil, err
		}
		// Others may have asked for the same blob with something else to vouch for it,
		// and an index may be given up as soon as it was opened.
		if l != nil && w.accepts(l.id) && c.use(l) {
			return l, nil
		}
	}
}

// find finds a layer that is open, and counts users of it.
func (c *Catalog) find(w want, users int) *Layer {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range w.ids() {
		if l := c.layers[id]; l != nil && !c.givenUp[id] && !w.knowsMore(&l.rec) {
			l.users += users
			return l
		}
	}
	return nil
}

// install adds a layer to those that are open, if it is not there by now. It gives
// nil if the layer's index was given up meanwhile.
func (c *Catalog) install(w want, l *Layer) *Layer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.givenUp[l.id] {
		c.closeLayer(l)
		return nil
	}
	if other := c.layers[l.id]; other != nil {
		if !w.knowsMore(&other.rec) {
			c.closeLayer(l)
			return other
		}
		if other.users == 0 { // else its last user closes it
			c.closeLayer(other)
		}
	}
	l.used = time.Now()
	c.layers[l.id] = l
	return l
}

// use counts a user of a layer, if it is still open.
func (c *Catalog) use(l *Layer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.layers[l.id] != l || c.givenUp[l.id] {
		return false
	}
	l.users++
	return true
}

// release takes back one user and closes layers that have been idle longest when
// too many are.
func (c *Catalog) release(layers ...*Layer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range layers {
		l.users--
		l.used = time.Now()
		if l.users == 0 && c.layers[l.id] != l {
			c.closeLayer(l) // it was given up while in use
		}
	}
	for idle := c.idleLayersLocked(); len(idle) > maxIdle; idle = idle[1:] {
		delete(c.layers, idle[0].id)
		c.closeLayer(idle[0])
	}
}

// close lets go of the layer's files.
func (l *Layer) close() error {
	err := l.index.Close()
	if l.spans != nil {
		err = errors.Join(err, l.spans.file.Close())
	}
	if l.learned != nil {
		err = errors.Join(err, l.learned.close())
	}
	return err
}

// failed is told what a read of the layer failed with.
func (l *Layer) failed(err error) {
	if l.distrust != nil && fserr.KindOf(err) == fserr.Corrupt {
		l.distrust(err)
	}
}

func (c *Catalog) closeLayer(l *Layer) {
	if err := l.close(); err != nil {
		c.log.Warn("closing a layer", zap.Stringer("layer", l.id), zap.Error(err))
	}
}

func (c *Catalog) closeIndex(x *layerindex.Index) {
	if err := x.Close(); err != nil {
		c.log.Warn("closing an index", zap.Error(err))
	}
}
