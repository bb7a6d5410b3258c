package hostlink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
)

// Tree is what a daemon attaches.
type Tree struct {
	// TryRead and Read fill p from off, and read nothing only at the end. TryRead
	// answers false instead of waiting.
	TryRead func(n uint64, p []byte, off int64) (int, bool, error)
	Read    func(ctx context.Context, n uint64, p []byte, off int64) (int, error)
	// Index is the file of the merged index; the server closes it.
	Index   *os.File
	Welcome Welcome
	// Release is called once, when the keeper has gone.
	Release func()
}

// Options of a server.
type Options struct {
	// Attach finds the tree of a name.
	Attach func(ctx context.Context, aname string) (Tree, error)
	// Sessions serves 9P sessions that keepers hold; nil: none.
	Sessions Sessions
	// ReadTimeout is how long a read may take before it fails with EIO. 0 means
	// 30 s.
	ReadTimeout time.Duration
	// MaxWaiting bounds the reads of a mount that wait for bytes. 0 means 1024.
	MaxWaiting int
	// Logger may be nil.
	Logger *zap.Logger
}

const (
	defaultTimeout = 30 * time.Second
	defaultWaiting = 1024
	// ackAfter is how long an acknowledgement may wait for others.
	ackAfter = 5 * time.Millisecond
	// outHeader is in front of what is written to a FUSE device.
	outHeader = 16
	// longRead is the size in bytes beyond which reads are copied beside each other.
	longRead = 64 << 10
	// smallBuffer holds the answer to most reads.
	smallBuffer = longRead + outHeader
)

// Server answers keepers.
type Server struct {
	opts         Options
	small, large sync.Pool // of *[]byte
	attachTokens chan struct{}
}

// maxAttaching bounds the attaches under way.
const maxAttaching = 64

// NewServer makes a server.
func NewServer(o Options) *Server {
	if o.ReadTimeout <= 0 {
		o.ReadTimeout = defaultTimeout
	}
	if o.MaxWaiting <= 0 {
		o.MaxWaiting = defaultWaiting
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	s := &Server{opts: o, attachTokens: make(chan struct{}, maxAttaching)}
	buffers := func(size int) func() any {
		return func() any {
			b := make([]byte, size)
			return &b
		}
	}
	s.small.New, s.large.New = buffers(smallBuffer), buffers(MaxRead+outHeader)
	return s
}

// Listen opens the socket at path. One that a dead daemon left is replaced, one
// that is served is an error.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if c, err := (&net.Dialer{}).DialContext(ctx, network, path); err == nil {
		return nil, errors.Join(fserr.New(fserr.Busy, "listen on", path, errors.New("somebody serves it")), c.Close())
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, network, path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// Serve answers on ln until ctx ends; then it returns once every connection has
// ended.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() }) // ends Accept
	defer stop()
	for {
		nc, err := ln.Accept()
		if err != nil {
			return errors.Join(err, ignoreClosed(ln.Close()))
		}
		c, ok := nc.(*net.UnixConn)
		if !ok {
			return errors.Join(fmt.Errorf("connection of type %T", nc), nc.Close())
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // ends its reads
			defer stop()
			if err := s.serveConn(ctx, c, stop); err != nil && ctx.Err() == nil {
				s.opts.Logger.Debug("host link ended", zap.Error(err))
			}
			_ = c.Close() // nothing is buffered
		}()
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// trusted lets root in, and the user this process runs as.
func trusted(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, cerr); err != nil {
		return err
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fserr.Newf(fserr.Permission, "host link", "", "user %d may not", cred.Uid)
	}
	return nil
}

// serveConn serves one mount. stop takes back that c is closed with ctx.
func (s *Server) serveConn(ctx context.Context, c *net.UnixConn, stop func() bool) error {
	if err := trusted(c); err != nil {
		return err
	}
	buf := make([]byte, maxPacket)
	n, file, err := receive(c, buf, "")
	if err != nil {
		return err
	}
	var h hello
	err = json.Unmarshal(buf[:n], &h)
	if err == nil && h.Session {
		return s.serveSession(ctx, c, file, &h, stop)
	}
	if file != nil {
		_ = file.Close() // it was not asked for
	}
	if err != nil {
		return err
	}
	tree, err := s.attach(ctx, &h)
	if err != nil {
		return errors.Join(err, sendJSON(c, Welcome{Errno: fserr.Errno(err), Error: fmt.Sprintf("%.1024s", err)}, nil))
	}
	defer tree.Release()
	err = sendJSON(c, tree.Welcome, tree.Index)
	if err := errors.Join(err, tree.Index.Close()); err != nil {
		return err
	}
	_, device, err := receive(c, buf, "device")
	if err != nil {
		return err
	}
	if device == nil {
		return errPacket
	}
	ses := &session{s: s, c: c, tree: &tree, device: device, fd: int(device.Fd()), waiting: make(chan struct{}, s.opts.MaxWaiting), long: make(chan Read, MaxBatch)}
	return errors.Join(ses.serve(ctx), device.Close())
}

func (s *Server) attach(ctx context.Context, h *hello) (Tree, error) {
	if h.Version != version {
		return Tree{}, fserr.Newf(fserr.Unsupported, "host link", "", "version %d", h.Version)
	}
	select {
	case s.attachTokens <- struct{}{}:
		defer func() { <-s.attachTokens }()
		return s.opts.Attach(ctx, h.Aname)
	case <-ctx.Done():
		return Tree{}, ctx.Err()
	}
}

// session answers the reads of one mount.
type session struct {
	s       *Server
	c       *net.UnixConn
	tree    *Tree
	device  *os.File
	fd      int
	waiting chan struct{} // a token for each read that waits
	long    chan Read     // longer than longRead, to be copied
	wg      sync.WaitGroup

	mu    sync.Mutex
	acks  []byte
	timer *time.Timer
}

// serve takes requests until the connection ends.
func (ses *session) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	copiers := max(1, min(runtime.GOMAXPROCS(0), 4))
	for range copiers {
		ses.wg.Add(1)
		go func() {
			defer ses.wg.Done()
			for r := range ses.long {
				if ses.answer(ctx, r) != nil {
					_ = ses.c.Close() // ends the session
				}
			}
		}()
	}
	err := ses.take(ctx)
	_ = ses.c.Close() // ends what is being sent
	cancel()
	close(ses.long)
	ses.wg.Wait()
	ses.mu.Lock()
	if ses.timer != nil {
		ses.timer.Stop()
	}
	ses.mu.Unlock()
	return err
}

// take answers what comes until the connection ends: what is short itself, because
// handing it on takes longer than copying, and has what is long copied by others,
// several at once.
func (ses *session) take(ctx context.Context) error {
	buf := make([]byte, MaxBatch*readSize)
	reads := make([]Read, 0, MaxBatch)
	for {
		n, err := ses.c.Read(buf)
		if err != nil {
			return err
		}
		if reads, err = parseReads(buf[:n], reads[:0]); err != nil {
			return err
		}
		for _, r := range reads {
			if r.Size > longRead {
				ses.long <- r
			} else if err := ses.answer(ctx, r); err != nil {
				return err
			}
		}
	}
}

// answer answers at once if the bytes are at hand, else as soon as they are.
func (ses *session) answer(ctx context.Context, r Read) error {
	b, pool := ses.s.buffer(r.Size)
	local, err := ses.tryFill((*b)[outHeader:outHeader+int(r.Size)], r)
	if local || err != nil {
		err = ses.write(*b, r, err)
		pool.Put(b)
		return err
	}
	pool.Put(b)
	select {
	case ses.waiting <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	ses.wg.Add(1)
	go func() {
		defer func() { <-ses.waiting; ses.wg.Done() }()
		ses.wait(ctx, r)
	}()
	return nil
}

func (s *Server) buffer(size uint32) (*[]byte, *sync.Pool) {
	pool := &s.large
	if size <= smallBuffer-outHeader {
		pool = &s.small
	}
	return pool.Get().(*[]byte), pool
}

func (ses *session) tryFill(p []byte, r Read) (bool, error) {
	for done := 0; done < len(p); {
		n, local, err := ses.tree.TryRead(r.Node, p[done:], r.Off+int64(done))
		if err != nil || !local {
			return false, err
		}
		if n <= 0 {
			return false, errShort
		}
		done += n
	}
	return true, nil
}

// errShort: an index and its chunks disagree on where a file ends.
var errShort = errors.New("a file ends early")

// wait answers a read whose bytes have to be fetched.
func (ses *session) wait(ctx context.Context, r Read) {
	bound, cancel := context.WithTimeout(ctx, ses.s.opts.ReadTimeout)
	defer cancel()
	b, pool := ses.s.buffer(r.Size)
	defer pool.Put(b)
	p := (*b)[outHeader : outHeader+int(r.Size)]
	var err error
	for done := 0; done < len(p) && err == nil; {
		var n int
		n, err = ses.tree.Read(bound, r.Node, p[done:], r.Off+int64(done))
		if err == nil && n <= 0 {
			err = errShort
		}
		done += n
	}
	if ctx.Err() != nil {
		return // the daemon ends; the next one is asked again
	}
	if err := ses.write(*b, r, err); err != nil {
		_ = ses.c.Close() // ends the session
	}
}

// write gives the kernel its answer: the bytes behind the header in b, or the
// errno of err.
func (ses *session) write(b []byte, r Read, err error) error {
	size := outHeader + int(r.Size)
	errno := unix.Errno(0)
	if err != nil {
		size, errno = outHeader, unix.EIO
	}
	putOutHeader(b, size, errno, r.Unique)
	for {
		_, werr := unix.Write(ses.fd, b[:size])
		switch {
		case errors.Is(werr, unix.EINTR), errors.Is(werr, unix.EAGAIN):
			continue
		case werr == nil, errors.Is(werr, unix.ENOENT): // nobody waits for it any more
			return ses.ack(r.Unique)
		}
		return fmt.Errorf("answer to the kernel: %w", werr)
	}
}

// ack acknowledges an answer, with others if there are any soon.
func (ses *session) ack(unique uint64) error {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	ses.acks = appendAck(ses.acks, unique)
	if len(ses.acks) >= MaxBatch*ackSize {
		return ses.flushLocked()
	}
	if len(ses.acks) > ackSize {
		return nil // the timer runs
	}
	if ses.timer == nil {
		ses.timer = time.AfterFunc(ackAfter, ses.flush)
	} else {
		ses.timer.Reset(ackAfter)
	}
	return nil
}

func (ses *session) flush() {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if ses.flushLocked() != nil {
		_ = ses.c.Close() // ends the session
	}
}

func (ses *session) flushLocked() error {
	if len(ses.acks) == 0 {
		return nil
	}
	err := send(ses.c, ses.acks, nil)
	ses.acks = ses.acks[:0]
	return err
}
