package p9server

import (
	"context"
	"errors"

	"net"
	"os"

	"github.com/nineply/nineply/internal/fserr"
)

// ServeHeld serves a connection of which somebody else holds a duplicate, and
// keeps what a successor needs in ledger (see [NewLedger]): when this process has
// ended, whatever it was doing, ServeHeld in another one goes on where it stopped,
// given duplicates of both. The client does not notice: each request is answered
// once, with whole replies. A tree that is no longer the same, or cannot be
// attached any more, answers EIO for what was attached before.
//
// A nil error says that the client has closed the connection. What wraps ErrLedger
// cannot be served by anybody. ServeHeld closes nc, and leaves ledger to the
// caller, who must not give either to two servers at once.
func (s *Server) ServeHeld(ctx context.Context, nc *net.UnixConn, ledger *os.File) error {
	if s.opts.ConnContext != nil {
		ctx = s.opts.ConnContext(ctx, nc)
	}
	mem, err := mapLedger(ledger)
	if err != nil {
		return errors.Join(err, nc.Close())
	}
	err = s.serveHeld(ctx, nc, mem)
	return errors.Join(err, unmapLedger(mem))
}

func (s *Server) serveHeld(ctx context.Context, nc *net.UnixConn, mem []byte) error {
	state, err := parseLedger(mem, s.opts.MaxFIDs)
	if err != nil {
		return errors.Join(err, nc.Close())
	}
	c := newConn(ctx, s, nc)
	s.pool.put(c.small)
	if err := c.keep(nc, mem, state); err != nil {
		c.cancel(err)
		return errors.Join(err, nc.Close())
	}
	if err := s.addConn(c); err != nil {
		c.cancel(err)
		return errors.Join(err, nc.Close())
	}
	defer s.removeConn(c)
	return c.serve()
}

// keep makes c keep its ledger in mem, and go on with what state says.
func (c *conn) keep(nc *net.UnixConn, mem []byte, state *ledgerState) error {
	l := newLedger(mem)
	l.state = state
	c.ledger = l
	c.in = l.in(0)
	c.small = &buffer{b: l.out(outLoop)[:0], class: -1}
	c.out = c.small
	return l.useSocket(nc)
}

// begun starts an empty ledger.
func (l *ledger) begun() {
	copy(l.mem, ledgerMagic)
	l.commit()
}

// flushHeld is flush with a ledger: what the read loop did comes to count, and the
// replies are sent. It must not run between a message and its reply: makeRoom never
// has to, as the buffer has room for one message more than is gathered.
func (c *conn) flushHeld(mayRewrite bool) {
	c.wmu.Lock()
	if !c.ledger.quiet && c.writeErr == nil {
		if err := c.logStaged(mayRewrite); err != nil {
			c.writeFailed(err)
		} else {
			c.noteReceived()
			c.send(outLoop, 0, len(c.out.b))
			c.ledger.dropOld()
		}
	}
	failed := c.writeErr != nil
	c.wmu.Unlock()
	if failed {
		c.leaveOut()
	}
	c.release()
}

// leaveOut has further replies made elsewhere: those in the ledger are sent by a
// successor.
func (c *conn) leaveOut() {
	if c.small.class < 0 {
		c.small = c.srv.pool.get(0)
		c.out = c.small
	}
}

// noteReceived takes over how far the read loop is; wmu is held.
func (c *conn) noteReceived() {
	r := &c.ledger.rec
	r.start, r.skip, r.msize = uint32(c.inStart), uint32(c.skip), c.msize
}

// logStaged moves the staged entries to the log. One that has grown too long is
// written anew, if may is set: not while a request is between two places.
func (c *conn) logStaged(may bool) error {
	l := c.ledger
	if may && l.rec.length+uint64(len(l.staged)) > l.limit {
		return c.rewriteLog()
	}
	if !l.append(l.staged) {
		return errLogFull
	}
	l.staged = l.staged[:0]
	return nil
}

var errLogFull = fserr.New(fserr.TooLarge, "hold", "9P session", errors.New("its log is full"))

// rewriteLog writes what there is now to the other log.
func (c *conn) rewriteLog() error {
	c.installAttached()
	l := c.ledger
	old, length := l.rec.log, l.rec.length
	l.rec.log, l.rec.length = old^1, 0
	l.staged = l.staged[:0]
	ok := true
	put := func(e ledgerEntry, name string) {
		l.scratch = appendEntry(l.scratch[:0], &e, name)
		ok = ok && l.append(l.scratch)
	}
	for _, at := range c.attaches {
		if at != nil {
			put(treeEntry(at), at.aname)
		}
	}
	c.fids.each(func(f fid) {
		if f.state != fidAttaching {
			put(fidEntry(c.attaches[f.slot], f), l.names[f.id])
		}
	})
	c.mu.Lock()
	for _, r := range c.tags {
		if !r.isAttach() {
			put(treeEntry(r.at), r.at.aname) // the last fid of it may be gone
		}
		put(r.entry(), r.aname)
	}
	c.mu.Unlock()
	if !ok {
		l.rec.log, l.rec.length = old, length
		return errLogFull
	}
	l.limit = max(logMin, 2*l.rec.length)
	l.old = length
	return nil
}

// dropOld gives back the memory of the log that counts no more.
func (l *ledger) dropOld() {
	if l.old > 0 {
		l.dropLog(l.rec.log^1, l.old)
		l.old = 0
	}
}

// commitIdle commits while nothing is being sent.
func (l *ledger) commitIdle() {
	l.rec.sent, l.rec.end = 0, 0
	l.commit()
}

// send commits, and sends bytes [from, end) of a buffer of replies; wmu is held.
func (c *conn) send(out uint32, from, end int) {
	l := c.ledger
	if end == from {
		l.commitIdle()
		return
	}
	if !c.mayWrite() {
		return
	}
	l.rec.out, l.rec.end = out, uint32(end)
	for from < end {
		l.rec.sent = uint32(from)
		l.commit()
		n, err := l.transmit(l.out(out)[from:end])
		c.srv.stats.bytesWritten.Add(uint64(n))
		if err != nil {
			c.writeFailed(err)
			return
		}
		from += n
	}
}

// sendWaited sends the reply of a request that waited; wmu is held.
func (c *conn) sendWaited(p []byte) {
	if c.writeErr == nil {
		if c.ledger.full {
			c.writeFailed(errLogFull)
			return
		}
		c.send(outWaited, 0, copy(c.ledger.out(outWaited), p))
	}
}

// noteWaiting makes a request that will wait count as received. It must have
// before it can be answered.
func (c *conn) noteWaiting(r *request) {
	l := c.ledger
	if l.quiet {
		return
	}
	e := r.entry()
	l.staged = appendEntry(l.staged, &e, r.aname)
	c.flushHeld(false)
}

// fillHeld is fill with a ledger. What is left is taken to the other buffer, so
// that the one that counts stays as it is.
func (c *conn) fillHeld() error {
	l := c.ledger
	for {
		c.wmu.Lock()
		if err := c.writeErr; err != nil {
			c.wmu.Unlock()
			return err
		}
		in := l.rec.in ^ 1
		p := l.in(in)
		c.inEnd = copy(p, c.in[c.inStart:c.inEnd])
		c.in, c.inStart = p, 0
		l.inLen(in).Store(0)
		l.rec.in, l.rec.base = in, uint32(c.inEnd)
		c.noteReceived()
		l.commitIdle()
		c.wmu.Unlock()

		n, err := l.recv(p[c.inEnd:], in)
		c.tally.read += uint64(n)
		if err != nil {
			return c.readError(err)
		}
		c.inEnd += n
		if c.skipReceived(); c.inEnd > c.inStart {
			return nil
		}
	}
}

// skipReceived skips what belongs to a message that was refused.
func (c *conn) skipReceived() {
	n := min(c.inEnd-c.inStart, c.skip)
	c.skip -= n
	c.inStart += n
}

// letGo ends the use of the ledger's memory.
func (c *conn) letGo() {
	c.in = nil
	c.leaveOut()
}
