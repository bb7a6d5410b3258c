package fetch

import "github.com/nineply/nineply/estargz"

// exactAhead is how many times further ahead of a running stream a chunk of an
// exact run may be and still be waited for: what will be read is on its way, and
// another request for it would only take bandwidth from the rest.
const exactAhead = 8

// Ranged reports whether the layer can be read in ranges, and so chunk by chunk.
func (l *Layer) Ranged() bool { return l.streamer == nil }

// Extent is the range of the blob that has to be read for a chunk of a layer that
// is [Layer.Ranged].
func (l *Layer) Extent(c *estargz.Chunk) (lo, hi int64) { return l.extent(c) }

// Has reports whether chunk i need not be fetched.
func (l *Layer) Has(i uint32) bool {
	c, ok := l.chunks.Chunk(i)
	return ok && (c.Hole || l.find(i, c.Digest))
}

// PrefetchChunks queues one request for chunks that will be read, by ascending
// number: those of them that are neither local nor on their way. The request is
// neither merged with others nor followed by read-ahead.
func (l *Layer) PrefetchChunks(numbers []uint32) {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || l.streamer != nil {
		return
	}
	r := &run{layer: l, prio: Prefetch, keep: true, exact: true}
	for _, i := range numbers {
		c, ok := l.chunks.Chunk(i)
		if !ok || c.Hole || s.flights[c.Digest] != nil || l.present(i) {
			continue
		}
		lo, hi := l.extent(&c)
		if len(r.items) == 0 {
			r.lo, r.pos = lo, lo
		}
		r.hi = max(r.hi, hi)
		s.addLocked(r, c, i)
	}
	if len(r.items) > 0 {
		s.enqueueLocked(r)
	}
}
