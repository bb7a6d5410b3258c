package fetch

import (
	"context"
	"sync"
	"time"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"go.uber.org/zap"
)

// Priority orders runs. A lower value is more urgent.
type Priority uint8

// The priorities, most urgent first.
const (
	Demand     Priority = iota // a reader waits
	Prefetch                   // a reader will probably ask soon
	Background                 // fills what nobody has asked for
	numPriorities
)

// String names the priority as metrics do.
func (p Priority) String() string {
	return [...]string{"demand", "prefetch", "background"}[p]
}

// ChunkMap lists a layer's chunks in blob order.
type ChunkMap interface {
	NumChunks() int
	// Chunk gives chunk number i; ok is false beyond the end.
	Chunk(i uint32) (c estargz.Chunk, ok bool)
	// ChunksFrom is the number of the first chunk whose member starts at or
	// behind the blob offset.
	ChunksFrom(member int64) uint32
}

// Store keeps verified chunks.
type Store interface {
	Locate(d chunkstore.Digest) (chunkstore.Loc, bool)
	ReadAt(loc chunkstore.Loc, d chunkstore.Digest, p []byte, off int64) (int, error)
	Put(ctx context.Context, d chunkstore.Digest, data []byte) (chunkstore.Loc, error)
	PutVerified(ctx context.Context, v chunkstore.Verified) (chunkstore.Loc, error)
}

// Options bound a [Scheduler]. Zero values mean the defaults named.
type Options struct {
	Concurrency int   // requests in flight; 16
	ReadAhead   int64 // largest read-ahead window, bytes of the blob; 8 MiB
	MaxRun      int64 // largest prefetch or background request, bytes; 4 MiB
	MinRun      int64 // a demand is extended over missing neighbours to this many bytes at least; 128 KiB
	Gap         int64 // bytes worth fetching to save a request, at least; 64 KiB
	JoinAhead   int64 // a demand this far ahead of a running stream waits for it, bytes; 1 MiB
	Logger      *zap.Logger
}

func (o Options) withDefaults() Options {
	set := func(v *int64, def int64) {
		if *v == 0 {
			*v = def
		}
	}
	if o.Concurrency == 0 {
		o.Concurrency = 16
	}
	set(&o.ReadAhead, 8<<20)
	set(&o.MaxRun, 4<<20)
	set(&o.MinRun, 128<<10)
	set(&o.Gap, 64<<10)
	set(&o.JoinAhead, 1<<20)
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// Scheduler decides which bytes are fetched next, for all layers of a daemon.
type Scheduler struct {
	store Store
	opts  Options
	stats counters

	urgent, bulk memory // of demands, and of all else
	stores       storeQueue

	ctx    context.Context // the root of every run; ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // runs, and chunks on their way into the store

	mu      sync.Mutex
	closed  bool
	flights map[estargz.Digest]*flight
	queue   [numPriorities][]*run
	active  [numPriorities]int
	calm    calm
}

// New starts a scheduler. ctx bounds the life of all its requests; Close waits
// for them.
func New(ctx context.Context, store Store, opts Options) *Scheduler {
	free := new(bufferPool)
	s := &Scheduler{
		store: store, opts: opts.withDefaults(), flights: map[estargz.Digest]*flight{},
		urgent: newMemory(free), bulk: newMemory(free),
	}
	s.calm = newCalm()
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

// Close cancels everything in flight, fails its readers with fserr.Closed, and
// waits until nothing runs.
func (s *Scheduler) Close() {
	s.mu.Lock()
	s.closed = true
	var dropped []*run
	for p := range s.queue {
		dropped = append(dropped, s.queue[p]...)
		s.queue[p] = nil
	}
	for _, r := range dropped {
		s.failLocked(r, r.items, fserr.New(fserr.Closed, "fetch", r.layer.name, nil))
	}
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
}

// slots is how many runs of priority p may be active: readers who wait may use
// every slot, the others leave room for them.
func (s *Scheduler) slots(p Priority) int {
	switch p {
	case Demand:
		return s.opts.Concurrency
	case Prefetch:
		return max(1, 3*s.opts.Concurrency/4) // all that a profile asks for goes at once
	default:
		return max(1, s.opts.Concurrency/4)
	}
}

// enqueueLocked puts r at the end of its priority's queue and starts what may
// start.
func (s *Scheduler) enqueueLocked(r *run) {
	s.queue[r.prio] = append(s.queue[r.prio], r)
	s.noteLocked()
	s.dispatchLocked()
}

// dispatchLocked starts queued runs while there are slots, most urgent first.
// Less urgent runs wait while a more urgent one is queued.
func (s *Scheduler) dispatchLocked() {
	for p := range numPriorities {
		for len(s.queue[p]) > 0 {
			if s.totalActive() >= s.opts.Concurrency || s.active[p] >= s.slots(p) {
				return
			}
			r := s.queue[p][0]
			s.queue[p] = s.queue[p][1:]
			s.mergeLocked(r)
			s.startLocked(r)
		}
	}
}

func (s *Scheduler) totalActive() int {
	n := 0
	for _, a := range s.active {
		n += a
	}
	return n
}

// startLocked begins r in a goroutine that Close waits for.
func (s *Scheduler) startLocked(r *run) {
	r.started = true
	ctx, cancel := context.WithCancel(s.ctx)
	r.cancel = cancel
	s.active[r.prio]++
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer cancel()
		began := time.Now()
		r.carryOut(ctx, s)
		s.stats.took[r.prio].Observe(time.Since(began), 1)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.active[r.prio]--
		s.noteLocked()
		if !s.closed {
			s.dispatchLocked()
		}
	}()
}

// mergeLocked extends r by queued runs of the same layer and of any priority
// that lie within the gap of it, so that one request serves them all.
func (s *Scheduler) mergeLocked(r *run) {
	if r.layer.streamer != nil || r.exact {
		return
	}
	for merged := true; merged; {
		merged = false
		for p := range s.queue {
			for i, o := range s.queue[p] {
				if o.layer != r.layer || o.exact || !r.near(o, r.layer.gap()) || r.span(o) > s.opts.MaxRun {
					continue
				}
				s.queue[p] = append(s.queue[p][:i:i], s.queue[p][i+1:]...)
				r.absorb(o)
				merged = true
				break
			}
		}
	}
}

// liftLocked moves a queued run to a more urgent queue.
func (s *Scheduler) liftLocked(r *run, to Priority) {
	if r.started || r.prio <= to {
		return
	}
	q := s.queue[r.prio]
	for i, o := range q {
		if o == r {
			s.queue[r.prio] = append(q[:i:i], q[i+1:]...)
			r.prio = to
			s.enqueueLocked(r)
			return
		}
	}
}

// dropLocked removes a queued run whose readers have all left.
func (s *Scheduler) dropLocked(r *run) {
	q := s.queue[r.prio]
	for i, o := range q {
		if o == r {
			s.queue[r.prio] = append(q[:i:i], q[i+1:]...)
			s.noteLocked()
			break
		}
	}
	s.failLocked(r, r.items, fserr.New(fserr.Canceled, "fetch", r.layer.name, context.Canceled))
}
