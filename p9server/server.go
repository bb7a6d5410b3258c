package p9server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"github.com/nineply/nineply/internal/fserr"
)

// ErrServerClosed is returned by Serve and ServeConn after Shutdown or Close.
var ErrServerClosed = fserr.New(fserr.Closed, "serve", "9P server", nil)

// ErrProtocol is wrapped by what ServeConn returns when the peer broke the
// protocol in a way that leaves no message boundary or tag to trust.
var ErrProtocol = errors.New("9P protocol violation")

// Server answers 9P2000.L on any number of connections. Its methods may be
// called concurrently.
type Server struct {
	exporter Exporter
	opts     Options
	stats    counters
	pool     bufferPool
	reads    *semaphore.Weighted
	bytes    *semaphore.Weighted
	// What runs on all connections, for the share that each may have of it.
	running      atomic.Int64
	runningBytes atomic.Int64

	mu        sync.Mutex
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
	closed    bool
	wg        sync.WaitGroup // of Serve and ServeConn calls
}

// NewServer makes a server of what e exports.
func NewServer(e Exporter, opts Options) *Server {
	opts = opts.withDefaults()
	return &Server{
		exporter:  e,
		opts:      opts,
		reads:     semaphore.NewWeighted(int64(opts.MaxReads)),
		bytes:     semaphore.NewWeighted(opts.MaxBytes),
		conns:     map[*conn]struct{}{},
		listeners: map[net.Listener]struct{}{},
	}
}

// Serve accepts connections of l and serves them until ctx is done, l fails or
// the server is closed. It closes l, and returns when every connection it
// accepted has ended: these end with ctx as well. The error is never nil;
// after Shutdown or Close it is ErrServerClosed, after ctx its cause.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if !s.addListener(l) {
		return errors.Join(ErrServerClosed, l.Close())
	}
	defer s.removeListener(l)
	stop := onDone(ctx, func() { _ = l.Close() })
	defer stop()

	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		nc, err := s.accept(ctx, l)
		if err != nil {
			_ = l.Close() // may be closed already: that is often why accept failed
			return err
		}
		conns.Go(func() {
			// What ended the connection has been logged and counted.
			_ = s.ServeConn(ctx, nc)
		})
	}
}

// accept waits out passing failures, such as too many open files.
func (s *Server) accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	const minPause, maxPause = 5 * time.Millisecond, time.Second
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		nc, err := l.Accept()
		if err == nil {
			return nc, nil
		}
		switch {
		case s.isClosed():
			return nil, ErrServerClosed
		case ctx.Err() != nil:
			return nil, fmt.Errorf("accepting on %v: %w", l.Addr(), context.Cause(ctx))
		case !isPassing(err):
			return nil, fmt.Errorf("accepting on %v: %w", l.Addr(), err)
		}
		s.opts.Logger.Warn("accepting a 9P connection", zap.Error(err), zap.Duration("pause", pause))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// isPassing tells whether accepting may succeed again.
func isPassing(err error) bool {
	for _, e := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// ServeConn serves one connection until the peer closes it, ctx is done, or
// the server is closed; it closes nc, and returns when all work for it has
// ended. The error is nil if the peer closed between two messages.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) error {
	if s.opts.ConnContext != nil {
		ctx = s.opts.ConnContext(ctx, nc)
	}
	c := newConn(ctx, s, nc)
	if err := s.addConn(c); err != nil {
		c.cancel(err)
		return errors.Join(err, nc.Close())
	}
	defer s.removeConn(c)
	err := c.serve()
	log := s.opts.Logger.With(zap.String("peer", addrString(nc.RemoteAddr())))
	if errors.Is(err, ErrProtocol) {
		s.stats.violations.Add(1)
		log.Warn("9P connection closed", zap.Error(err))
	} else {
		log.Debug("9P connection ended", zap.Error(err))
	}
	return err
}

func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// Shutdown stops accepting and reading requests, lets every connection answer
// what it has read, and waits until all have ended. When ctx ends first it
// closes as Close does and returns the cause.
func (s *Server) Shutdown(ctx context.Context) error {
	for _, c := range s.beginClose() {
		c.drain()
	}
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	err := s.Close()
	<-done
	return errors.Join(fmt.Errorf("draining 9P connections: %w", context.Cause(ctx)), err)
}

// Close ends every connection at once, cancelling what is under way, and
// waits until all have ended.
func (s *Server) Close() error {
	for _, c := range s.beginClose() {
		c.abort()
	}
	s.wg.Wait()
	return nil
}

// beginClose closes the listeners and gives the connections still there.
func (s *Server) beginClose() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for l := range s.listeners {
		_ = l.Close() // fails only where it is closed already
	}
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.listeners[l] = struct{}{}
	s.wg.Add(1)
	return true
}

func (s *Server) removeListener(l net.Listener) {
	s.mu.Lock()
	delete(s.listeners, l)
	s.mu.Unlock()
	s.wg.Done()
}

func (s *Server) addConn(c *conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrServerClosed
	case len(s.conns) >= s.opts.MaxConns:
		s.stats.rejected.Add(1)
		return fserr.Newf(fserr.TooLarge, "accept", "9P connection", "%d connections are served already", len(s.conns))
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	s.stats.accepted.Add(1)
	s.stats.active.Add(1)
	return nil
}

func (s *Server) removeConn(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.stats.active.Add(-1)
	s.wg.Done()
}

// onDone runs fn when ctx is done, unless stop is called before. After stop fn
// has either returned or will not run.
func onDone(ctx context.Context, fn func()) (stop func()) {
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		fn()
	})
	return func() {
		if !cancel() {
			<-done
		}
	}
}

// isTimeout tells whether err is a passed deadline of a connection.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
