package profile

import (
	"sync"
	"sync/atomic"
	"time"
)

// Limits bound what a [Recorder] notes. Zero values mean the defaults named.
type Limits struct {
	Entries int           // chunks; MaxEntries
	Idle    time.Duration // without a new chunk for this long, the start is over; 10 s
	Total   time.Duration // since the first chunk; 2 min
}

func (l Limits) withDefaults() Limits {
	if l.Entries <= 0 || l.Entries > MaxEntries {
		l.Entries = MaxEntries
	}
	if l.Idle <= 0 {
		l.Idle = 10 * time.Second
	}
	if l.Total <= 0 {
		l.Total = 2 * time.Minute
	}
	return l
}

// Touch is the first read of a chunk.
type Touch struct {
	Layer int    // number of the layer in the tree
	Chunk uint32 // number of the chunk in the layer's index
	At    time.Duration
}

// Recorder notes the first reads of the chunks of one tree, until there have
// been none for a while.
type Recorder struct {
	limits Limits
	now    func() time.Time
	seen   [][]atomic.Uint64 // by layer, one bit for each chunk

	mu      sync.Mutex
	touches []Touch
	first   time.Time // of the first touch
	last    time.Time // of the latest
	done    bool
}

// NewRecorder makes a recorder for a tree with layers of so many chunks.
func NewRecorder(chunks []int, l Limits) *Recorder {
	return newRecorder(chunks, l, time.Now)
}

func newRecorder(chunks []int, l Limits, now func() time.Time) *Recorder {
	r := &Recorder{limits: l.withDefaults(), now: now, seen: make([][]atomic.Uint64, len(chunks))}
	for i, n := range chunks {
		r.seen[i] = make([]atomic.Uint64, (max(n, 0)+63)/64)
	}
	return r
}

// Touch notes a read of a chunk. It may be called for every read: only the first
// of a chunk locks or allocates anything.
func (r *Recorder) Touch(layer int, chunk uint32) {
	if r.Touched(layer, chunk) {
		return
	}
	r.note(layer, chunk)
}

// Touched reports whether the chunk was read since the recorder was made, or was
// to be noted when the recording had ended.
func (r *Recorder) Touched(layer int, chunk uint32) bool {
	if uint(layer) >= uint(len(r.seen)) {
		return false
	}
	words := r.seen[layer]
	w := chunk / 64
	return uint64(w) < uint64(len(words)) && words[w].Load()&(1<<(chunk%64)) != 0
}

func (r *Recorder) note(layer int, chunk uint32) {
	if uint(layer) >= uint(len(r.seen)) || uint64(chunk/64) >= uint64(len(r.seen[layer])) {
		return
	}
	bit := uint64(1) << (chunk % 64)
	if r.seen[layer][chunk/64].Or(bit)&bit != 0 {
		return // someone else was first
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if r.overLocked(now) {
		return
	}
	if len(r.touches) == 0 {
		r.first = now
	}
	r.last = now
	r.touches = append(r.touches, Touch{Layer: layer, Chunk: chunk, At: now.Sub(r.first)})
}

// overLocked reports whether the recording has ended, and ends it when its time
// has come.
func (r *Recorder) overLocked(now time.Time) bool {
	if !r.done && len(r.touches) > 0 {
		r.done = len(r.touches) >= r.limits.Entries || now.Sub(r.last) >= r.limits.Idle || now.Sub(r.first) >= r.limits.Total
	}
	return r.done
}

// Left is how long the recording will go on at least; 0 when it has ended. One
// that nothing was read of yet has not begun.
func (r *Recorder) Left() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if r.overLocked(now) {
		return 0
	}
	if len(r.touches) == 0 {
		return r.limits.Idle
	}
	return min(r.limits.Idle-now.Sub(r.last), r.limits.Total-now.Sub(r.first))
}

// Stop ends the recording and gives what was noted, in order.
func (r *Recorder) Stop() []Touch {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = true
	return r.touches
}
