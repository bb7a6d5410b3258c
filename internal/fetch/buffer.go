package fetch

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// How much memory there is for members that have arrived, and for what they decode
// to, at a time: for demands, and again for everything else, so that a reader who
// waits never waits for memory that others hold. What needs more than that is alone.
const (
	packedRoom   = 16 << 20
	unpackedRoom = 12 << 20
)

// memory lends buffers to runs, within bounds.
type memory struct {
	packed, unpacked *semaphore.Weighted
	free             *bufferPool
}

func newMemory(free *bufferPool) memory {
	return memory{packed: semaphore.NewWeighted(packedRoom), unpacked: semaphore.NewWeighted(unpackedRoom), free: free}
}

// memoryFor is what a run of this priority takes its buffers from.
func (s *Scheduler) memoryFor(p Priority) *memory {
	if p == Demand {
		return &s.urgent
	}
	return &s.bulk
}

// pack waits for a buffer for n bytes of a member.
func (m *memory) pack(ctx context.Context, n int) (*buffer, error) {
	weight := int64(min(n, packedRoom))
	if err := m.packed.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	return m.free.get(n, m.packed, weight), nil
}

// unpack waits for a buffer for n decoded bytes. Who waits must not hold another one
// that is not on its way to the store.
func (m *memory) unpack(ctx context.Context, n int) (*buffer, error) {
	weight := int64(min(n, unpackedRoom))
	if err := m.unpacked.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	return m.free.get(n, m.unpacked, weight), nil
}

// buffer is memory that several may use. It is lent to someone else when the last
// of them has released it.
type buffer struct {
	p      []byte
	users  atomic.Int32
	free   *bufferPool
	room   *semaphore.Weighted
	weight int64
}

func (b *buffer) retain() { b.users.Add(1) }

// release takes back one user; b may be nil.
func (b *buffer) release() {
	if b == nil || b.users.Add(-1) > 0 {
		return
	}
	b.free.put(b.p)
	b.p = nil // who uses it now has a fault of his own, and no one else's bytes
	b.room.Release(b.weight)
}

// Sizes of the buffers that are kept: four in each doubling, from 16 KiB to 8 MiB.
const (
	smallestBuffer = 14
	largestBuffer  = 23
	bufferSizes    = (largestBuffer - smallestBuffer) * 4
)

// bufferPool keeps buffers that are not in use, until the collector takes them.
type bufferPool [bufferSizes + 1]sync.Pool

// size is the number and the length of the smallest buffers that n bytes fit into;
// the number is that of no pool if they are not kept.
func (*bufferPool) size(n int) (number, length int) {
	if n <= 1<<smallestBuffer {
		return 0, 1 << smallestBuffer
	}
	shift := bits.Len(uint(n-1)) - 3 // of a quarter of the doubling that n is in
	quarters := (n-1)>>shift + 1     // 5 to 8
	return (shift-smallestBuffer+2)*4 + quarters - 4, quarters << shift
}

// get gives a buffer of n bytes with one user.
func (f *bufferPool) get(n int, room *semaphore.Weighted, weight int64) *buffer {
	b := &buffer{free: f, room: room, weight: weight}
	b.users.Store(1)
	k, length := f.size(n)
	if k >= len(f) {
		b.p = make([]byte, n)
	} else if p, ok := f[k].Get().(*[]byte); ok {
		b.p = (*p)[:n]
	} else {
		b.p = make([]byte, n, length)
	}
	return b
}

func (f *bufferPool) put(p []byte) {
	if k, length := f.size(cap(p)); k < len(f) && cap(p) == length {
		f[k].Put(&p)
	}
}
