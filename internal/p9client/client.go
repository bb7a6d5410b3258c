package p9client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Errors that end a Client.
var (
	// ErrLost: the connection is gone; every call returns it from then on.
	ErrLost = errors.New("9p connection lost")
	// ErrProtocol: the server sent what the protocol does not allow, and the
	// connection was dropped for it. Such an error matches ErrLost too.
	ErrProtocol = errors.New("9p protocol violation")
	// ErrVersion: the server does not speak 9P2000.L.
	ErrVersion = errors.New("server does not speak 9P2000.L")
)

// Options tune a Client. The zero value is usable.
type Options struct {
	// MSize is the message size to propose, in bytes; the server may lower
	// it. 0 means 1 MiB plus the 24 byte header. At least 4096.
	MSize uint32
	// MaxInflight bounds the requests outstanding at once, 1 to 4096. 0
	// means 256.
	MaxInflight int
	// StallTimeout is how long a cancelled read may wait for a reply that
	// has begun to arrive before the connection is dropped. 0 means 2 s.
	StallTimeout time.Duration
}

const (
	defaultMSize    = 1<<20 + ioHeader
	minMSize        = 4096
	defaultInflight = 256
	maxInflight     = 4096
	defaultStall    = 2 * time.Second
	readBuffer      = 64 << 10
)

func (o *Options) normalise() {
	if o.MSize == 0 {
		o.MSize = defaultMSize
	}
	o.MSize = max(o.MSize, minMSize)
	if o.MaxInflight <= 0 {
		o.MaxInflight = defaultInflight
	}
	o.MaxInflight = min(o.MaxInflight, maxInflight)
	if o.StallTimeout <= 0 {
		o.StallTimeout = defaultStall
	}
}

// Client speaks 9P2000.L over one connection. All methods may be called by
// several goroutines at once.
type Client struct {
	conn  net.Conn
	br    *bufio.Reader // used by New, then only by the reader goroutine
	opts  Options
	msize uint32

	pool *sync.Pool  // of *call
	tags chan uint16 // free tags of requests: 0 .. MaxInflight-1

	mu    sync.Mutex
	calls []*call // outstanding, by tag
	err   error   // why the client is dead

	wmu     sync.Mutex
	wbuf    []byte // frames waiting to be written
	wspare  []byte
	writing bool

	fmu    sync.Mutex
	free   []uint32 // fid numbers to use again
	next   uint32
	clunks []uint32 // fids to be clunked

	dead chan struct{}
	wake chan struct{} // tells the janitor there is something to send
	wg   sync.WaitGroup

	stats counters
}

type counters struct {
	requests, bytesRead, flushes atomic.Uint64
}

// Stats counts what a Client has done since it was made.
type Stats struct {
	Requests  uint64 // messages sent
	BytesRead uint64 // payload bytes of Rread and Rreaddir
	Flushes   uint64 // requests given up before their reply
}

// Stats returns the counters.
func (c *Client) Stats() Stats {
	return Stats{
		Requests:  c.stats.requests.Load(),
		BytesRead: c.stats.bytesRead.Load(),
		Flushes:   c.stats.flushes.Load(),
	}
}

// New negotiates the version on conn and returns a Client that owns conn. On
// an error conn is closed. ctx bounds the negotiation only.
func New(ctx context.Context, conn net.Conn, opts Options) (*Client, error) {
	opts.normalise()
	c := &Client{
		conn:  conn,
		pool:  newPool(),
		br:    bufio.NewReaderSize(conn, readBuffer),
		opts:  opts,
		tags:  make(chan uint16, opts.MaxInflight),
		calls: make([]*call, opts.MaxInflight),
		dead:  make(chan struct{}),
		wake:  make(chan struct{}, 1),
	}
	for t := range opts.MaxInflight {
		c.tags <- uint16(t)
	}
	growBuffers(conn, opts.MSize)
	if err := c.negotiate(ctx); err != nil {
		return nil, errors.Join(err, ignoreClosed(conn.Close()))
	}
	c.wg.Add(2)
	go c.readLoop()
	go c.janitor()
	return c, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// negotiate exchanges Tversion and Rversion; the reader is not running yet.
func (c *Client) negotiate(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	f := putString(put32(begin(nil), c.opts.MSize), version)
	seal(f, tversion, noTag)
	_, err := c.conn.Write(f)
	if err == nil {
		err = c.readVersion()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrProtocol) {
		return fmt.Errorf("negotiate version: %w: %w", ErrLost, err)
	}
	return err
}

func (c *Client) readVersion() error {
	var h header
	if err := h.read(c.br); err != nil {
		return err
	}
	if h.size > minMSize {
		return fmt.Errorf("%w: version reply of %d bytes", ErrProtocol, h.size)
	}
	body := make([]byte, h.size-headerSize)
	if _, err := io.ReadFull(c.br, body); err != nil {
		return err
	}
	if h.typ != tversion+1 || h.tag != noTag {
		return fmt.Errorf("%w: answered with message %d, tag %d", ErrVersion, h.typ, h.tag)
	}
	msize, ver, err := parseVersion(body)
	if err != nil {
		return fmt.Errorf("%w: version reply: %w", ErrProtocol, err)
	}
	if ver != version {
		return fmt.Errorf("%w: it offers %q", ErrVersion, ver)
	}
	if msize > c.opts.MSize || msize < minMSize {
		return fmt.Errorf("%w: message size %d for a proposed %d", ErrProtocol, msize, c.opts.MSize)
	}
	c.msize = msize
	return nil
}

// MSize is the negotiated message size in bytes.
func (c *Client) MSize() uint32 { return c.msize }

// Done is closed when the connection is gone.
func (c *Client) Done() <-chan struct{} { return c.dead }

// Err says why the client is dead, nil while it is not.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close drops the connection, fails every outstanding call with ErrLost and
// waits for the client's goroutines.
func (c *Client) Close() error {
	c.fail(net.ErrClosed)
	c.wg.Wait()
	return nil
}

// fail ends the client once; later causes are ignored.
func (c *Client) fail(cause error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = fmt.Errorf("%w: %w", ErrLost, cause)
	err := c.err
	calls := c.calls
	c.calls = nil
	c.mu.Unlock()

	close(c.dead)
	_ = c.conn.Close() // the cause is reported; a second error adds nothing
	for _, k := range calls {
		if k != nil && k.state.CompareAndSwap(stateWaiting, stateClaimed) {
			k.finish(err)
		}
	}
}

// growBuffers asks the kernel for socket buffers that hold a whole message;
// with the small defaults a large reply takes several rounds of wake-ups.
func growBuffers(conn net.Conn, msize uint32) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	size := int(min(2*msize, 4<<20))
	_ = raw.Control(func(fd uintptr) { // best effort: the defaults work too
		tuneSocket(int(fd), size)
	})
}
