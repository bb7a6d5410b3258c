package mount

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/p9client"
)

// Errors of a session.
var (
	// ErrClosed: the session was closed by its owner.
	ErrClosed = errors.New("session closed")
	// ErrPatience: the server stayed away longer than the session's patience.
	ErrPatience = errors.New("server is away")
	// ErrOtherTree: the server came back with another tree under the name.
	ErrOtherTree = errors.New("server has another tree under this name")
)

// SessionOptions say which tree a session is of and how it behaves when the
// server goes away.
type SessionOptions struct {
	// Dial makes a connection to the server.
	Dial p9client.Dialer
	// Aname is the attach name of the tree.
	Aname string
	// Wait is how long opening the session may try to reach a server that
	// cannot be connected to. 0: one try.
	Wait time.Duration
	// Patience is how long a request waits for a server that went away
	// before it fails with EIO. 0: for ever.
	Patience time.Duration
	// Client tunes the connection.
	Client p9client.Options
	// Logger is told of losses and returns. nil: nobody.
	Logger *zap.Logger
}

const (
	firstPause = 2 * time.Millisecond
	lastPause  = 500 * time.Millisecond
	// dialTimeout bounds one try to connect, negotiate and attach. Attaching
	// may make the server resolve an image first.
	dialTimeout = 90 * time.Second
	// busyPause is the wait before a request is repeated that a server gave
	// up by itself, as it does when it shuts down.
	busyPause = 20 * time.Millisecond
)

// link is one living connection with its attach.
type link struct {
	c     *p9client.Client
	root  *p9client.File
	epoch uint64
}

// session is an attach that outlives connections. While there is no connection
// requests wait; a goroutine of the session makes the next one.
type session struct {
	opts   SessionOptions
	log    *zap.Logger
	rootID p9client.QID
	ctx    context.Context // ends when the session is closed
	cancel context.CancelFunc
	wg     sync.WaitGroup
	onLink func() // called before a new link is used

	mu     sync.Mutex
	cur    *link
	change chan struct{} // closed and replaced when cur changes
	since  time.Time     // when cur became nil
	past   p9client.Stats

	reconnects atomic.Uint64
	retries    atomic.Uint64
}

// newSession connects and attaches. A server that answers with an error fails
// it at once; one that cannot be reached is tried for opts.Wait.
func newSession(ctx context.Context, opts SessionOptions) (*session, error) {
	s := &session{opts: opts, log: opts.Logger, change: make(chan struct{})}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	l, err := s.firstLink(ctx)
	if err != nil {
		return nil, fmt.Errorf("attach %q: %w", opts.Aname, err)
	}
	s.rootID, s.cur = l.root.QID(), l
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.wg.Add(1)
	go s.supervise(l)
	return s, nil
}

func (s *session) firstLink(ctx context.Context) (*link, error) {
	deadline := time.Now().Add(s.opts.Wait)
	for pause := firstPause; ; pause = nextPause(pause) {
		l, err := s.connect(ctx)
		var refused syscall.Errno
		switch {
		case err == nil:
			return l, nil
		case errors.As(err, &refused) && !isDialError(err) && !errors.Is(err, p9client.ErrLost), errors.Is(err, p9client.ErrNoRedial),
			errors.Is(err, p9client.ErrVersion), !time.Now().Add(pause).Before(deadline):
			return nil, err
		}
		if !sleep(ctx, pause) {
			return nil, ctx.Err()
		}
	}
}

// dialError marks a failure to reach the server at all; the errno within it is
// the kernel's, not the server's.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func isDialError(err error) bool {
	var d *dialError
	return errors.As(err, &d)
}

func nextPause(d time.Duration) time.Duration { return min(2*d, lastPause) }

// sleep waits for about d; false means ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// connect makes one connection and attaches.
func (s *session) connect(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := s.opts.Dial(ctx)
	if err != nil {
		return nil, &dialError{err}
	}
	c, err := p9client.New(ctx, conn, s.opts.Client)
	if err != nil {
		return nil, &dialError{err}
	}
	root, err := c.Attach(ctx, s.opts.Aname)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &link{c: c, root: root, epoch: 1}, nil
}

// supervise replaces the link whenever it is lost, until the session ends.
func (s *session) supervise(l *link) {
	defer s.wg.Done()
	for {
		select {
		case <-l.c.Done():
		case <-s.ctx.Done():
			_ = l.c.Close() // nobody is interested any more
			return
		}
		s.setLink(nil)
		s.log.Warn("connection to the server lost", zap.String("aname", s.opts.Aname), zap.Error(l.c.Err()))
		s.retire(l)
		next := s.reconnect(l)
		if next == nil {
			return
		}
		s.reconnects.Add(1)
		if s.onLink != nil {
			s.onLink()
		}
		s.setLink(next)
		s.log.Info("connected again", zap.String("aname", s.opts.Aname), zap.Uint64("epoch", next.epoch))
		l = next
	}
}

// retire ends a lost link and keeps its counts.
func (s *session) retire(l *link) {
	_ = l.c.Close() // lost already
	st := l.c.Stats()
	s.mu.Lock()
	s.past.Requests += st.Requests
	s.past.BytesRead += st.BytesRead
	s.past.Flushes += st.Flushes
	s.mu.Unlock()
}

// reconnect tries until it has a link to the same tree; nil when the session
// ended. The first failure of its kind is logged, repetitions are not.
func (s *session) reconnect(old *link) *link {
	said := ""
	for pause := firstPause; ; pause = nextPause(pause) {
		l, err := s.connect(s.ctx)
		if err == nil {
			if q := l.root.QID(); q == s.rootID {
				l.epoch = old.epoch + 1
				return l
			}
			err = errors.Join(ErrOtherTree, l.c.Close())
		}
		if s.ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, p9client.ErrNoRedial) {
			s.log.Error("the server is gone for good", zap.String("aname", s.opts.Aname), zap.Error(err))
			s.cancel()
			return nil
		}
		if why := err.Error(); why != said {
			said = why
			s.log.Warn("server not back yet", zap.String("aname", s.opts.Aname), zap.Error(err))
		}
		if !sleep(s.ctx, pause) {
			return nil
		}
	}
}

func (s *session) setLink(l *link) {
	s.mu.Lock()
	s.cur = l
	s.since = time.Now()
	close(s.change)
	s.change = make(chan struct{})
	s.mu.Unlock()
}

// ready returns the link if there is one now.
func (s *session) ready() *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cur
}

// link waits for a connection other than not.
func (s *session) link(ctx context.Context, not *link) (*link, error) {
	for {
		s.mu.Lock()
		l, change, since := s.cur, s.change, s.since
		s.mu.Unlock()
		if l != nil {
			if l != not {
				return l, nil
			}
			since = time.Now() // lost, and nobody else has noticed yet
		}
		if err := s.await(ctx, change, since); err != nil {
			return nil, err
		}
	}
}

func (s *session) await(ctx context.Context, change <-chan struct{}, since time.Time) error {
	var expired <-chan time.Time
	if s.opts.Patience > 0 {
		t := time.NewTimer(time.Until(since.Add(s.opts.Patience)))
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-change:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return ErrClosed
	case <-expired:
		return ErrPatience
	}
}

// do runs op with a link and runs it again with the next one when the link was
// lost under it. op must be safe to repeat.
func (s *session) do(ctx context.Context, op func(l *link) error) error {
	var lost *link
	for {
		l, err := s.link(ctx, lost)
		if err != nil {
			return err
		}
		err = op(l)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, p9client.ErrLost):
			lost = l
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ECANCELED):
			// Nobody here gave the request up: the server is going down.
			if !sleep(ctx, busyPause) {
				return ctx.Err()
			}
		default:
			return err
		}
		s.retries.Add(1)
	}
}

// close ends the session. Requests in it fail.
func (s *session) close() {
	s.cancel()
	s.wg.Wait()
}

// stats sums up all connections of the session.
func (s *session) stats() p9client.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.past
	if s.cur != nil {
		now := s.cur.c.Stats()
		st.Requests += now.Requests
		st.BytesRead += now.BytesRead
		st.Flushes += now.Flushes
	}
	return st
}
