package fetch

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// readStep is how much of a background request is read at once, bytes.
const readStep = 64 << 10

// calm tells whether anything more urgent than background is queued or active. It is
// guarded by Scheduler.mu.
type calm struct {
	busy  bool
	since time.Time     // of being calm
	quiet chan struct{} // closed while calm
	stir  chan struct{} // closed while busy
}

func newCalm() calm {
	c := calm{since: time.Now(), quiet: make(chan struct{}), stir: make(chan struct{})}
	close(c.quiet)
	return c
}

// noteLocked is called when runs were queued, started or ended.
func (s *Scheduler) noteLocked() {
	c := &s.calm
	n := 0
	for p := range Background {
		n += len(s.queue[p]) + s.active[p]
	}
	switch busy := n > 0; {
	case busy == c.busy:
		return
	case busy:
		c.busy, c.quiet = true, make(chan struct{})
		close(c.stir)
	default:
		c.busy, c.since, c.stir = false, time.Now(), make(chan struct{})
		close(c.quiet)
	}
}

// Idle waits until for so long nobody has waited for bytes, of whatever layer, and
// nothing was fetched ahead of readers.
func (s *Scheduler) Idle(ctx context.Context, quiet time.Duration) error {
	for {
		s.mu.Lock()
		c := s.calm
		s.mu.Unlock()
		if c.busy {
			if err := s.await(ctx, c.quiet, nil); err != nil {
				return err
			}
			continue
		}
		left := quiet - time.Since(c.since)
		if left <= 0 {
			return nil
		}
		timer := time.NewTimer(left)
		err := s.await(ctx, c.stir, timer.C)
		timer.Stop()
		if err != nil {
			return err
		}
	}
}

// await waits for one of the two, or fails when nothing will come any more.
func (s *Scheduler) await(ctx context.Context, ch <-chan struct{}, timer <-chan time.Time) error {
	select {
	case <-ch:
		return nil
	case <-timer:
		return nil
	case <-ctx.Done():
		return fserr.New(fserr.KindOf(ctx.Err()), "wait", "", ctx.Err())
	case <-s.ctx.Done():
		return fserr.New(fserr.Closed, "wait", "", nil)
	}
}

// ReadRaw reads bytes of the layer's blob as they are, unverified, from off on, as a
// background run. When something more urgent comes up it stops, and n says how far
// it came: fewer bytes than asked for, or none, are no error. Layers that are not
// [Layer.Ranged] cannot be read this way.
func (l *Layer) ReadRaw(ctx context.Context, p []byte, off int64) (n int, err error) {
	s := l.s
	if l.blob == nil {
		return 0, fserr.Newf(fserr.Unsupported, "read", l.name, "the layer cannot be read in ranges")
	}
	done := make(chan struct{})
	r := &run{layer: l, prio: Background, keep: true, exact: true, lo: off, hi: off + int64(len(p)), pos: off}
	r.job = func(ctx context.Context) {
		defer close(done)
		n, err = l.readRaw(ctx, r, p)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return 0, fserr.New(fserr.Closed, "fetch", l.name, nil)
	}
	s.enqueueLocked(r)
	s.mu.Unlock()
	select {
	case <-done:
		return n, err
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	if s.withdraw(r) {
		<-done // p is in use until then
	}
	if ctx.Err() != nil {
		return 0, fserr.New(fserr.KindOf(ctx.Err()), "fetch", l.name, ctx.Err())
	}
	return 0, fserr.New(fserr.Closed, "fetch", l.name, nil)
}

// withdraw cancels a run, and reports whether it had started.
func (s *Scheduler) withdraw(r *run) (started bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.started {
		r.cancel()
		return true
	}
	for i, o := range s.queue[r.prio] {
		if o == r {
			s.queue[r.prio] = append(s.queue[r.prio][:i:i], s.queue[r.prio][i+1:]...)
			break
		}
	}
	return false
}

// readRaw is the run of ReadRaw.
func (l *Layer) readRaw(ctx context.Context, r *run, p []byte) (int, error) {
	s := l.s
	s.mu.Lock()
	stir := s.calm.stir
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-stir:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer func() {
		cancel()
		<-watched
	}()
	n, err := l.readSteps(ctx, r, p)
	l.learn()
	select {
	case <-stir: // whatever the error is, it says no more than that
		return n, nil
	default:
		return n, err
	}
}

func (l *Layer) readSteps(ctx context.Context, r *run, p []byte) (n int, err error) {
	s := l.s
	s.stats.requests[r.prio].Add(1)
	body, err := l.blob.OpenRange(ctx, r.lo, r.hi-r.lo)
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }() // read side: all that matters was read
	for n < len(p) {
		m, err := body.Read(p[n:min(len(p), n+readStep)])
		n += m
		s.advance(r, r.lo+int64(n))
		if n == len(p) {
			break
		}
		if ctx.Err() != nil {
			return n, ctx.Err()
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return n, r.sourceError(err)
		}
	}
	return n, nil
}

// Keep gives the store the payload of chunk i, if it has not got it. A layer that learns
// its digests learns this one.
func (l *Layer) Keep(ctx context.Context, i uint32, payload chunkstore.Verified) error {
	if int64(i) >= int64(l.places.n) {
		return fserr.Newf(fserr.Internal, "keep", l.name, "no chunk %d", i)
	}
	c, _ := l.chunks.Chunk(i)
	d := estargz.Digest(payload.Digest())
	switch {
	case l.learner == nil && d != c.Digest:
		return fserr.Newf(fserr.Corrupt, "keep", l.name, "chunk %d has digest %s, not %s", i, c.Digest, d)
	case l.learner == nil && l.find(i, d):
		return nil
	}
	loc, err := l.s.store.PutVerified(ctx, payload)
	if err != nil {
		return err
	}
	if l.learner != nil {
		l.learner.Learn(i, d)
	}
	l.places.set(i, loc)
	return nil
}

// carryOut does what the run is there for.
func (r *run) carryOut(ctx context.Context, s *Scheduler) {
	if r.job != nil {
		r.job(ctx)
		return
	}
	r.execute(ctx, s)
}
