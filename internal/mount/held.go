package mount

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/hostlink"
)

// Refuser serves a held session while there is no daemon: with errors for all that
// needs one, until ctx ends (see [hostlink.Sessions]).
type Refuser func(ctx context.Context, nc *net.UnixConn, ledger *os.File) error

// Held is a 9P connection that a daemon of this host serves, with nobody between
// it and the client, and that outlives the daemon: a duplicate of the server's end
// and the ledger of the session are given to the next daemon, which goes on where
// the last one stopped.
type Held struct {
	opts   SessionOptions
	log    *zap.Logger
	path   string
	refuse Refuser
	server *os.File
	ledger *os.File // nil before the first daemon has begun
	link   *hostlink.SessionLink

	ctx        context.Context
	cancel     context.CancelFunc
	wg         sync.WaitGroup
	impatient  chan struct{} // somebody will wait no longer
	linked     atomic.Bool
	reconnects atomic.Uint64
}

// Hold makes a connection and has the daemon with the host link at path serve it.
// client is the end for a 9P client; the session ends when all its duplicates are
// closed. refuse serves while no daemon has for opts.Patience; with nil, requests
// wait for ever. The error is of kind Unsupported if there is no host link, or it
// serves no sessions. ctx bounds the beginning.
func Hold(ctx context.Context, path string, opts SessionOptions, refuse Refuser) (h *Held, client *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	h = &Held{
		opts: opts, log: opts.Logger, path: path, refuse: refuse,
		server: os.NewFile(uintptr(fds[0]), "held"), impatient: make(chan struct{}, 1),
	}
	if h.log == nil {
		h.log = zap.NewNop()
	}
	client = os.NewFile(uintptr(fds[1]), "client")
	h.ctx, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := h.begin(ctx); err != nil {
		h.cancel()
		return nil, nil, errors.Join(err, client.Close(), h.server.Close())
	}
	h.wg.Go(h.run)
	return h, client, nil
}

// begin has the first daemon begin.
func (h *Held) begin(ctx context.Context) error {
	for try := 0; ; try++ {
		link, err := hostlink.DialSession(ctx, h.path)
		if err == nil {
			if err = h.give(ctx, link); err == nil {
				return nil
			}
			err = errors.Join(err, link.Close())
		}
		// A daemon that has just started opens this socket last.
		if errors.Is(err, hostlink.ErrRefused) || try == attachTries || !sleep(ctx, attachPause) {
			return fserr.New(fserr.Unsupported, "hold", h.path, err)
		}
	}
}

func (h *Held) give(ctx context.Context, link *hostlink.SessionLink) error {
	ledger, err := link.Give(ctx, h.server, h.ledger)
	if err != nil {
		return err
	}
	h.ledger, h.link = ledger, link
	h.linked.Store(true)
	return nil
}

// run has one daemon after the other serve, until the session is over.
func (h *Held) run() {
	defer h.end()
	for {
		if h.use() || h.clientGone() || h.ctx.Err() != nil {
			return
		}
		h.log.Warn("daemon lost", zap.String("aname", h.opts.Aname))
		if !h.next() {
			return
		}
		h.reconnects.Add(1)
		h.log.Info("the next daemon goes on", zap.String("aname", h.opts.Aname))
	}
}

func (h *Held) end() {
	h.linked.Store(false)
	h.cancel()
	_ = h.server.Close() // the client is to see the end, if it is there
	_ = h.ledger.Close() // memory
}

// use waits until the daemon has gone, or says that the session is over.
func (h *Held) use() (over bool) {
	stop := context.AfterFunc(h.ctx, func() { _ = h.link.Close() }) // ends Wait
	over = h.link.Wait()
	if stop() {
		_ = h.link.Close() // the other end has gone
	}
	h.linked.Store(false)
	return over
}

// clientGone tells whether the client's end is closed.
func (h *Held) clientGone() bool {
	fds := []unix.PollFd{{Fd: int32(h.server.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&unix.POLLHUP != 0
}

// next has the next daemon go on; false if the session is over.
func (h *Held) next() bool {
	refusing := newRefusal(h)
	defer refusing.end()
	said := ""
	for pause := firstPause; ; pause = nextPause(pause) {
		link, err := hostlink.DialSession(h.ctx, h.path)
		if err == nil {
			refusing.stop()
			if err = h.give(h.ctx, link); err == nil {
				return true
			}
			_ = link.Abandon(h.ctx) // of no use
			refusing.resume()
		}
		if h.ctx.Err() != nil || h.clientGone() {
			return false
		}
		if why := err.Error(); why != said {
			said = why
			h.log.Warn("daemon not back yet", zap.String("aname", h.opts.Aname), zap.Error(err))
		}
		if !refusing.pause(pause) {
			return false
		}
	}
}

// giveUp fails the requests that wait for a daemon.
func (h *Held) giveUp() {
	select {
	case h.impatient <- struct{}{}:
	default:
	}
}

// Connected tells whether a daemon serves.
func (h *Held) Connected() bool { return h.linked.Load() }

// Reconnects is how many daemons have gone on after another.
func (h *Held) Reconnects() uint64 { return h.reconnects.Load() }

// Wait waits for the end of the session.
func (h *Held) Wait() { h.wg.Wait() }

// Close gives the session up: a daemon that serves it goes on, the next will not.
func (h *Held) Close() {
	h.cancel()
	h.wg.Wait()
}

// heldRefusal is the service of errors while there is no daemon, once patience is at
// its end.
type heldRefusal struct {
	h      *Held
	late   <-chan time.Time
	over   bool // patience is at its end
	timer  *time.Timer
	cancel context.CancelFunc
	done   chan struct{} // nil unless it serves
}

func newRefusal(h *Held) *heldRefusal {
	r := &heldRefusal{h: h}
	select {
	case <-h.impatient: // of an earlier outage
	default:
	}
	if h.opts.Patience > 0 {
		r.timer = time.NewTimer(h.opts.Patience)
		r.late = r.timer.C
	}
	return r
}

// pause waits, and begins to refuse when it is time to; false when the mount has
// ended.
func (r *heldRefusal) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.late:
		r.over = true
		r.resume()
	case <-r.h.impatient:
		r.over = true
		r.resume()
	case <-r.done:
		r.done = nil
		r.cancel()
		return !r.h.clientGone()
	case <-r.h.ctx.Done():
		return false
	}
	return true
}

// resume serves errors, if it is time to and nobody does.
func (r *heldRefusal) resume() {
	if !r.over || r.done != nil || r.h.refuse == nil {
		return
	}
	nc, err := net.FileConn(r.h.server)
	if err != nil {
		r.h.log.Error("requests go on waiting", zap.Error(err))
		return
	}
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		_ = nc.Close() // cannot be
		return
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(r.h.ctx)
	r.done = make(chan struct{})
	go func() {
		defer close(r.done)
		if err := r.h.refuse(ctx, uc, r.h.ledger); err != nil && ctx.Err() == nil {
			r.h.log.Warn("refusing requests", zap.Error(err))
		}
	}()
}

// end ends it for good.
func (r *heldRefusal) end() {
	if r.timer != nil {
		r.timer.Stop()
	}
	r.stop()
}

// stop ends the service, so that a daemon can go on.
func (r *heldRefusal) stop() {
	if r.done != nil {
		r.cancel()
		<-r.done
		r.done = nil
	}
}
