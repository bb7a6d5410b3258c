package p9server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// requestBuffer holds requests as they were received. Longer ones, which
	// are writes or nonsense, are refused by their header and skipped.
	requestBuffer = 16 << 10
	// flushAt is how many bytes of replies are gathered before they are
	// written although further requests are at hand.
	flushAt = 128 << 10
)

// conn is one connection. Fields are grouped by who may touch them.
type conn struct {
	srv    *Server
	nc     net.Conn
	since  time.Time
	count  sessionCounters
	ctx    context.Context
	cancel context.CancelCauseFunc

	// The read loop's own.
	in          []byte // received bytes are in[inStart:inEnd]
	inStart     int
	inEnd       int
	skip        int     // bytes of a refused message still to come
	out         *buffer // replies not yet written
	small       *buffer // the buffer that out is when little is sent
	frame       int     // where the reply under construction begins in out
	msize       uint32  // 0 before a version is agreed
	fids        fidTable
	attaches    []*attach // by fid.slot; nil where free
	attachCount int       // attaches in use or under way
	values      map[uint32][]byte
	names       nameList
	tally       tally
	ledger      *ledger // nil unless somebody holds a duplicate of nc

	greeted  bool // a version has been agreed on, now or earlier
	draining atomic.Bool

	// Writing. wmu is taken before mu.
	wmu      sync.Mutex
	writeErr error
	writeBy  time.Time

	// Requests that wait for bytes.
	mu           sync.Mutex
	room         sync.Cond // held went down, or the connection ends
	tags         map[uint16]*request
	queue        []*request
	held         int // queued and running
	running      int
	runningBytes int64
	attached     []attachResult
	hasAttached  atomic.Bool
	pending      atomic.Int32 // len(tags)
	wg           sync.WaitGroup
}

func newConn(ctx context.Context, s *Server, nc net.Conn) *conn {
	c := &conn{
		srv:    s,
		nc:     nc,
		since:  time.Now(),
		in:     make([]byte, requestBuffer),
		small:  s.pool.get(0),
		fids:   newFIDTable(),
		values: map[uint32][]byte{},
		tags:   map[uint16]*request{},
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.out = c.small
	c.room.L = &c.mu
	c.names.init()
	return c
}

// serve runs the read loop and then takes everything down.
func (c *conn) serve() error {
	stop := onDone(c.ctx, c.wake)
	c.readBy(time.Now().Add(c.srv.opts.VersionTimeout))
	err := c.resume()
	if err == nil {
		err = c.loop()
	}
	if c.draining.Load() && isTimeout(err) {
		c.wg.Wait()
		err = ErrServerClosed
	}
	if cause := context.Cause(c.ctx); cause != nil && !errors.Is(err, ErrProtocol) {
		err = fmt.Errorf("9P connection: %w", cause)
	}
	c.teardown()
	stop()
	return err
}

// loop answers messages until the connection ends.
func (c *conn) loop() error {
	for {
		for {
			msg, whole, err := c.next()
			if err != nil {
				c.flush()
				return err
			}
			if msg == nil {
				break
			}
			if err := c.handle(msg, whole); err != nil {
				c.flush()
				return err
			}
			if len(c.out.b) >= flushAt {
				c.flush()
			}
		}
		c.flush()
		if err := c.fill(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// next takes one message out of the received bytes: nil if none is complete.
// whole is false for a message too long for the buffer, of which only the
// header and the first field are given; the rest is skipped.
func (c *conn) next() (msg []byte, whole bool, err error) {
	have := c.in[c.inStart:c.inEnd]
	if len(have) < headerSize {
		return nil, false, nil
	}
	size := binary.LittleEndian.Uint32(have)
	limit := c.msize
	if limit == 0 {
		limit = initialMsize
	}
	if size < headerSize || size > limit {
		return nil, false, fmt.Errorf("%w: message of %d bytes, not of %d to %d", ErrProtocol, size, headerSize, limit)
	}
	if n := int(size); n <= len(c.in) {
		if len(have) < n {
			return nil, false, nil
		}
		c.inStart += n
		return have[:n], true, nil
	}
	const firstField = headerSize + 4
	if len(have) < firstField {
		return nil, false, nil
	}
	c.skip = int(size) - len(have)
	c.inStart = c.inEnd
	return have[:firstField], false, nil
}

// fill reads more bytes behind those that are left.
func (c *conn) fill() error {
	if c.ledger != nil {
		return c.fillHeld()
	}
	if c.inStart > 0 {
		c.inEnd = copy(c.in, c.in[c.inStart:c.inEnd])
		c.inStart = 0
	}
	for {
		n, err := c.nc.Read(c.in[c.inEnd:])
		c.tally.read += uint64(n)
		skipped := min(n, c.skip)
		c.skip -= skipped
		if skipped > 0 && skipped < n {
			copy(c.in, c.in[skipped:n])
		}
		if c.inEnd += n - skipped; n > skipped {
			return nil
		}
		if err != nil {
			return c.readError(err)
		}
	}
}

// readError says how the stream ended: io.EOF only between two messages.
func (c *conn) readError(err error) error {
	if errors.Is(err, io.EOF) {
		if c.inEnd == 0 && c.skip == 0 {
			return io.EOF
		}
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading requests: %w", err)
}

// handle answers one message, or starts what will. An error ends the
// connection.
func (c *conn) handle(msg []byte, whole bool) error {
	typ := msg[4]
	tag := binary.LittleEndian.Uint16(msg[5:])
	c.tally.message(typ)
	if c.hasAttached.Load() {
		c.installAttached()
	}
	if c.pending.Load() > 0 && typ != tversion && c.isPending(tag) {
		return fmt.Errorf("%w: tag %d used again before it was answered", ErrProtocol, tag)
	}
	d := decoder{b: msg[headerSize:]}
	var errno syscall.Errno
	switch {
	case !whole:
		errno = c.refuseLong(typ, &d)
	case c.msize == 0 && typ != tversion:
		errno = syscall.EPROTO
	case c.tally.sample():
		errno = c.timed(typ, tag, &d)
	default:
		errno = c.dispatch(typ, tag, &d)
	}
	if errno != 0 && errno != errDeferred {
		c.replyError(tag, errno)
	}
	return nil
}

// refuseLong answers a message that does not fit the buffer: only writes and
// strings that are too long can be that large.
func (c *conn) refuseLong(typ uint8, d *decoder) syscall.Errno {
	if c.msize != 0 && isMutation(typ) {
		return c.mutation(d)
	}
	return syscall.ENAMETOOLONG
}

// begin starts a reply whose body takes at most n bytes.
func (c *conn) begin(tag uint16, typ uint8, n int) {
	n += headerSize
	if cap(c.out.b)-len(c.out.b) < n {
		c.makeRoom(n)
	}
	c.frame = len(c.out.b)
	c.out.b = append(c.out.b, 0, 0, 0, 0, typ, byte(tag), byte(tag>>8))
}

// end completes the reply.
func (c *conn) end() {
	binary.LittleEndian.PutUint32(c.out.b[c.frame:], uint32(len(c.out.b)-c.frame))
}

// undo takes the reply back.
func (c *conn) undo() { c.out.b = c.out.b[:c.frame] }

// replyEmpty sends a reply without a body.
func (c *conn) replyEmpty(tag uint16, typ uint8) syscall.Errno {
	c.begin(tag, typ, 0)
	c.end()
	return 0
}

func (c *conn) replyError(tag uint16, errno syscall.Errno) {
	c.srv.stats.countError(errno)
	c.begin(tag, rlerror, 4)
	c.out.b = binary.LittleEndian.AppendUint32(c.out.b, uint32(errno))
	c.end()
}

// makeRoom gives out room for n more bytes: it moves to a buffer of a larger
// class while the replies gathered are few, and writes them otherwise.
func (c *conn) makeRoom(n int) {
	if want := len(c.out.b) + n; want > flushAt && len(c.out.b) > 0 {
		c.flush()
	}
	if cap(c.out.b)-len(c.out.b) >= n {
		return
	}
	larger := c.srv.pool.get(max(len(c.out.b)+n, flushAt))
	larger.b = append(larger.b, c.out.b...)
	c.release()
	c.out = larger
}

// release empties out and gives a large buffer back.
func (c *conn) release() {
	if c.out != c.small {
		c.srv.pool.put(c.out)
		c.out = c.small
	}
	c.out.b = c.out.b[:0]
}

// flush writes the replies gathered and publishes what was counted.
func (c *conn) flush() {
	c.tally.publish(&c.srv.stats, &c.count)
	if c.ledger != nil {
		c.flushHeld(true)
		return
	}
	if len(c.out.b) == 0 {
		return
	}
	c.wmu.Lock()
	c.write(c.out.b)
	c.wmu.Unlock()
	c.release()
}

// write sends whole replies; wmu is held. After a failure the connection is
// closed, which ends the read loop, and nothing more is sent.
func (c *conn) write(p []byte) {
	if c.ledger != nil {
		c.sendWaited(p)
		return
	}
	if !c.mayWrite() {
		return
	}
	n, err := c.nc.Write(p)
	c.srv.stats.bytesWritten.Add(uint64(n))
	if err != nil {
		c.writeFailed(err)
	}
}

// mayWrite sets the deadline of writing; false after a failure. wmu is held.
func (c *conn) mayWrite() bool {
	if c.writeErr != nil {
		return false
	}
	now := time.Now()
	// Moving the deadline costs, so it is moved by steps.
	if timeout := c.srv.opts.WriteTimeout; c.writeBy.Sub(now) < timeout-timeout/8 {
		c.writeBy = now.Add(timeout)
		err := c.nc.SetWriteDeadline(c.writeBy)
		if err != nil && !errors.Is(err, os.ErrNoDeadline) {
			c.writeFailed(err)
			return false
		}
	}
	return true
}

func (c *conn) writeFailed(err error) {
	c.writeErr = fmt.Errorf("writing replies: %w", err)
	c.cancel(c.writeErr)
}

// drain lets the read loop end after what it has read.
func (c *conn) drain() {
	c.draining.Store(true)
	c.readBy(time.Unix(1, 0))
}

// readBy sets the deadline of reading, none if it is zero. A connection that is
// drained keeps the one it has passed.
func (c *conn) readBy(t time.Time) {
	err := c.nc.SetReadDeadline(t)
	if err == nil && c.draining.Load() {
		err = c.nc.SetReadDeadline(time.Unix(1, 0))
	}
	// What fails to take a deadline is failing anyway, or has none and cannot be
	// drained.
	if err != nil && (c.draining.Load() || !errors.Is(err, os.ErrNoDeadline)) {
		c.abort()
	}
}

// abort ends the connection at once.
func (c *conn) abort() { c.cancel(ErrServerClosed) }

// wake ends whatever the read loop may be waiting for.
func (c *conn) wake() {
	_ = c.nc.Close() // the connection is being given up: nothing to do about it
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room.Broadcast()
}

// teardown cancels what is under way, waits for it, and gives everything back.
func (c *conn) teardown() {
	c.cancel(nil)
	if c.ledger != nil {
		c.ledger.quiet = true // a successor begins where this ends
	}
	_ = c.nc.Close() // closed already unless the peer hung up first
	c.dropRequests()
	c.wg.Wait()
	c.installAttached()
	c.dropFIDs()
	c.tally.publish(&c.srv.stats, &c.count)
	if c.ledger != nil {
		c.letGo()
	}
	c.release()
	c.srv.pool.put(c.small)
}
