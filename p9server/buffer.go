package p9server

import (
	"math/bits"
	"sync"
)

// buffer is a reply under construction. b has length 0 or more and the
// capacity of its class.
type buffer struct {
	b     []byte
	class int
}

const (
	// minBufferShift: the smallest class, 16 KiB, is what a quiet connection
	// keeps.
	minBufferShift = 14
	// bufferClasses reach 1 MiB, each with room for a header beyond the power
	// of two.
	bufferClasses = 7
	bufferSlack   = 64
	// bufferLead puts the payload of an Rread that begins the buffer at the start
	// of a cache line: the kernel copies to there by a tenth faster.
	bufferLead = 64 - readHeader
)

// bufferPool lends reply buffers by size class.
type bufferPool struct {
	classes [bufferClasses]sync.Pool
}

// get gives an empty buffer with room for n bytes, at most maxMessageSize.
func (p *bufferPool) get(n int) *buffer {
	class := bufferClass(n)
	if b, ok := p.classes[class].Get().(*buffer); ok {
		return b
	}
	b := make([]byte, bufferLead+classSize(class))
	return &buffer{class: class, b: b[bufferLead:bufferLead]}
}

// put takes a buffer back. The caller must not touch it again.
func (p *bufferPool) put(b *buffer) {
	b.b = b.b[:0]
	p.classes[b.class].Put(b)
}

func classSize(class int) int { return 1<<(minBufferShift+class) + bufferSlack }

// bufferClass is the smallest class with room for n bytes.
func bufferClass(n int) int {
	if n <= classSize(0) {
		return 0
	}
	return min(bits.Len(uint(n-bufferSlack-1))-minBufferShift, bufferClasses-1)
}
