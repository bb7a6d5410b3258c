package p9server

import (
	"math/bits"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// LatencyBuckets is how many buckets a Histogram has.
	LatencyBuckets = 28
	// leastLatency is the end of the first one; each further ends at twice that.
	leastLatency = 250 * time.Nanosecond
	// SampledOneIn is how many requests answered at once there are for each that
	// is timed: reading the clock twice takes as long as answering some of them.
	SampledOneIn = 64
)

// LatencyBound is the end of bucket i of a Histogram; the last one has no end.
func LatencyBound(i int) time.Duration { return leastLatency << i }

// Histogram tells how long answers took.
type Histogram struct {
	// Buckets count answers that took longer than the bucket before, and at most
	// LatencyBound of this one.
	Buckets [LatencyBuckets]uint64
	// Sum of all of them.
	Sum time.Duration
}

// Count is how many answers the histogram is of.
func (h *Histogram) Count() (n uint64) {
	for _, b := range h.Buckets {
		n += b
	}
	return n
}

// histogram is a Histogram that is counted in.
type histogram struct {
	buckets [LatencyBuckets]atomic.Uint64
	sum     atomic.Int64
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	if d > leastLatency {
		i = min(bits.Len64(uint64((d-1)/leastLatency)), LatencyBuckets-1)
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) snapshot() (s Histogram) {
	for i := range h.buckets {
		s.Buckets[i] = h.buckets[i].Load()
	}
	s.Sum = time.Duration(h.sum.Load())
	return s
}

// timed is dispatch with a look at the clock.
func (c *conn) timed(typ uint8, tag uint16, d *decoder) syscall.Errno {
	began := time.Now()
	errno := c.dispatch(typ, tag, d)
	if errno != errDeferred {
		c.srv.stats.atOnce[messageIndex(typ)].observe(time.Since(began))
	}
	return errno
}
