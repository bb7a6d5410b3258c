package p9client

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The states of a call. Whoever moves it out of waiting owns its buffers.
const (
	stateWaiting   = iota
	stateClaimed   // a reply (or the end of the client) is being delivered
	stateAbandoned // the caller left; the tag waits for Rflush
)

// call is one request and its reply.
type call struct {
	state atomic.Uint32
	typ   uint8 // of the request
	tag   uint16
	req   []byte // the frame, header not yet filled in
	dst   []byte // where Rread and Rreaddir payload goes
	data  bool   // the reply is a payload for dst
	n     int    // bytes put into dst
	body  []byte // the body of any other reply
	err   error
	fid   uint32 // the fid this request makes, noFid for none
	done  chan struct{}
	pool  *sync.Pool
}

// maxKeep is the largest body buffer a pooled call keeps.
const maxKeep = 4096

// newPool makes the pool that the calls of one client come from.
func newPool() *sync.Pool {
	p := new(sync.Pool)
	p.New = func() any { return &call{pool: p, done: make(chan struct{}, 1)} }
	return p
}

func (c *Client) newCall(typ uint8) *call {
	k := c.pool.Get().(*call)
	k.state.Store(stateWaiting)
	k.typ, k.fid = typ, noFid
	k.req = begin(k.req)
	return k
}

// recycle returns a call nobody else refers to.
func (k *call) recycle() {
	if cap(k.body) > maxKeep {
		k.body = nil
	}
	k.dst, k.data, k.n, k.err = nil, false, 0, nil
	k.body = k.body[:0]
	k.pool.Put(k)
}

func (k *call) finish(err error) {
	k.err = err
	k.done <- struct{}{}
}

// flushTag is the tag of the Tflush for a request with tag t: a range of its
// own, so that giving up never has to wait for a tag.
func (c *Client) flushTag(t uint16) uint16 { return t + uint16(c.opts.MaxInflight) }

// takeTag waits for a free tag. Frames not yet written are written first: the
// tags may be held by exactly those.
func (c *Client) takeTag(done <-chan struct{}) (uint16, bool) {
	select {
	case t := <-c.tags:
		return t, true
	default:
	}
	c.kick()
	select {
	case t := <-c.tags:
		return t, true
	case <-done:
		return 0, false
	case <-c.dead:
		return 0, false
	}
}

// post gives k a tag and queues its frame; kick sends it. On an error k was
// not queued and still belongs to the caller.
func (c *Client) post(done <-chan struct{}, k *call) error {
	tag, ok := c.takeTag(done)
	if !ok {
		return c.whyNoTag()
	}
	k.tag = tag
	seal(k.req, k.typ, tag)
	c.mu.Lock()
	if c.err != nil {
		err := c.err
		c.mu.Unlock()
		return err
	}
	c.calls[tag] = k
	c.mu.Unlock()
	c.stats.requests.Add(1)

	c.wmu.Lock()
	c.wbuf = append(c.wbuf, k.req...)
	c.wmu.Unlock()
	return nil
}

func (c *Client) whyNoTag() error {
	if err := c.Err(); err != nil {
		return err
	}
	return context.Canceled
}

// kick writes the queued frames unless another goroutine is doing so; that one
// then takes these along.
func (c *Client) kick() {
	c.wmu.Lock()
	if c.writing || len(c.wbuf) == 0 {
		c.wmu.Unlock()
		return
	}
	c.writing = true
	for len(c.wbuf) > 0 {
		out := c.wbuf
		c.wbuf = c.wspare[:0]
		c.wmu.Unlock()
		_, err := c.conn.Write(out)
		c.wmu.Lock()
		c.wspare = out[:0]
		if err != nil {
			c.wbuf = c.wbuf[:0]
			c.wmu.Unlock()
			c.fail(err)
			c.wmu.Lock()
			break
		}
	}
	c.writing = false
	c.wmu.Unlock()
}

// wait returns when k has its reply, or abandons it when ctx ends. If owned is
// false k now belongs to the client; otherwise the caller recycles it.
func (c *Client) wait(ctx context.Context, k *call) (owned bool, err error) {
	select {
	case <-k.done:
		return true, k.err
	default:
	}
	select {
	case <-k.done:
		return true, k.err
	case <-ctx.Done():
	}
	if k.state.CompareAndSwap(stateWaiting, stateAbandoned) {
		c.flush(k.tag)
		return false, ctx.Err()
	}
	// The reply is arriving into the caller's buffer: let it, but not for
	// ever.
	stall := time.NewTimer(c.opts.StallTimeout)
	defer stall.Stop()
	select {
	case <-k.done:
	case <-stall.C:
		c.fail(fmt.Errorf("reply stalled half way"))
		<-k.done
	}
	return true, k.err
}

// flush queues the Tflush for tag and leaves writing it to the janitor, so
// that a caller giving up never blocks on the socket.
func (c *Client) flush(tag uint16) {
	c.stats.flushes.Add(1)
	var a [headerSize + 2]byte
	f := put16(begin(a[:]), tag)
	seal(f, tflush, c.flushTag(tag))
	c.wmu.Lock()
	c.wbuf = append(c.wbuf, f...)
	c.wmu.Unlock()
	c.nudge()
}

func (c *Client) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// header is the start of every message.
type header struct {
	size uint32
	typ  uint8
	tag  uint16
	buf  [headerSize]byte
}

func (h *header) read(r *bufio.Reader) error {
	if _, err := io.ReadFull(r, h.buf[:]); err != nil {
		return err
	}
	h.size = binary.LittleEndian.Uint32(h.buf[:])
	h.typ = h.buf[4]
	h.tag = binary.LittleEndian.Uint16(h.buf[5:])
	if h.size < headerSize {
		return fmt.Errorf("%w: message of %d bytes", ErrProtocol, h.size)
	}
	return nil
}

// readLoop delivers replies until the connection ends.
func (c *Client) readLoop() {
	defer c.wg.Done()
	var h header
	for {
		err := h.read(c.br)
		if err == nil && h.size > c.msize {
			err = fmt.Errorf("%w: message of %d bytes, limit %d", ErrProtocol, h.size, c.msize)
		}
		if err == nil {
			err = c.dispatch(&h)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// dispatch consumes one message. An error ends the client.
func (c *Client) dispatch(h *header) error {
	n := uint16(c.opts.MaxInflight)
	if h.tag >= n {
		if h.tag < 2*n && h.typ == tflush+1 && h.size == headerSize {
			return c.flushed(h.tag - n)
		}
		return fmt.Errorf("%w: message %d with tag %d", ErrProtocol, h.typ, h.tag)
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return c.err
	}
	k := c.calls[h.tag]
	c.mu.Unlock()
	if k == nil {
		return fmt.Errorf("%w: reply with unused tag %d", ErrProtocol, h.tag)
	}
	if !k.state.CompareAndSwap(stateWaiting, stateClaimed) {
		// Abandoned: the tag stays taken until Rflush.
		_, err := c.br.Discard(int(h.size - headerSize))
		return err
	}
	answer, err := c.receive(h, k)
	if err != nil {
		k.finish(fmt.Errorf("%w: %w", ErrLost, err))
		return err
	}
	c.releaseTag(h.tag)
	if answer != 0 {
		k.finish(answer)
	} else {
		k.finish(nil)
	}
	return nil
}

// isErrno tells the server's answers from the ends of connections, which may
// have an errno of this side in them.
func isErrno(err error) bool {
	var e syscall.Errno
	return errors.As(err, &e) && !errors.Is(err, ErrLost)
}

// releaseTag makes the tag of an answered call available.
func (c *Client) releaseTag(tag uint16) {
	c.mu.Lock()
	if c.calls != nil {
		c.calls[tag] = nil
	}
	c.mu.Unlock()
	c.tags <- tag
}

// receive reads the body of the reply to k. answer is the server's errno; an
// error ends the client.
func (c *Client) receive(h *header, k *call) (answer syscall.Errno, err error) {
	size := int(h.size - headerSize)
	if h.typ == rlerror {
		return c.receiveError(size)
	}
	if h.typ != k.typ+1 {
		return 0, fmt.Errorf("%w: message %d in reply to %d", ErrProtocol, h.typ, k.typ)
	}
	if k.data {
		return 0, c.receiveData(size, k)
	}
	if size > maxBody(k.typ) {
		return 0, fmt.Errorf("%w: reply to message %d has %d bytes", ErrProtocol, k.typ, size)
	}
	if cap(k.body) < size {
		k.body = make([]byte, size)
	}
	k.body = k.body[:size]
	_, err = io.ReadFull(c.br, k.body)
	return 0, err
}

// maxBody is the longest reply body the protocol knows for a request, but for
// those that carry a payload.
func maxBody(typ uint8) int {
	switch typ {
	case treadlink:
		return 2 + 1<<16
	case twalk:
		return 2 + maxWalk*qidSize
	}
	return 256
}

func (c *Client) receiveError(size int) (syscall.Errno, error) {
	var b [4]byte
	if size != len(b) {
		return 0, fmt.Errorf("%w: error reply with %d bytes", ErrProtocol, size)
	}
	if _, err := io.ReadFull(c.br, b[:]); err != nil {
		return 0, err
	}
	e := binary.LittleEndian.Uint32(b[:])
	if e == 0 || e > maxErrno {
		return syscall.EIO, nil
	}
	return syscall.Errno(e), nil
}

func (c *Client) receiveData(size int, k *call) error {
	var b [4]byte
	if size < len(b) {
		return fmt.Errorf("%w: data reply with %d bytes", ErrProtocol, size)
	}
	if _, err := io.ReadFull(c.br, b[:]); err != nil {
		return err
	}
	n := int(binary.LittleEndian.Uint32(b[:]))
	if n != size-len(b) || n > len(k.dst) {
		return fmt.Errorf("%w: %d bytes of data in a body of %d, asked for %d", ErrProtocol, n, size, len(k.dst))
	}
	if _, err := io.ReadFull(c.br, k.dst[:n]); err != nil {
		return err
	}
	k.n = n
	c.stats.bytesRead.Add(uint64(n))
	return nil
}

// flushed handles Rflush: the tag is free, and a fid the abandoned request may
// have made has to go.
func (c *Client) flushed(tag uint16) error {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return c.err
	}
	k := c.calls[tag]
	if k == nil || k.state.Load() != stateAbandoned {
		c.mu.Unlock()
		return fmt.Errorf("%w: flush reply for tag %d, which was not flushed", ErrProtocol, tag)
	}
	c.calls[tag] = nil
	c.mu.Unlock()
	if k.fid != noFid {
		c.clunkLater(k.fid)
	}
	k.recycle()
	c.tags <- tag
	return nil
}
