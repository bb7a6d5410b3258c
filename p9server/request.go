package p9server

import (
	"context"
	"encoding/binary"
	"syscall"
	"time"

	"github.com/nineply/nineply/internal/fserr"
)

// request is one that could not be answered at once: a read of bytes that are
// not at hand, or an attach. It is registered by its tag until it has been
// answered or given up; whoever takes it out of the tag table (under conn.mu)
// alone decides its fate.
type request struct {
	tag   uint16
	began time.Time
	state requestState // guarded by conn.mu
	fid   uint32
	aname string // of an attach
	at    *attach
	node  uint64
	off   int64
	n     int // bytes wanted; 0 for an attach

	ctx    context.Context
	cancel context.CancelFunc
	timer  *time.Timer
}

type requestState uint8

const (
	requestPending requestState = iota
	requestAnswered
	requestFlushed
)

// kind is the number of its message.
func (r *request) kind() uint8 {
	if r.isAttach() {
		return tattach
	}
	return tread
}

// isAttach tells the two sorts apart: reads hold the tree they read.
func (r *request) isAttach() bool { return r.at == nil }

// isPending tells whether tag belongs to a request not yet answered.
func (c *conn) isPending(tag uint16) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tags[tag] != nil
}

// start registers r and runs it, or queues it behind those that run. At the
// bound of requests held it waits, and with it the reading of requests.
func (c *conn) start(r *request, timeout time.Duration) {
	if c.ledger != nil {
		c.noteWaiting(r)
	}
	r.began = time.Now()
	r.ctx, r.cancel = context.WithCancel(c.ctx)
	c.mu.Lock()
	if c.held >= c.srv.opts.MaxOutstanding {
		c.mu.Unlock()
		c.flush() // the client must get what is ready, or it may wait for ever
		c.mu.Lock()
		for c.held >= c.srv.opts.MaxOutstanding && c.ctx.Err() == nil {
			c.room.Wait()
		}
	}
	c.held++
	c.srv.stats.outstanding.Add(1)
	c.tags[r.tag] = r
	c.pending.Add(1)
	c.wg.Add(1)
	r.timer = time.AfterFunc(timeout, func() { c.expire(r) })
	run := len(c.queue) == 0 && c.mayRun(r)
	if run {
		c.admit(r)
	} else {
		c.queue = append(c.queue, r)
	}
	c.mu.Unlock()
	if run {
		go c.work(r)
	}
}

// mayRun tells whether r fits the bounds of this connection; mu is held. One
// request may always run, or wait for its turn among all connections. Each more
// is for a connection that has less than what all leave free: n connections that
// want all they can get have one part in n+1 of the server's bounds each, and
// leave one part for the next to come.
func (c *conn) mayRun(r *request) bool {
	if c.running == 0 {
		return true
	}
	o := &c.srv.opts
	free, freeBytes := int64(o.MaxReads)-c.srv.running.Load(), o.MaxBytes-c.srv.runningBytes.Load()
	bytes := c.runningBytes + int64(r.n)
	return c.running < o.MaxConnReads && int64(c.running) < free && bytes <= o.MaxConnBytes && bytes <= freeBytes
}

// admit counts r as running; mu is held. The caller starts work.
func (c *conn) admit(r *request) {
	c.countRunning(1, int64(r.n))
	c.wg.Add(1)
}

func (c *conn) countRunning(requests int, bytes int64) {
	c.running += requests
	c.runningBytes += bytes
	c.srv.running.Add(int64(requests))
	c.srv.runningBytes.Add(bytes)
}

// work runs r, and then what was queued meanwhile.
func (c *conn) work(r *request) {
	for r != nil {
		if r.isAttach() {
			c.runAttach(r)
		} else {
			c.runRead(r)
		}
		r = c.finish(r)
	}
}

// finish gives back what r held, and gives one request to go on with. Further
// ones that may run now get goroutines of their own.
func (c *conn) finish(r *request) (next *request) {
	c.retire(r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held--
	c.countRunning(-1, -int64(r.n))
	c.srv.stats.outstanding.Add(-1)
	for len(c.queue) > 0 && c.mayRun(c.queue[0]) {
		q := c.queue[0]
		c.queue[0] = nil
		c.queue = c.queue[1:]
		c.admit(q)
		if next == nil {
			next = q
		} else {
			go c.work(q)
		}
	}
	if len(c.queue) == 0 {
		c.queue = nil
	}
	c.room.Broadcast()
	c.wg.Done()
	return next
}

// retire releases what is bound to one request.
func (c *conn) retire(r *request) {
	r.cancel()
	if r.timer.Stop() {
		c.wg.Done()
	}
	if r.at != nil {
		c.unhold(r.at)
	}
}

// claim takes the right to answer r; false if it was flushed or has expired.
// wmu is held, so that an Rflush cannot overtake the answer. The outcome of an
// attach is left for the read loop in the same step: before the client can
// know of it, and not after the session has been ended by a Tversion.
func (c *conn) claim(r *request, outcome attachResult) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ledger != nil && c.ctx.Err() != nil {
		return false // a successor answers
	}
	if !c.takeOut(r, requestAnswered) {
		return false
	}
	if c.ledger != nil {
		c.ledger.noteAnswer(r, &outcome)
	}
	c.srv.stats.waited[r.kind()/2].observe(time.Since(r.began))
	if r.isAttach() {
		if outcome.at != nil {
			c.count.aname.Store(&r.aname)
		}
		c.attached = append(c.attached, outcome)
		c.hasAttached.Store(true)
	}
	return true
}

// takeOut ends the pending state of r; mu is held.
func (c *conn) takeOut(r *request, to requestState) bool {
	if r.state != requestPending {
		return false
	}
	r.state = to
	delete(c.tags, r.tag)
	c.pending.Add(-1)
	return true
}

// isLive tells whether r still wants an answer.
func (c *conn) isLive(r *request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return r.state == requestPending
}

// answer writes the reply of r unless it was flushed or has expired.
func (c *conn) answer(r *request, frame []byte) bool {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if !c.claim(r, attachResult{}) {
		return false
	}
	c.write(frame)
	return true
}

// answerError is answer with an Rlerror.
func (c *conn) answerError(r *request, errno syscall.Errno) bool {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if !c.claim(r, attachResult{fid: r.fid}) {
		return false
	}
	c.srv.stats.countError(errno)
	var frame [headerSize + 4]byte
	c.write(appendError(frame[:0], r.tag, uint32(errno)))
	return true
}

// expire answers EIO for a request whose time is up. The work on it is
// cancelled; if that does not stop at once, it goes on counting as running.
func (c *conn) expire(r *request) {
	defer c.wg.Done()
	if c.answerError(r, syscall.EIO) {
		c.srv.stats.timeouts.Add(1)
	}
	r.cancel()
}

// flushTag gives up the pending request of tag: it is never answered. For an
// attach, its reserved fid becomes free.
func (c *conn) flushTag(tag uint16) {
	c.mu.Lock()
	r := c.tags[tag]
	if r != nil {
		c.takeOut(r, requestFlushed)
	}
	c.mu.Unlock()
	if r != nil {
		c.giveUp(r)
	}
}

// flushAll does the same for every pending request.
func (c *conn) flushAll() {
	c.mu.Lock()
	flushed := make([]*request, 0, len(c.tags))
	for _, r := range c.tags {
		flushed = append(flushed, r)
	}
	for _, r := range flushed {
		c.takeOut(r, requestFlushed)
	}
	c.mu.Unlock()
	for _, r := range flushed {
		c.giveUp(r)
	}
}

func (c *conn) giveUp(r *request) {
	c.srv.stats.flushed.Add(1)
	if c.ledger != nil {
		c.ledger.note(ledgerEntry{kind: entryDone, id: uint32(r.tag)})
	}
	r.cancel()
	if r.isAttach() {
		c.dropFID(r.fid)
	}
}

// dropRequests empties the queue when the connection ends.
func (c *conn) dropRequests() {
	c.flushAll()
	c.mu.Lock()
	queue := c.queue
	c.queue = nil
	c.held -= len(queue)
	c.mu.Unlock()
	c.srv.stats.outstanding.Add(-int64(len(queue)))
	for _, r := range queue {
		c.retire(r)
	}
}

// runRead waits for the bytes and answers with them.
func (c *conn) runRead(r *request) {
	need := int64(readHeader + r.n)
	if !c.isLive(r) || c.srv.bytes.Acquire(r.ctx, need) != nil {
		return
	}
	c.srv.stats.bytesInFlight.Add(need)
	defer func() {
		c.srv.stats.bytesInFlight.Add(-need)
		c.srv.bytes.Release(need)
	}()
	buf := c.srv.pool.get(int(need))
	defer c.srv.pool.put(buf)
	b := buf.b[:need]
	if err := c.readFull(r, b[readHeader:]); err != nil {
		c.answerError(r, errnoOf(err))
		return
	}
	binary.LittleEndian.PutUint32(b, uint32(need))
	b[4] = tread + 1
	binary.LittleEndian.PutUint16(b[5:], r.tag)
	binary.LittleEndian.PutUint32(b[headerSize:], uint32(r.n))
	if c.answer(r, b) {
		c.srv.stats.payload.Add(uint64(r.n))
		c.count.payload.Add(uint64(r.n))
	}
}

// readFull reads until p is full: a reply shorter than the file would be taken
// for its end by some clients. It holds one of the server's places for reads,
// but not while the reply is written: clients that do not take their replies
// must not keep others from reading.
func (c *conn) readFull(r *request, p []byte) error {
	if err := c.srv.reads.Acquire(r.ctx, 1); err != nil {
		return err
	}
	defer c.srv.reads.Release(1)
	for done := 0; done < len(p); {
		n, err := r.at.tree.ReadAt(r.ctx, r.node, p[done:], r.off+int64(done))
		if done += n; done >= len(p) {
			break
		}
		if err != nil {
			return err
		}
		if n <= 0 {
			return errShort
		}
	}
	return nil
}

// errShort: a tree has fewer bytes of a file than its size says.
var errShort = fserr.New(fserr.Corrupt, "read", "file", nil)
