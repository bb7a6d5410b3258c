package histogram

import (
	"sync/atomic"
	"time"
)

// bounds are the upper ends of the buckets: from a read that memory answers to a
// request that a registry lets wait.
var bounds = [...]time.Duration{
	time.Microsecond, 2 * time.Microsecond, 5 * time.Microsecond,
	10 * time.Microsecond, 25 * time.Microsecond, 50 * time.Microsecond,
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second,
}

// Histogram counts durations. The zero value is ready; it is safe for concurrent
// use.
type Histogram struct {
	buckets [len(bounds) + 1]atomic.Uint64
	nanos   atomic.Int64
}

// Observe counts a duration, weight times.
func (h *Histogram) Observe(d time.Duration, weight uint64) {
	h.buckets[bucket(d)].Add(weight)
	h.nanos.Add(int64(d) * int64(weight))
}

// bucket is the number of the first bucket whose bound d does not exceed.
func bucket(d time.Duration) int {
	lo, hi := 0, len(bounds)
	for lo < hi {
		if mid := (lo + hi) / 2; bounds[mid] < d {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// Snapshot is what a histogram had counted at some time.
type Snapshot struct {
	Count   uint64
	Seconds float64
	// Buckets counts, for each bound in seconds, what took no longer.
	Buckets map[float64]uint64
}

// Snapshot gives what was counted. What is observed during the call may be in parts
// of it only.
func (h *Histogram) Snapshot() Snapshot {
	s := Snapshot{Seconds: time.Duration(h.nanos.Load()).Seconds(), Buckets: make(map[float64]uint64, len(bounds))}
	for i, bound := range bounds {
		s.Count += h.buckets[i].Load()
		s.Buckets[bound.Seconds()] = s.Count
	}
	s.Count += h.buckets[len(bounds)].Load()
	return s
}
