package mount

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// relay passes 9P messages between one client that never reconnects (the
// kernel's) and a server that may come and go.
//
// It remembers what every fid of the client stands for and keeps a copy of
// every request until its reply has been passed on, whole. When the server is
// lost it connects to the next one, makes the fids again under the same
// numbers, checks that they are the same nodes, and sends the unanswered
// requests once more. The client sees a pause.
//
// While there is no server the relay answers what it can: a Tclunk, so that
// unmounting does not hang, and a Tflush, so that killed readers get away.
type relay struct {
	opts   SessionOptions
	log    *zap.Logger
	client net.Conn

	mu      sync.Mutex
	fids    fidTable
	pending map[uint16]*request // by tag
	seq     uint64
	msize   uint32   // agreed with the client; 0 before that
	server  net.Conn // nil while there is none
	since   time.Time
	impatient,
	ended bool
	wbuf, wspare []byte
	writing      bool

	cmu sync.Mutex // writing to the client

	requests, bytes, reconnects, retries, stale atomic.Uint64
}

// request is one the client has not had an answer to.
type request struct {
	f   frame
	seq uint64
}

// maxMessage bounds the messages relayed, in bytes.
const maxMessage = 1<<20 + 24

var errClientGone = errors.New("client closed the connection")

func newRelay(client net.Conn, opts SessionOptions) *relay {
	r := &relay{
		opts: opts, log: opts.Logger, client: client,
		fids: make(fidTable), pending: make(map[uint16]*request),
	}
	if r.log == nil {
		r.log = zap.NewNop()
	}
	return r
}

// run relays until the client closes its end or ctx ends. server is the first
// connection to a server.
func (r *relay) run(ctx context.Context, server net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Add(2)
	stop := context.AfterFunc(ctx, func() { _ = r.client.Close() })
	defer stop()
	go func() {
		defer wg.Done()
		r.serverSide(ctx, server)
	}()
	go func() {
		defer wg.Done()
		r.watchPatience(ctx)
	}()
	err := r.clientSide()
	cancel()
	r.mu.Lock()
	r.ended = true
	if r.server != nil {
		_ = r.server.Close() // wakes its reader
	}
	r.mu.Unlock()
	_ = r.client.Close() // over either way
	wg.Wait()
	if errors.Is(err, errClientGone) {
		return nil
	}
	return err
}

// readFrame reads one message into buf, which grows as needed up to limit.
func readFrame(br *bufio.Reader, buf []byte, limit int) (frame, error) {
	var h [msgHeader]byte
	if _, err := io.ReadFull(br, h[:]); err != nil {
		return nil, err
	}
	n := int(binary.LittleEndian.Uint32(h[:]))
	if n < msgHeader || n > limit {
		return nil, fmt.Errorf("message of %d bytes, limit %d", n, limit)
	}
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	f := frame(buf[:n])
	copy(f, h[:])
	_, err := io.ReadFull(br, f[msgHeader:])
	return f, err
}

// clientSide takes requests from the client until it is gone.
func (r *relay) clientSide() error {
	br := bufio.NewReaderSize(r.client, 64<<10)
	for {
		f, err := readFrame(br, nil, r.limit())
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) {
				return errClientGone
			}
			return fmt.Errorf("read from the client: %w", err)
		}
		if err := r.request(f); err != nil {
			return err
		}
		if br.Buffered() == 0 {
			r.kick()
		}
	}
}

// limit is the longest message the client may send. A longer one would make
// the server hang up, and every server after it.
func (r *relay) limit() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.msize == 0 {
		return maxMessage
	}
	return int(r.msize)
}

// request notes a request and queues it for the server, or answers it.
func (r *relay) request(f frame) error {
	r.requests.Add(1)
	r.mu.Lock()
	if reply := r.answerLocked(f); reply != nil {
		r.mu.Unlock()
		return r.toClient(reply)
	}
	r.pending[f.tag()] = &request{f: f, seq: r.seq}
	r.seq++
	if r.server != nil {
		r.wbuf = append(r.wbuf, f...)
	}
	r.mu.Unlock()
	return nil
}

// answerLocked answers what needs no server, or cannot have one.
func (r *relay) answerLocked(f frame) frame {
	fid, about := subject(f)
	if f.typ() == msgClunk && r.fids[fid] != nil && (r.server == nil || r.isStale(fid)) {
		delete(r.fids, fid)
		return build(msgClunk+1, f.tag())
	}
	if about && r.isStale(fid) {
		return build(msgError, f.tag(), uint32(syscall.ESTALE))
	}
	if r.server != nil {
		return nil
	}
	if f.typ() == msgFlush {
		b := f.body()
		delete(r.pending, b.u16())
		return build(msgFlush+1, f.tag())
	}
	if r.impatient {
		return build(msgError, f.tag(), uint32(syscall.EIO))
	}
	return nil
}

func (r *relay) isStale(fid uint32) bool {
	f := r.fids[fid]
	return f != nil && f.stale
}

// toClient writes one whole message.
func (r *relay) toClient(f frame) error {
	r.cmu.Lock()
	defer r.cmu.Unlock()
	if _, err := r.client.Write(f); err != nil {
		return errClientGone
	}
	return nil
}

// kick writes queued requests unless somebody is doing so. What a failed
// write loses is still pending; the reader notices the failure.
func (r *relay) kick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writing {
		return
	}
	r.writing = true
	for r.server != nil && len(r.wbuf) > 0 {
		out, conn := r.wbuf, r.server
		r.wbuf = r.wspare[:0]
		r.mu.Unlock()
		_, err := conn.Write(out)
		if err != nil {
			_ = conn.Close() // the reader takes it from here
		}
		r.mu.Lock()
		r.wspare = out[:0]
	}
	r.writing = false
}

// reply passes a message of the server on. An error means the server is of no
// more use.
func (r *relay) reply(f frame) error {
	r.mu.Lock()
	q := r.pending[f.tag()]
	if q == nil {
		r.mu.Unlock()
		return fmt.Errorf("reply %d with unused tag %d", f.typ(), f.tag())
	}
	if f.typ() != msgError && f.typ() != q.f.typ()+1 {
		r.mu.Unlock()
		return fmt.Errorf("reply %d to request %d", f.typ(), q.f.typ())
	}
	if gaveUp(f) && !r.flushedLocked(f.tag()) {
		r.mu.Unlock()
		return errors.New("it gave up a request and must be going down")
	}
	delete(r.pending, f.tag())
	b := q.f.body()
	switch q.f.typ() {
	case msgFlush:
		delete(r.pending, b.u16())
	case msgVersion:
		v := f.body()
		r.msize = v.u32()
	}
	r.fids.answered(q.f, f)
	r.mu.Unlock()
	r.bytes.Add(uint64(len(f)))
	return r.toClient(f)
}

// gaveUp tells a request that the server itself cancelled: the client's own
// cancellations are answered by Rflush, not by an error.
func gaveUp(f frame) bool {
	if f.typ() != msgError {
		return false
	}
	b := f.body()
	e := syscall.Errno(b.u32())
	return e == syscall.EINTR || e == syscall.ECANCELED
}

// flushedLocked tells whether the client has asked to cancel a request.
func (r *relay) flushedLocked(tag uint16) bool {
	for _, q := range r.pending {
		if b := q.f.body(); q.f.typ() == msgFlush && b.u16() == tag {
			return true
		}
	}
	return false
}

// serverSide reads from one server after the other.
func (r *relay) serverSide(ctx context.Context, server net.Conn) {
	r.mu.Lock()
	r.adoptLocked(server)
	r.mu.Unlock()
	r.kick()
	buf := make([]byte, 256<<10+24)
	for pause := firstPause; ; pause = nextPause(pause) {
		began := time.Now()
		err := r.readReplies(server, buf)
		r.lose(server)
		if ctx.Err() != nil {
			return
		}
		r.log.Warn("connection to the server lost", zap.String("aname", r.opts.Aname), zap.Error(err))
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		if server = r.reconnect(ctx, pause); server == nil {
			return
		}
		r.reconnects.Add(1)
	}
}

func (r *relay) readReplies(server net.Conn, buf []byte) error {
	br := bufio.NewReaderSize(server, 64<<10)
	for {
		f, err := readFrame(br, buf, maxMessage)
		if err == nil {
			err = r.reply(f)
		}
		if err != nil {
			return err
		}
	}
}

// adoptLocked makes server the one requests go to, beginning with the
// unanswered. The caller has to kick.
func (r *relay) adoptLocked(server net.Conn) {
	r.server, r.impatient = server, false
	if r.ended {
		_ = server.Close() // found out late
	}
	r.wbuf = r.wbuf[:0]
	for _, q := range r.inOrderLocked() {
		r.wbuf = append(r.wbuf, q.f...)
		r.retries.Add(1)
	}
}

// lose notes that there is no server.
func (r *relay) lose(server net.Conn) {
	_ = server.Close() // lost anyway
	r.mu.Lock()
	r.server, r.since = nil, time.Now()
	r.wbuf = r.wbuf[:0]
	var replies []frame
	for _, q := range r.inOrderLocked() {
		if q.f.typ() != msgClunk && q.f.typ() != msgFlush || r.pending[q.f.tag()] != q {
			continue
		}
		if reply := r.answerLocked(q.f); reply != nil {
			delete(r.pending, q.f.tag())
			replies = append(replies, reply)
		}
	}
	r.mu.Unlock()
	for _, f := range replies {
		_ = r.toClient(f) // a client that is gone is noticed by its reader
	}
}

// watchPatience fails requests once the server has been away too long.
func (r *relay) watchPatience(ctx context.Context) {
	if r.opts.Patience <= 0 {
		return
	}
	tick := time.NewTicker(max(r.opts.Patience/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r.mu.Lock()
		late := r.server == nil && !r.since.IsZero() && time.Since(r.since) > r.opts.Patience
		r.mu.Unlock()
		if late {
			r.giveUp()
		}
	}
}

// giveUp answers every request with EIO until there is a server again.
func (r *relay) giveUp() {
	r.mu.Lock()
	if r.server != nil {
		_ = r.server.Close() // it does not answer; start over
		r.mu.Unlock()
		return
	}
	r.impatient = true
	var replies []frame
	for tag := range r.pending {
		replies = append(replies, build(msgError, tag, uint32(syscall.EIO)))
	}
	clear(r.pending)
	r.mu.Unlock()
	for _, f := range replies {
		_ = r.toClient(f) // as in lose
	}
}

// connected tells whether there is a server.
func (r *relay) connected() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.server != nil
}

// size is how many fids the client has.
func (r *relay) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.fids)
}
