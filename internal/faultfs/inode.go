package faultfs

import (
	"io"
	"maps"
	"math/rand/v2"
)

// pageSize is what the disk writes, and what a hole frees, as one piece.
const pageSize = 4096

type page [pageSize]byte

// content is a sparse file's bytes. Pages are never changed once stored, so
// that copies may share them.
type content struct {
	pages map[int64]*page
	size  int64
}

func (c content) clone() content { return content{pages: maps.Clone(c.pages), size: c.size} }

func (c content) allocated() int64 { return int64(len(c.pages)) * pageSize }

func (c content) readAt(p []byte, off int64) (int, error) {
	if off >= c.size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), c.size-off))
	for done := 0; done < n; {
		at := off + int64(done)
		piece := p[done:min(n, done+int(pageSize-at%pageSize))]
		if pg := c.pages[at/pageSize]; pg != nil {
			copy(piece, pg[at%pageSize:])
		} else {
			clear(piece)
		}
		done += len(piece)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (c *content) writeAt(p []byte, off int64) {
	for len(p) > 0 {
		pg := new(page)
		if old := c.pages[off/pageSize]; old != nil {
			*pg = *old
		}
		n := copy(pg[off%pageSize:], p)
		c.pages[off/pageSize] = pg
		p, off = p[n:], off+int64(n)
		c.size = max(c.size, off)
	}
}

func (c *content) truncate(size int64) {
	maps.DeleteFunc(c.pages, func(i int64, _ *page) bool { return i*pageSize >= size })
	if pg := c.pages[size/pageSize]; pg != nil && size < c.size {
		cut := *pg
		clear(cut[size%pageSize:])
		c.pages[size/pageSize] = &cut
	}
	c.size = size
}

func (c *content) punch(off, n int64) {
	first, last := (off+pageSize-1)/pageSize, (off+n)/pageSize
	maps.DeleteFunc(c.pages, func(i int64, _ *page) bool { return i >= first && i < last })
}

// inode is one file: what programs see, what is surely on the disk, and what
// was done in between.
type inode struct {
	now     content
	durable content
	since   []func(*content)
}

func newInode() *inode {
	return &inode{now: content{pages: map[int64]*page{}}, durable: content{pages: map[int64]*page{}}}
}

// do makes a change that a power cut may undo.
func (n *inode) do(change func(*content)) {
	change(&n.now)
	n.since = append(n.since, change)
}

// write is do for a write, page by page: each may be lost alone.
func (n *inode) write(p []byte, off int64) {
	p = append([]byte(nil), p...)
	for len(p) > 0 {
		piece := p[:min(int64(len(p)), pageSize-off%pageSize)]
		at := off
		n.do(func(c *content) { c.writeAt(piece, at) })
		p, off = p[len(piece):], off+int64(len(piece))
	}
}

func (n *inode) sync() {
	n.durable = n.now.clone()
	n.since = nil
}

// survivor is what the disk may hold after a power cut: each change since the
// last sync has reached it with probability odds.
func (n *inode) survivor(rng *rand.Rand, odds float64) *inode {
	left := n.durable.clone()
	for _, change := range n.since {
		if rng.Float64() < odds {
			change(&left)
		}
	}
	return &inode{now: left.clone(), durable: left}
}
