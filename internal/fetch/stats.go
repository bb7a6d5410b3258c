package fetch

import (
	"sync/atomic"

	"github.com/nineply/nineply/internal/histogram"
)

// traffic counts range requests and the blob bytes that they brought.
type traffic struct {
	requests, bytes [numPriorities]atomic.Int64
}

// Traffic is a snapshot of requests and bytes, by the name of the priority.
type Traffic struct {
	Requests, Bytes map[string]int64
}

func (t *traffic) snapshot() Traffic {
	out := Traffic{Requests: map[string]int64{}, Bytes: map[string]int64{}}
	for p := range numPriorities {
		out.Requests[p.String()] = t.requests[p].Load()
		out.Bytes[p.String()] = t.bytes[p].Load()
	}
	return out
}

// asked counts a request of a run.
func (s *Scheduler) asked(r *run) {
	s.stats.requests[r.prio].Add(1)
	r.layer.traffic.requests[r.prio].Add(1)
}

// brought counts bytes of a run.
func (s *Scheduler) brought(r *run, n int64) {
	s.stats.bytes[r.prio].Add(n)
	r.layer.traffic.bytes[r.prio].Add(n)
}

// Traffic is what was asked for of the layer's blob, and what came, since the layer
// was made.
func (l *Layer) Traffic() Traffic { return l.traffic.snapshot() }

// Fetched is how many bytes of the blob were fetched, whatever for.
func (l *Layer) Fetched() int64 {
	n := int64(0)
	for p := range numPriorities {
		n += l.traffic.bytes[p].Load()
	}
	return n
}

// counters are the scheduler's own; Stats is what others see.
type counters struct {
	traffic
	took [numPriorities]histogram.Histogram // by runs, from their start to their end

	hits, misses, corrupt, notStored atomic.Int64
}

// Stats is a snapshot of a scheduler's counters since it started.
type Stats struct {
	Traffic
	// Took counts how long runs took from their first request to their end, by the
	// name of the priority.
	Took map[string]histogram.Snapshot
	// Hits and Misses count chunk reads answered from the store and not.
	Hits, Misses int64
	// Corrupt counts members that arrived and failed their digests.
	Corrupt int64
	// NotStored counts chunks that were served but could not be cached.
	NotStored int64
	// Queued and Active count runs now, QueuedBy and ActiveBy by the name of the
	// priority.
	Queued, Active     int
	QueuedBy, ActiveBy map[string]int
}

// Stats takes a snapshot.
func (s *Scheduler) Stats() Stats {
	st := Stats{
		Traffic: s.stats.snapshot(), Took: map[string]histogram.Snapshot{}, QueuedBy: map[string]int{}, ActiveBy: map[string]int{},
		Hits: s.stats.hits.Load(), Misses: s.stats.misses.Load(),
		Corrupt: s.stats.corrupt.Load(), NotStored: s.stats.notStored.Load(),
	}
	for p := range numPriorities {
		st.Took[p.String()] = s.stats.took[p].Snapshot()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range numPriorities {
		st.QueuedBy[p.String()], st.ActiveBy[p.String()] = len(s.queue[p]), s.active[p]
		st.Queued += len(s.queue[p])
	}
	st.Active = s.totalActive()
	return st
}
