package fetch

import (
	"context"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// flight is one chunk on its way, whoever asked for it. All fields but done are
// guarded by Scheduler.mu; err, and data by those counted as readers, may be read
// once done is closed.
type flight struct {
	digest  estargz.Digest
	run     *run          // that brings it
	start   int64         // of what has to be decoded for it, in that run's blob
	waiters int           // readers
	landed  bool          // done is closed
	done    chan struct{} // closed when data or err is set
	data    []byte
	err     error

	memory  *buffer // that data lies in, until the last reader has copied it
	retired bool    // the store has the chunk, and nobody joins any more
}

// joinLocked finds or plans the flight of chunk i of l and counts the caller as
// a reader of it. The flight is nil when the chunk has come into the store
// meanwhile.
//
// A flight is retired only after its chunk is in the store, so without a flight
// the store has the last word; unreadable says that its word proved wrong.
func (s *Scheduler) joinLocked(l *Layer, i uint32, c estargz.Chunk, unreadable bool) (*flight, error) {
	if s.closed {
		return nil, fserr.New(fserr.Closed, "fetch", l.name, nil)
	}
	f := s.flights[c.Digest]
	if f == nil {
		if unreadable {
			l.places.forget(i, 0)
		} else if l.find(i, c.Digest) {
			return nil, nil
		}
		return s.departLocked(l, i, c), nil
	}
	if !f.landed {
		s.hastenLocked(l, i, c, f)
		f.run.waiters++
	}
	f.waiters++
	return f, nil
}

// departLocked makes a flight for chunk i, in a run of its own or in the one that
// is reading the whole layer just now.
func (s *Scheduler) departLocked(l *Layer, i uint32, c estargz.Chunk) *flight {
	if r := l.passing; r != nil && i >= r.number {
		s.addLocked(r, c, i)
		f := s.flights[c.Digest]
		f.waiters++
		r.waiters++
		return f
	}
	r, _ := s.planLocked(l, i, uint32(l.chunks.NumChunks()), Demand, l.minRun())
	f := s.flights[c.Digest]
	if r == nil {
		return nil
	}
	if f != nil {
		f.waiters++
		r.waiters++
	}
	s.enqueueLocked(r)
	return f
}

// hastenLocked makes a flight that was planned for less arrive as a reader who
// waits needs it: a queued run is lifted, and a chunk far ahead of a running
// stream gets a request of its own. The stream still carries its bytes, and
// skips them.
func (s *Scheduler) hastenLocked(l *Layer, i uint32, c estargz.Chunk, f *flight) {
	if !f.run.started {
		s.liftLocked(f.run, Demand)
		return
	}
	ahead := s.opts.JoinAhead
	if f.run.exact {
		ahead *= exactAhead
	}
	if f.run.distance(f.start) <= ahead || l.streamer != nil {
		return
	}
	lo, hi := l.extent(&c)
	r := &run{layer: l, prio: Demand, lo: lo, hi: hi, pos: lo, waiters: f.waiters}
	r.items = []item{{flight: f, chunk: c, number: i}}
	f.run.waiters -= f.waiters
	f.run, f.start = r, lo
	s.enqueueLocked(r)
}

// leave takes back one reader of f. A run nobody waits for is cancelled.
func (s *Scheduler) leave(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.waiters--
	if f.landed {
		f.freeLocked()
		return
	}
	r := f.run
	r.waiters--
	switch {
	case r.waiters > 0 || r.keep:
	case r.started:
		// Whoever asks from now on must not join what is being cancelled.
		s.failLocked(r, r.items, fserr.New(fserr.Canceled, "fetch", r.layer.name, context.Canceled))
		r.cancel()
	default:
		s.dropLocked(r)
	}
}

// wait blocks until f has landed or ctx ends, and copies the part asked for.
// The caller was counted by joinLocked.
func (s *Scheduler) wait(ctx context.Context, l *Layer, f *flight, p []byte, off int64) (int, error) {
	defer s.leave(f)
	select {
	case <-f.done:
	case <-ctx.Done():
		return 0, fserr.New(fserr.KindOf(ctx.Err()), "fetch", l.name, ctx.Err())
	}
	if f.err != nil {
		return 0, f.err
	}
	if off < 0 || off > int64(len(f.data)) {
		return 0, nil
	}
	return copy(p, f.data[off:]), nil
}

// land hands a verified chunk to the readers of its flight. The flight stays
// joinable until retire, which follows when the store has the chunk.
// Its bytes lie in memory, nil if that is of no concern to anyone else.
func (s *Scheduler) land(f *flight, data []byte, memory *buffer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.landed {
		return false
	}
	f.data, f.landed, f.memory = data, true, memory
	if memory != nil {
		memory.retain()
	}
	f.run.waiters -= f.waiters
	close(f.done)
	return true
}

// retire forgets a landed flight.
func (s *Scheduler) retire(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flights[f.digest] == f {
		delete(s.flights, f.digest)
	}
	f.retired = true
	f.freeLocked()
}

// freeLocked gives the memory of a retired flight back that has no reader left.
func (f *flight) freeLocked() {
	if f.retired && f.waiters == 0 && f.memory != nil {
		f.memory.release()
		f.data, f.memory = nil, nil
	}
}

// failLocked ends those flights of r that have not landed with err, unless
// another run has taken them over.
func (s *Scheduler) failLocked(r *run, items []item, err error) {
	for _, it := range items {
		f := it.flight
		if f.landed || f.run != r {
			continue
		}
		f.err, f.landed = err, true
		close(f.done)
		if s.flights[f.digest] == f {
			delete(s.flights, f.digest)
		}
	}
}

// fail is failLocked for some of a run's chunks, or for all of them if items is
// nil.
func (s *Scheduler) fail(r *run, items []item, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if items == nil {
		items = r.items
	}
	s.failLocked(r, items, err)
}
