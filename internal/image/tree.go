package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sort"
	"sync/atomic"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
	"go.uber.org/zap"
)

// treeState is one merged tree, shared by all who attach it.
type treeState struct {
	name   string
	index  *layerindex.Index
	layers []*Layer // bottom first; one user each
	claims []string // DiffIDs that whoever attaches the tree expects of the layers; "": any
	key    string   // name and claims
	poison atomic.Pointer[poisoned]
	start  atomic.Pointer[coldStart]

	account account
	started atomic.Pointer[StartAccount] // of the last start, once it is over
	times   *readTimes

	// Guarded by Catalog.mu.
	users int
	used  time.Time
}

func (t *treeState) info() TreeInfo {
	names := make([]string, len(t.layers))
	for i, l := range t.layers {
		names[i] = l.id.blob.String()
	}
	return TreeInfo{Name: t.name, Layers: names, Files: t.index.NumNodes(), Users: t.users, Account: t.take()}
}

// Tree is the merged view of a chain of layers, as 9P and its like serve it.
type Tree struct{ *treeState }

// tree opens the merged tree of layers, and takes over one user of each.
// releaseTree gives everything back. A tree for overlay is that of one layer, with
// its whiteouts, to be one of several lowers. first says that the tree had no
// users.
func (c *Catalog) tree(layers []*Layer, claims []string, overlay bool) (t *treeState, first bool, err error) {
	name := mergedName(layers)
	if overlay {
		name += "-overlay"
	}
	key := treeKey(name, claims)
	if t, first = c.findTree(key); t != nil {
		c.release(layers...)
		return t, first, nil
	}
	index, err := c.openMerged(name, layers, overlay)
	if err != nil {
		c.release(layers...)
		return nil, false, err
	}
	t = &treeState{name: name, key: key, index: index, layers: layers, claims: claims, users: 1, times: &c.times}
	c.mu.Lock()
	if other := c.trees[key]; other != nil { // opened by someone else meanwhile
		first = other.users == 0
		other.users++
		c.mu.Unlock()
		c.closeIndex(index)
		c.release(layers...)
		return other, first, nil
	}
	c.trees[key] = t
	c.mu.Unlock()
	return t, true, nil
}

// findTree finds a tree that is open, and counts a user of it.
func (c *Catalog) findTree(key string) (t *treeState, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t = c.trees[key]; t != nil {
		first = t.users == 0
		t.users++
	}
	return t, first
}

// mergedName names a merged tree by its layers, bottom first.
func mergedName(layers []*Layer) string {
	h := sha256.New()
	for _, l := range layers {
		h.Write(l.id.blob[:])
		if !l.id.vouch.IsZero() {
			h.Write([]byte{'+'}) // no list of blobs alone reads like this
			h.Write(l.id.vouch[:])
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// openMerged opens the merged index, made by an earlier run or now.
func (c *Catalog) openMerged(name string, layers []*Layer, overlay bool) (*layerindex.Index, error) {
	path := c.mergedPath(name)
	index, err := layerindex.Open(path)
	if err == nil {
		return index, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		c.log.Warn("merged index is made anew", zap.String("index", path), zap.Error(err))
	}
	indexes := make([]*layerindex.Index, len(layers))
	for i, l := range layers {
		indexes[i] = l.index
	}
	if overlay {
		err = layerindex.Overlay(path, indexes[0])
	} else {
		err = layerindex.Merge(path, indexes)
	}
	if err != nil {
		return nil, fmt.Errorf("merging %d layers: %w", len(layers), err)
	}
	return layerindex.Open(path)
}

// releaseTree takes back one user, and closes the trees that have been idle
// longest when too many are.
func (c *Catalog) releaseTree(t *treeState) {
	if c.lastUser(t) {
		c.endStart(t)
	}
	c.mu.Lock()
	t.users--
	t.used = time.Now()
	var closing []*treeState
	if t.users == 0 && c.trees[t.key] != t {
		closing = append(closing, t) // it was given up while in use
	}
	for idle := c.idleTreesLocked(); len(idle) > maxIdle; idle = idle[1:] {
		delete(c.trees, idle[0].key)
		closing = append(closing, idle[0])
	}
	c.mu.Unlock()
	for _, t := range closing {
		c.closeIndex(t.index)
		c.release(t.layers...)
	}
}

func (c *Catalog) lastUser(t *treeState) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return t.users == 1
}

func (c *Catalog) idleTreesLocked() []*treeState {
	var idle []*treeState
	for _, t := range c.trees {
		if t.users == 0 {
			idle = append(idle, t)
		}
	}
	sort.Slice(idle, func(i, j int) bool { return idle[i].used.Before(idle[j].used) })
	return idle
}

func (c *Catalog) idleLayersLocked() []*Layer {
	var idle []*Layer
	for _, l := range c.layers {
		if l.users == 0 {
			idle = append(idle, l)
		}
	}
	sort.Slice(idle, func(i, j int) bool { return idle[i].used.Before(idle[j].used) })
	return idle
}

// Root is the root directory's node.
func (t *treeState) Root() uint64 { return 1 }

// Lookup finds a name in a directory.
func (t *treeState) Lookup(dir uint64, name []byte) (uint64, error) {
	if err := t.check(); err != nil {
		return 0, err
	}
	return t.index.Lookup(dir, name)
}

// Attr gives a node's metadata.
func (t *treeState) Attr(n uint64) (layerindex.Attr, error) { return t.index.Attr(n) }

// Parent gives the directory above dir.
func (t *treeState) Parent(dir uint64) (uint64, error) { return t.index.Parent(dir) }

// Readdir gives the entry of dir at a position.
func (t *treeState) Readdir(dir, pos uint64) (layerindex.Dirent, uint64, bool, error) {
	return t.index.Readdir(dir, pos)
}

// Readlink gives a symlink's target.
func (t *treeState) Readlink(n uint64) ([]byte, error) { return t.index.Readlink(n) }

// Xattr gives an extended attribute.
func (t *treeState) Xattr(n uint64, name []byte) ([]byte, error) { return t.index.Xattr(n, name) }

// XattrNames lists the extended attributes.
func (t *treeState) XattrNames(n uint64, fn func([]byte) bool) error {
	return t.index.XattrNames(n, fn)
}

// Size is how many bytes the tree's blobs have, and how many inodes it has.
func (t *treeState) Size() (bytes, files int64) {
	for _, l := range t.layers {
		bytes += l.rec.Desc.Size
	}
	return bytes, int64(t.index.NumNodes())
}

// Name is the same for the same layers in the same order, for ever: 64 hex
// digits, and more behind them for the tree of a single layer.
func (t *treeState) Name() string { return t.name }

// TryReadAt reads what the cache has. It answers false when part of it would
// have to be fetched, and does not allocate.
func (t *treeState) TryReadAt(n uint64, p []byte, off int64) (int, bool, error) {
	c, p, err := t.clip(n, p, off)
	if err != nil || len(p) == 0 {
		return 0, true, err
	}
	l := t.layers[c.Layer]
	cell := t.account.cell(n, off)
	began := cell.begin()
	done := 0
	for done < len(p) {
		i := l.index.FindChunk(c, uint64(off)+uint64(done))
		chunk, ok := l.index.Chunk(i)
		if !ok {
			return 0, true, t.hole(n)
		}
		t.noteRead(c.Layer, i)
		m, ok := l.bytes.TryRead(i, p[done:], off+int64(done)-chunk.Offset)
		if !ok {
			cell.missed()
			return 0, false, nil
		}
		if m == 0 {
			return 0, true, t.hole(n)
		}
		done += m
	}
	t.hit(cell, began, done)
	return done, true, nil
}

// ReadAt reads, fetching what is missing.
func (t *treeState) ReadAt(ctx context.Context, n uint64, p []byte, off int64) (int, error) {
	began := time.Now()
	done, waited, err := t.readAt(ctx, n, p, off)
	switch {
	case err != nil || waited:
		t.waitedFor(began, done, err)
	case done > 0:
		t.answered(t.account.cell(n, off), began, done)
	}
	return done, err
}

// readAt is ReadAt, and tells whether something had to be waited for.
func (t *treeState) readAt(ctx context.Context, n uint64, p []byte, off int64) (done int, waited bool, err error) {
	c, p, err := t.clip(n, p, off)
	if err != nil || len(p) == 0 {
		return 0, false, err
	}
	l := t.layers[c.Layer]
	for done < len(p) {
		i := l.index.FindChunk(c, uint64(off)+uint64(done))
		chunk, ok := l.index.Chunk(i)
		if !ok {
			return 0, waited, t.hole(n)
		}
		t.noteRead(c.Layer, i)
		m, ok := l.bytes.TryRead(i, p[done:], off+int64(done)-chunk.Offset)
		if !ok {
			waited = true
			t.noteMiss(c.Layer, i)
			m, err = l.bytes.Read(ctx, i, p[done:], off+int64(done)-chunk.Offset)
		}
		if err != nil {
			l.failed(err)
			return 0, waited, err
		}
		if m == 0 {
			return 0, waited, t.hole(n)
		}
		done += m
	}
	return done, waited, nil
}

// clip finds a file's content and cuts p at its end.
func (t *treeState) clip(n uint64, p []byte, off int64) (layerindex.Content, []byte, error) {
	if err := t.check(); err != nil {
		return layerindex.Content{}, nil, err
	}
	c, err := t.index.Content(n)
	if err != nil {
		return c, nil, err
	}
	if off < 0 {
		return c, nil, fserr.Newf(fserr.Invalid, "read", "", "offset %d", off)
	}
	if uint64(off) >= c.Size {
		return c, nil, nil
	}
	if left := c.Size - uint64(off); uint64(len(p)) > left {
		p = p[:left]
	}
	if c.Layer < 0 || c.Layer >= len(t.layers) {
		return c, nil, fserr.Newf(fserr.Internal, "read", t.name, "node %d is in layer %d of %d", n, c.Layer, len(t.layers))
	}
	return c, p, nil
}

// hole is the error for an index whose chunks do not cover its file.
func (t *treeState) hole(n uint64) error {
	return fserr.Newf(fserr.Internal, "read", t.name, "node %d has no chunk for a part of it", n)
}
