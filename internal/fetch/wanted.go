package fetch

import (
	"cmp"
	"context"
	"io"
	"slices"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"go.uber.org/zap"
)

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

// TakesRanges reports whether several ranges of the layer can come with one request,
// as far as is known.
func (l *Layer) TakesRanges() bool {
	m, ok := l.blob.(source.MultiRanger)
	return ok && l.spans == nil && m.TakesRanges()
}

// PrefetchChunks queues one request for chunks that will be read: those of them that
// are neither local nor on their way. Each part is a list of ascending numbers; what
// lies between two parts is not asked for. Where the source cannot bring several
// ranges at once, there is a request for each part, in their order. The requests are neither merged
// with others nor followed by read-ahead. It tells how many requests it has queued.
func (l *Layer) PrefetchChunks(parts ...[]uint32) int {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || l.streamer != nil {
		return 0
	}
	var runs []*run
	for _, numbers := range parts {
		if r := s.exactLocked(l, numbers); r != nil {
			runs = append(runs, r)
		}
	}
	if len(runs) > 1 && l.TakesRanges() {
		slices.SortFunc(runs, func(a, b *run) int { return cmp.Compare(a.lo, b.lo) })
		runs = []*run{uniteLocked(runs)}
	}
	for _, r := range runs {
		s.enqueueLocked(r)
	}
	return len(runs)
}

// exactLocked makes a run of what is missing of chunks; nil if nothing is.
func (s *Scheduler) exactLocked(l *Layer, numbers []uint32) *run {
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
	if len(r.items) == 0 {
		return nil
	}
	return r
}

// uniteLocked makes one run of several that have not started, in the order of the
// blob.
func uniteLocked(runs []*run) *run {
	first := runs[0]
	r := &run{layer: first.layer, prio: first.prio, keep: true, exact: true, lo: first.lo, hi: first.hi, pos: first.pos}
	for _, o := range runs {
		r.hi = max(r.hi, o.hi)
		if n := len(r.pieces); n > 0 && o.lo <= r.pieces[n-1].Hi { // no two ranges touch
			r.pieces[n-1].Hi = max(r.pieces[n-1].Hi, o.hi)
		} else {
			r.pieces = append(r.pieces, source.Span{Lo: o.lo, Hi: o.hi})
		}
		for _, it := range o.items {
			it.flight.run = r
		}
		r.items = append(r.items, o.items...)
	}
	if len(r.pieces) == 1 {
		r.pieces = nil
	}
	return r
}

// executePieces brings several ranges with one request. When that fails, what is
// missing is asked for range by range.
func (r *run) executePieces(ctx context.Context, s *Scheduler) error {
	err := r.receivePieces(ctx, s)
	if err == nil || ctx.Err() != nil {
		return err
	}
	s.opts.Logger.Debug("several ranges at once failed", zap.String("layer", r.layer.name), zap.Error(err))
	s.split(r)
	return err
}

func (r *run) receivePieces(ctx context.Context, s *Scheduler) error {
	blob, ok := r.layer.blob.(source.MultiRanger)
	if !ok {
		return fserr.Newf(fserr.Unsupported, "fetch", r.layer.name, "several ranges at once")
	}
	s.asked(r)
	body, err := blob.OpenRanges(ctx, r.pieces)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // read side: all that matters was read and verified
	d := decoding{r: r, s: s, ctx: ctx}
	defer d.wait()
	pieces := r.pieces
	for items := r.items; len(items) > 0; {
		for items[0].chunk.Member >= pieces[0].Hi {
			rest := pieces[0].Hi - s.position(r)
			if _, err := io.CopyN(io.Discard, body, rest); err != nil {
				return err
			}
			pieces = pieces[1:]
			s.restart(r, pieces[0].Lo)
		}
		n := sameMember(items)
		if err := r.receive(body, items[:n], n == len(items), &d); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// split has what a run has not brought brought by runs of their own, one for each
// piece.
func (s *Scheduler) split(r *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	var runs []*run
	for _, p := range r.pieces {
		o := &run{layer: r.layer, prio: r.prio, keep: true, exact: true}
		for _, it := range r.items {
			f, c := it.flight, it.chunk
			if f.landed || f.run != r || c.Member < p.Lo || c.Member >= p.Hi {
				continue
			}
			if len(o.items) == 0 {
				o.lo, o.pos = c.Member, c.Member
			}
			o.hi = max(o.hi, c.Member+c.MemberSize)
			o.items = append(o.items, it)
			o.waiters += f.waiters
			r.waiters -= f.waiters
			f.run = o
		}
		if len(o.items) > 0 {
			runs = append(runs, o)
		}
	}
	for _, o := range runs {
		s.enqueueLocked(o)
	}
}
