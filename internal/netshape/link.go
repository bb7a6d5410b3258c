package netshape

import (
	"sync"
	"time"
)

// maxAhead is how far the link may be booked before senders are held back: enough
// to keep it busy when a goroutine is late, and little for others to wait for.
const maxAhead = 5 * time.Millisecond

// link is what all connections share. It sends one segment after another.
type link struct {
	perByte float64 // nanoseconds; 0: no limit

	mu   sync.Mutex
	free time.Time // when all that was booked is sent
}

func newLink(bytesPerSecond int64) *link {
	l := &link{}
	if bytesPerSecond > 0 {
		l.perByte = float64(time.Second) / float64(bytesPerSecond)
	}
	return l
}

// book takes the link for n bytes, from now on or when it is free. It returns
// when they have left, and how long the sender has to wait before it may book
// again.
func (l *link) book(now time.Time, n int) (sent time.Time, wait time.Duration) {
	if l.perByte == 0 {
		return now, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) * l.perByte))
	return l.free, max(0, l.free.Sub(now)-maxAhead)
}
