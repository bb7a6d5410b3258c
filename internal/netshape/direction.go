package netshape

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// blockSize is the most that one read takes, and one segment holds.
	blockSize = 64 << 10
	// smallSegment is up to where a segment gets memory of its own size.
	smallSegment = blockSize / 2
	// maxSegments bounds the segments on their way in one direction.
	maxSegments = 1024
)

var blocks = sync.Pool{New: func() any { return new([blockSize]byte) }}

// segment is bytes on their way, or the end of the stream.
type segment struct {
	due   time.Time // when it arrives
	bytes []byte
	block *[blockSize]byte // that bytes are in; nil if they are on their own
	cost  int64            // of the window
	end   bool             // the sender has no more
}

// direction is one of the two of a connection.
type direction struct {
	from, to net.Conn
	link     *link
	delay    time.Duration
	open     time.Time
	window   int
	count    *atomic.Int64
	abort    context.CancelFunc // ends the connection, both directions
}

// run carries bytes until the stream ends and its end has arrived, or ctx ends.
func (d *direction) run(ctx context.Context) {
	segments := make(chan segment, maxSegments)
	window := semaphore.NewWeighted(max(int64(d.window), blockSize))
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(segments)
		if !d.receive(ctx, segments, window) {
			d.abort()
		}
	})
	if !d.deliver(ctx, segments, window) {
		d.abort()
	}
	wg.Wait()
}

// receive stamps what comes and sends it on its way. It reports false when the
// stream did not end as it should.
func (d *direction) receive(ctx context.Context, segments chan<- segment, window *semaphore.Weighted) bool {
	for {
		// Room first: what has been read cannot be held back any more.
		if window.Acquire(ctx, blockSize) != nil {
			return false
		}
		block := blocks.Get().(*[blockSize]byte) //nolint:errcheck // the pool has nothing else
		n, err := d.from.Read(block[:])
		now := time.Now()
		if now.Before(d.open) {
			now = d.open
		}
		sent, wait := d.link.book(now, n)
		s := segment{due: sent.Add(d.delay), bytes: block[:n], block: block, cost: blockSize}
		if n <= smallSegment {
			s.bytes, s.block, s.cost = append([]byte(nil), block[:n]...), nil, int64(n)
			blocks.Put(block)
			window.Release(blockSize - s.cost)
		}
		s.end = errors.Is(err, io.EOF)
		select {
		case segments <- s:
		case <-ctx.Done():
			return false
		}
		switch {
		case s.end:
			return true
		case err != nil:
			sleep(ctx, d.delay) // the news of a reset take their time, too
			return false
		case !sleep(ctx, wait):
			return false
		}
	}
}

// deliver writes segments when they are due. It reports false when the other side
// takes no more.
func (d *direction) deliver(ctx context.Context, segments <-chan segment, window *semaphore.Weighted) bool {
	for s := range segments {
		if !sleep(ctx, time.Until(s.due)) {
			return false
		}
		d.count.Add(int64(len(s.bytes))) // before anybody can know of them
		n, err := d.to.Write(s.bytes)
		d.count.Add(int64(n - len(s.bytes)))
		if s.block != nil {
			blocks.Put(s.block)
		}
		window.Release(s.cost)
		if err != nil {
			return false
		}
		if s.end {
			return closeWrite(d.to) == nil
		}
	}
	return true
}

// closeWrite ends one direction of a connection.
func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
	return conn.Close()
}
