package image

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"go.uber.org/zap"
)

// Fill says how layers are fetched and verified in the background.
type Fill struct {
	Enabled bool
	// Delay is how long nobody must have waited for bytes before it begins; 5 s.
	Delay time.Duration
	// Share is the part of the time, in percent, in which background requests use the
	// connection; 50. Rate bounds their bytes per second besides; 0 is no bound.
	Share int
	Rate  int64
	// Piece is how much one request asks for; 4 MiB. Checkpoint is after how many bytes
	// of a blob is recorded how far it was read; 8 MiB.
	Piece, Checkpoint int64
	// Retry is how long it waits after a source failed, at first; 2 s. It doubles.
	Retry time.Duration
	// Room reports whether the store takes so many more bytes without giving up what
	// it has; nil: it always does.
	Room func(bytes int64) bool
	// Event is told what came of it. It must not block; nil: nobody is.
	Event func(Event)
}

func (f Fill) withDefaults() Fill {
	set := func(v *int64, def int64) {
		if *v == 0 {
			*v = def
		}
	}
	set((*int64)(&f.Delay), int64(5*time.Second))
	set((*int64)(&f.Retry), int64(2*time.Second))
	set(&f.Piece, 4<<20)
	set(&f.Checkpoint, 8<<20)
	if f.Share <= 0 || f.Share > 100 {
		f.Share = 50
	}
	if f.Room == nil {
		f.Room = func(int64) bool { return true }
	}
	if f.Event == nil {
		f.Event = func(Event) {}
	}
	return f
}

// pause is how long to wait after a request that brought n bytes in took.
func (f Fill) pause(n int, took time.Duration) time.Duration {
	wait := took * time.Duration(100-f.Share) / time.Duration(f.Share)
	if f.Rate > 0 {
		wait = max(wait, time.Duration(float64(n)/float64(f.Rate)*float64(time.Second))-took)
	}
	return wait
}

// piece is how much to ask for at once: with a low rate no more than it allows in a
// second, so that what is asked for does not come in bursts.
func (f Fill) piece() int64 {
	if f.Rate > 0 {
		return max(readUnit, min(f.Piece, f.Rate))
	}
	return f.Piece
}

// readUnit is the least that is asked for at once, bytes.
const readUnit = 64 << 10

// The states of a layer, as reports name them.
const (
	FillOff      = ""         // nothing is done about it
	FillWaiting  = "waiting"  // for its turn, or for a source
	FillRunning  = "filling"  // being read
	FillVerified = "verified" // its tar has the DiffID, and its index describes that tar
	FillPoisoned = "poisoned" // it has not
	FillFailed   = "failed"   // it cannot be told
)

// FillInfo says how far a layer is.
type FillInfo struct {
	State  string
	Reason string // of being poisoned, failed or still waiting
	Done   int64  // of the blob, bytes, when it is being read
}

// FillStats counts what the background did since the catalog was made.
type FillStats struct {
	Bytes    int64 // of blobs, read in the background
	Kept     int64 // of chunks that the cache got from there
	Verified int64 // layers found to be right
	Poisoned int64 // layers known to be wrong, now
}

// job is one layer to be read in the background.
type job struct {
	id     layerID
	size   int64
	done   atomic.Int64
	urgent atomic.Bool // somebody waits for it
	state  string      // guarded by filler.mu, as all below
	reason string
	since  time.Time // it is not begun before
	fails  int       // so far
	cancel context.CancelFunc
	ended  chan struct{} // closed when it is not running any more; nil: it does not run
}

// filler reads layers in the background, one after the other. Its lock is a leaf.
type filler struct {
	Fill
	c    *Catalog
	wake chan struct{} // holds one token when there may be something to do

	bytes, kept, verified atomic.Int64

	mu       sync.Mutex
	attached map[*treeState]int // trees in use, by attaches
	jobs     map[layerID]*job
	order    []layerID          // of jobs
	wrong    map[layerID]string // why layers are known to be wrong
}

func newFiller(c *Catalog, o Fill) *filler {
	return &filler{
		Fill: o.withDefaults(), c: c, wake: make(chan struct{}, 1),
		attached: map[*treeState]int{}, jobs: map[layerID]*job{}, wrong: map[layerID]string{},
	}
}

// start begins the background's work: with the layers of chains that earlier runs
// left unverified.
func (f *filler) start() {
	if !f.Enabled {
		return
	}
	f.c.goBackground(func(ctx context.Context) {
		if err := f.resume(ctx); err != nil && ctx.Err() == nil {
			f.c.log.Warn("looking for layers to be verified", zap.Error(err))
		}
		f.run(ctx)
	})
}

// poke has the worker look again.
func (f *filler) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// want has a layer read when its turn comes, if it is not verified.
func (f *filler) want(ctx context.Context, l *Layer) {
	v := f.c.verdict(ctx, l)
	if !f.Enabled || v.settled() {
		return
	}
	f.add(l.id, l.rec.Desc.Size)
}

func (f *filler) add(id layerID, size int64) {
	f.mu.Lock()
	if j := f.jobs[id]; j == nil || j.state == FillOff { // there is none, or it is ending
		f.jobs[id] = &job{id: id, size: size, state: FillWaiting}
		if j == nil {
			f.order = append(f.order, id)
		}
	} else if j.state == FillFailed { // someone wants it anew
		j.state, j.fails, j.since = FillWaiting, 0, time.Time{}
	}
	f.mu.Unlock()
	f.poke()
}

// run works until ctx ends.
func (f *filler) run(ctx context.Context) {
	for ctx.Err() == nil {
		j, wait := f.next(time.Now())
		if j != nil {
			f.work(ctx, j)
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-f.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// next is the job to be done now: of a layer in use, if there is one. Else wait says
// when to look again.
func (f *filler) next(now time.Time) (best *job, wait time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wait = time.Hour
	used := f.usedLocked()
	for _, id := range f.order {
		j := f.jobs[id]
		if j.state != FillWaiting {
			continue
		}
		if left := j.since.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		if best == nil || used[id] && !used[best.id] {
			best = j
		}
	}
	return best, wait
}

// usedLocked lists the layers of trees in use.
func (f *filler) usedLocked() map[layerID]bool {
	used := map[layerID]bool{}
	for t := range f.attached {
		for _, l := range t.layers {
			used[l.id] = true
		}
	}
	return used
}

const (
	lastRetry = 5 * time.Minute
	// maxFails is how often a source may give bytes that are not the blob's.
	maxFails = 4
)

// work reads the layer of a job, as long as somebody has a use for it.
func (f *filler) work(ctx context.Context, j *job) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.mu.Lock()
	if j.ended != nil { // somebody could not wait for its turn
		f.mu.Unlock()
		return
	}
	ended := make(chan struct{})
	j.state, j.reason, j.cancel, j.ended = FillRunning, "", cancel, ended
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		j.ended = nil
		f.mu.Unlock()
		close(ended)
	}()
	if !f.stillWanted(ctx, j.id) {
		f.drop(j)
		return
	}
	err := f.read(ctx, j)
	if err == nil || ctx.Err() != nil {
		f.drop(j)
		return
	}
	if f.retry(j, err) {
		return
	}
	f.c.log.Warn("a layer cannot be verified", zap.Stringer("layer", j.id), zap.Error(err))
	f.Event(Event{Time: time.Now(), Kind: EventUnverified, Layer: j.id.blob.String(), Text: err.Error()})
}

// retry has a job that failed done again later, unless it is of no use.
func (f *filler) retry(j *job, err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	j.cancel = nil
	j.state, j.reason = FillWaiting, err.Error()
	j.fails++
	j.since = time.Now().Add(min(lastRetry, f.Retry<<min(j.fails-1, 8)))
	switch fserr.KindOf(err) {
	case fserr.Unsupported, fserr.TooLarge, fserr.NotExist:
	case fserr.Corrupt:
		if j.fails < maxFails {
			return true
		}
	default: // a source, or this machine, which may be better later
		return true
	}
	j.state = FillFailed
	return false
}

func (f *filler) drop(j *job) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropLocked(j)
}

func (f *filler) dropLocked(j *job) {
	if f.jobs[j.id] != j {
		return
	}
	delete(f.jobs, j.id)
	f.order = slices.DeleteFunc(f.order, func(id layerID) bool { return id == j.id })
}

// enter says that a tree is used, leave that it is used once less.
func (f *filler) enter(ctx context.Context, t *treeState) {
	f.mu.Lock()
	f.attached[t]++
	f.mu.Unlock()
	for _, l := range t.layers {
		f.want(ctx, l)
	}
}

func (f *filler) leave(t *treeState) {
	f.mu.Lock()
	f.attached[t]--
	gone := f.attached[t] == 0
	if gone {
		delete(f.attached, t)
	}
	f.mu.Unlock()
	if !gone {
		return
	}
	for _, l := range t.layers {
		f.reconsider(l.id)
	}
}

// reconsider gives up what is done for a layer if nobody uses it any more.
func (f *filler) reconsider(id layerID) {
	f.mu.Lock()
	j := f.jobs[id]
	f.mu.Unlock()
	if j == nil {
		return
	}
	f.c.goBackground(func(ctx context.Context) {
		if f.stillWanted(ctx, id) {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		switch {
		case f.jobs[id] != j || j.urgent.Load():
		case j.cancel != nil:
			j.cancel()
			j.state = FillOff
		default:
			f.dropLocked(j)
		}
	})
}

// stillWanted reports whether a tree in use or a chain has the layer.
func (f *filler) stillWanted(ctx context.Context, id layerID) bool {
	f.mu.Lock()
	used := f.usedLocked()[id]
	f.mu.Unlock()
	if used {
		return true
	}
	found := false
	err := f.c.eachChain(ctx, func(_ string, rec *chainRecord) {
		found = found || rec.isOf(id)
	})
	return found || err != nil && ctx.Err() == nil // in doubt it is
}

// info says how far a layer is.
func (f *filler) info(l *Layer) FillInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	if reason := f.wrong[l.id]; reason != "" {
		return FillInfo{State: FillPoisoned, Reason: reason}
	}
	if v := l.found(); v.DiffID != "" {
		return FillInfo{State: FillVerified}
	}
	j := f.jobs[l.id]
	if j == nil {
		return FillInfo{}
	}
	info := FillInfo{State: j.state, Reason: j.reason}
	if j.state == FillRunning {
		info.Done = j.done.Load()
	}
	return info
}

// FillStats takes a snapshot.
func (c *Catalog) FillStats() FillStats {
	f := c.fill
	f.mu.Lock()
	defer f.mu.Unlock()
	return FillStats{Bytes: f.bytes.Load(), Kept: f.kept.Load(), Verified: f.verified.Load(), Poisoned: int64(len(f.wrong))}
}
