package fetch

import (
	"context"
	"sync"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/source"
)

// item is one chunk that a run brings.
type item struct {
	flight *flight
	chunk  estargz.Chunk // in the run's layer
	number uint32        // in the run's layer
}

// run is one stretch of a blob that one request brings.
type run struct {
	layer  *Layer
	keep   bool  // wanted even when no reader waits: prefetch, background
	exact  bool  // of chunks that are known to be read, and no others
	lo, hi int64 // blob range, whole members
	// pieces are the parts of that range that the request is for, when it is not for
	// all of it.
	pieces []source.Span
	items  []item // in blob order; fixed once started, except for a whole layer
	// job is done in the place of bringing chunks, if it is set.
	job func(ctx context.Context)

	storing sync.WaitGroup // chunks that have landed

	// Guarded by Scheduler.mu.
	prio    Priority
	waiters int
	started bool
	pos     int64  // blob offset up to which the running stream has come
	number  uint32 // the same in chunks, when a whole layer is read
	cancel  context.CancelFunc
}

// distance is how many bytes the running stream brings before it comes to start.
func (r *run) distance(start int64) int64 {
	if len(r.pieces) == 0 {
		return start - r.pos
	}
	n := int64(0)
	for _, p := range r.pieces {
		n += max(0, min(p.Hi, start)-max(p.Lo, r.pos))
	}
	return n
}

// near reports whether one request for both runs wastes at most gap bytes.
func (r *run) near(o *run, gap int64) bool {
	return o.lo <= r.hi+gap && r.lo <= o.hi+gap
}

// span is the length of a request for both runs, in bytes.
func (r *run) span(o *run) int64 { return max(r.hi, o.hi) - min(r.lo, o.lo) }

// absorb takes over o's chunks and readers. Neither run has started.
func (r *run) absorb(o *run) {
	r.lo, r.hi = min(r.lo, o.lo), max(r.hi, o.hi)
	r.pos = r.lo
	r.waiters += o.waiters
	r.keep = r.keep || o.keep
	for _, it := range o.items {
		if it.flight.run == o {
			it.flight.run = r
		}
	}
	r.items = mergeItems(r.items, o.items)
}

func mergeItems(a, b []item) []item {
	merged := make([]item, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if b[0].number < a[0].number {
			merged, b = append(merged, b[0]), b[1:]
		} else {
			merged, a = append(merged, a[0]), a[1:]
		}
	}
	return append(append(merged, a...), b...)
}

// planLocked plans a run over the missing chunks around chunk i, which is one of
// them: from the start of what has to be decoded for it up to, not including,
// chunk end; of at most limit bytes, but no less than chunk i needs. Chunks behind
// the end are taken along if they lie in a span that is read anyway. It returns the
// number of the first chunk it did not consider. The run is nil when nothing is
// missing within the limit.
func (s *Scheduler) planLocked(l *Layer, i, end uint32, prio Priority, limit int64) (*run, uint32) {
	r := &run{layer: l, prio: prio, keep: prio != Demand}
	if l.streamer != nil {
		if c, ok := l.chunks.Chunk(i); ok && s.flights[c.Digest] == nil {
			s.addLocked(r, c, i)
			return r, end
		}
		return nil, end
	}
	wanted := i
	if c, ok := l.chunks.Chunk(i); ok {
		i = min(i, l.chunks.ChunksFrom(l.begin(&c)))
	}
	for ; ; i++ {
		c, ok := l.chunks.Chunk(i)
		if !ok {
			break
		}
		lo, hi := l.extent(&c)
		if i >= end && !r.brings(hi) || i > wanted && r.exceeds(lo, hi, limit, l.gap()) {
			break
		}
		if c.Hole || s.flights[c.Digest] != nil || l.present(i) {
			continue
		}
		if len(r.items) == 0 {
			r.lo, r.pos = lo, lo
		}
		r.hi = max(r.hi, hi)
		s.addLocked(r, c, i)
	}
	if len(r.items) == 0 {
		return nil, i
	}
	return r, i
}

// brings reports whether a chunk that ends at hi of the blob lies in a span that r
// reads anyway.
func (r *run) brings(hi int64) bool {
	return r.layer.spans != nil && len(r.items) > 0 && hi <= r.hi
}

// exceeds reports whether a chunk in [lo, hi) of the blob makes r longer than limit
// or would have it read more than gap bytes in vain.
func (r *run) exceeds(lo, hi, limit, gap int64) bool {
	return len(r.items) > 0 && hi > r.hi && (hi-r.lo > limit || lo > r.hi+gap)
}

func (s *Scheduler) addLocked(r *run, c estargz.Chunk, number uint32) {
	lo := c.Member
	if l := r.layer; l.streamer == nil {
		lo, _ = l.extent(&c)
	}
	f := &flight{digest: c.Digest, run: r, start: lo, done: make(chan struct{})}
	s.flights[c.Digest] = f
	r.items = append(r.items, item{flight: f, chunk: c, number: number})
}
