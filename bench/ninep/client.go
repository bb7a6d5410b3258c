package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// client keeps requests in flight on one connection, with blocking system calls
// and without any goroutine, so that it costs all servers the same and little.
type client struct {
	srv *server
	fd  int
	// payload is the msize agreed to without the headers.
	payload int
	out     []byte
	in      []byte // received bytes are in[from:to]
	from    int
	to      int
	// echo, if set, are the sizes of the replies to ask an echo server for.
	echo []int
}

// lane has one request in flight: its state is what comes next.
type lane struct {
	tag    uint16
	fid    uint32
	step   int // of begin, then of steps
	turn   int
	cookie uint64
	done   int // bytes read by this step so far
	reply  int // replies in this operation so far
	// payload is how much fits a message, the same for all lanes.
	payload int
}

// msize is asked for in all measurements; servers may agree to less.
const (
	msize    = 1<<20 + ioHeader
	ioHeader = 24 // what Linux leaves free in a message
)

func dial(srv *server) (*client, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	c := &client{srv: srv, fd: fd, payload: msize - ioHeader, in: make([]byte, 4<<20)}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: srv.socket}); err != nil {
		c.close()
		return nil, fmt.Errorf("connecting to %s: %w", srv.socket, err)
	}
	if srv.name == echoName {
		return c, nil
	}
	if err := c.attach(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *client) close() { _ = unix.Close(c.fd) } // nothing is lost with it

// attach begins a session as root, with fid 0.
func (c *client) attach() error {
	l := &lane{tag: noTag}
	b := binary.LittleEndian.AppendUint32(header(nil, tversion, l), msize)
	reply, err := c.ask(appendString(b, "9P2000.L"))
	if err != nil {
		return fmt.Errorf("version: %w", err)
	}
	if len(reply) < readHeader {
		return fmt.Errorf("version: reply of %d bytes", len(reply))
	}
	c.payload = int(binary.LittleEndian.Uint32(reply[headerSize:])) - ioHeader
	l.tag = 0
	b = binary.LittleEndian.AppendUint32(header(nil, tattach, l), 0)
	b = binary.LittleEndian.AppendUint32(b, noFID)
	b = appendString(appendString(b, "root"), c.srv.aname)
	b = binary.LittleEndian.AppendUint32(b, 0)
	if _, err := c.ask(b); err != nil {
		return fmt.Errorf("attach %q: %w", c.srv.aname, err)
	}
	return nil
}

const noTag = 0xffff

// ask sends one request and waits for its reply.
func (c *client) ask(request []byte) ([]byte, error) {
	binary.LittleEndian.PutUint32(request, uint32(len(request)))
	c.out = append(c.out, request...)
	if err := c.send(); err != nil {
		return nil, err
	}
	return c.wait()
}

// send writes the requests gathered.
func (c *client) send() error {
	for p := c.out; len(p) > 0; {
		n, err := unix.Write(c.fd, p)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("write", err)
		}
		p = p[max(n, 0):]
	}
	c.out = c.out[:0]
	return nil
}

// wait gives the next reply, reading when none is at hand.
func (c *client) wait() ([]byte, error) {
	for {
		msg, err := c.next()
		if msg != nil || err != nil {
			return msg, err
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

// next takes a reply out of what was received, nil if there is no whole one.
func (c *client) next() ([]byte, error) {
	have := c.in[c.from:c.to]
	if len(have) < headerSize {
		return nil, nil
	}
	size := int(binary.LittleEndian.Uint32(have))
	switch {
	case size < headerSize || size > len(c.in):
		return nil, fmt.Errorf("reply of %d bytes", size)
	case len(have) < size:
		return nil, nil
	}
	c.from += size
	msg := have[:size]
	if msg[4] == rlerror {
		return nil, fmt.Errorf("tag %d: %w", binary.LittleEndian.Uint16(msg[5:]), syscall.Errno(binary.LittleEndian.Uint32(msg[headerSize:])))
	}
	return msg, nil
}

// fill receives more.
func (c *client) fill() error {
	if c.from == c.to {
		c.from, c.to = 0, 0
	} else if len(c.in)-c.to < msize {
		c.to = copy(c.in, c.in[c.from:c.to])
		c.from = 0
	}
	for {
		n, err := unix.Read(c.fd, c.in[c.to:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return os.NewSyscallError("read", err)
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		c.to += n
		return nil
	}
}

// result is what one measurement gave.
type result struct {
	count int
	took  time.Duration
	cpu   time.Duration // of the server
	sizes []int         // of the replies of the first operation
}

// run measures an operation: all lanes go on for the time given.
func (c *client) run(op *operation, count int, d time.Duration) (r result, err error) {
	lanes, err := c.begin(op, count)
	if err != nil {
		return r, fmt.Errorf("beginning: %w", err)
	}
	cpu, err := c.srv.cpu()
	if err != nil {
		return r, err
	}
	began := time.Now()
	for i := range lanes {
		c.request(op, &lanes[i])
	}
	for busy := count; busy > 0; {
		if err := c.send(); err != nil {
			return r, err
		}
		msg, err := c.wait()
		for ; msg != nil && err == nil; msg, err = c.next() {
			l := &lanes[binary.LittleEndian.Uint16(msg[5:])]
			if c.advance(op, l, msg, &r) && time.Since(began) >= d {
				busy--
				continue
			}
			c.request(op, l)
		}
		if err != nil {
			return r, err
		}
	}
	r.took = time.Since(began)
	after, err := c.srv.cpu()
	r.cpu = after - cpu
	return r, err
}

// begin makes the lanes, and what they need.
func (c *client) begin(op *operation, count int) ([]lane, error) {
	lanes := make([]lane, count)
	for i := range lanes {
		l := &lanes[i]
		*l = lane{tag: uint16(i), fid: uint32(100 + i), payload: c.payload}
		if c.echo != nil {
			continue
		}
		for _, s := range op.begin {
			if _, err := c.ask(s(nil, l, 0)); err != nil {
				return nil, err
			}
		}
	}
	return lanes, nil
}

// request makes the next request of l.
func (c *client) request(op *operation, l *lane) {
	at := len(c.out)
	c.out = op.steps[l.step](c.out, l, l.turn)
	binary.LittleEndian.PutUint32(c.out[at:], uint32(len(c.out)-at))
	if c.echo != nil { // it reads there how much to answer
		binary.LittleEndian.PutUint32(c.out[at+headerSize:], uint32(c.echo[l.reply]))
	}
}

// advance takes a reply of l; true if it ended an operation.
func (c *client) advance(op *operation, l *lane, msg []byte, r *result) bool {
	if r.count == 0 && l.tag == 0 {
		r.sizes = append(r.sizes, len(msg))
	}
	l.reply++
	if msg[4] == tread+1 {
		if l.done += len(msg) - readHeader; l.done < op.bytes {
			return false
		}
		l.done = 0
	}
	if msg[4] == treaddir+1 && len(msg) > readHeader {
		if c.echo == nil {
			l.cookie = lastCookie(msg[readHeader:])
		}
		return false
	}
	if l.step++; l.step < len(op.steps) {
		return false
	}
	l.step, l.cookie, l.reply = 0, 0, 0
	l.turn++
	r.count++
	return true
}
