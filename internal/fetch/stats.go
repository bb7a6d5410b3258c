package fetch

import "sync/atomic"

// counters are the scheduler's own; Stats is what others see.
type counters struct {
	requests [numPriorities]atomic.Int64
	bytes    [numPriorities]atomic.Int64

	hits, misses, corrupt, notStored atomic.Int64
}

// Stats is a snapshot of a scheduler's counters since it started.
type Stats struct {
	// Requests and Bytes count range requests and the blob bytes they brought,
	// by the name of the priority.
	Requests, Bytes map[string]int64
	// Hits and Misses count chunk reads answered from the store and not.
	Hits, Misses int64
	// Corrupt counts members that arrived and failed their digests.
	Corrupt int64
	// NotStored counts chunks that were served but could not be cached.
	NotStored int64
	// Queued and Active count runs now.
	Queued, Active int
}

// Stats takes a snapshot.
func (s *Scheduler) Stats() Stats {
	st := Stats{
		Requests: map[string]int64{}, Bytes: map[string]int64{},
		Hits: s.stats.hits.Load(), Misses: s.stats.misses.Load(),
		Corrupt: s.stats.corrupt.Load(), NotStored: s.stats.notStored.Load(),
	}
	for p := range numPriorities {
		st.Requests[p.String()] = s.stats.requests[p].Load()
		st.Bytes[p.String()] = s.stats.bytes[p].Load()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.queue {
		st.Queued += len(q)
	}
	st.Active = s.totalActive()
	return st
}
