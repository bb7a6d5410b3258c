package registry

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/nineply/nineply/internal/source"
)

// watch ends a request when nothing happens for a while. It runs only while
// this side waits for the other.
type watch struct {
	limit  time.Duration
	ctx    context.Context // of the request, for reading its end's cause
	cancel context.CancelCauseFunc

	mu      sync.Mutex // a leaf but for the link's
	timer   *time.Timer
	running bool
	// early, if not nil, is asked when the timer fires. It says whether the request is
	// to end, or else for how long to go on watching.
	early func() (end bool, again time.Duration)
}

// newWatch starts watching. The request must use the context that it returns.
func newWatch(ctx context.Context, limit time.Duration) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{limit: limit, ctx: ctx, cancel: cancel, running: true}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(limit, w.fire)
	return ctx, w
}

// fire is the end of the time.
func (w *watch) fire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch early := w.early; {
	case !w.running: // it was stopped in this moment
	case early == nil:
		w.cancel(errStalled)
	default:
		w.early = nil
		end, again := early()
		if end {
			w.cancel(errBehind)
			return
		}
		if again < w.limit {
			w.early = early
		}
		w.timer.Reset(min(again, w.limit))
	}
}

// touch starts the time anew.
func (w *watch) touch() { w.expect(w.limit, nil) }

// expect is touch with a shorter time, after which early is asked.
func (w *watch) expect(within time.Duration, early func() (end bool, again time.Duration)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running, w.early = true, early
	w.timer.Reset(min(within, w.limit))
}

// enter waits for the host's room for one more request, which is not the host's
// stalling, and starts the time.
func (w *watch) enter(ctx context.Context, l *link) error {
	w.pause()
	if err := l.enter(ctx); err != nil {
		return err
	}
	w.touch()
	return nil
}

// pause stops the time until the next touch.
func (w *watch) pause() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running, w.early = false, nil
	w.timer.Stop()
}

// stop ends the request.
func (w *watch) stop() {
	w.pause()
	w.cancel(nil)
}

// watchedBody is the body of an answer: watched, counted, and judged.
type watchedBody struct {
	rc      io.ReadCloser
	watch   *watch
	link    *link
	counter *source.HostCounter
	once    sync.Once // for closing
	err     error     // of closing

	// Since the beginning of a piece of lagPiece bytes: what came of it, and how long
	// was waited for that; and the beginning of the read that waits now. They change
	// only while the watch is paused.
	got    int
	waited time.Duration
	began  time.Time
}

func newWatchedBody(rc io.ReadCloser, w *watch, l *link, counter *source.HostCounter) *watchedBody {
	l.began(time.Now())
	return &watchedBody{rc: rc, watch: w, link: l, counter: counter}
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	b.began = time.Now()
	if lag, ok := b.link.lag(); ok {
		b.watch.expect(max(lag-b.waited, 0), b.behind)
	} else {
		b.watch.touch()
	}
	n, err := b.rc.Read(p)
	b.watch.pause()
	now := time.Now()
	b.waited += now.Sub(b.began)
	if b.got += n; b.got >= lagPiece {
		b.got, b.waited = 0, 0
	}
	b.counter.Bytes.Add(int64(n))
	b.link.came(now, n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = transportFailure(b.watch.ctx, bodyError{err})
	}
	return n, err
}

// behind decides about a body that may have fallen far behind what its host does
// usually: whether to end it, so that the rest is asked for anew. That is bounded as
// second requests are.
func (b *watchedBody) behind() (end bool, again time.Duration) {
	lag, ok := b.link.lag()
	if left := lag - b.waited - time.Since(b.began); !ok || left > 0 {
		return false, left // there are more bodies by now
	}
	if !b.link.hedge() {
		return false, b.watch.limit
	}
	b.counter.Hedges.Add(1)
	return true, 0
}

// Close implements io.Closer.
func (b *watchedBody) Close() error {
	b.once.Do(func() {
		b.watch.stop()
		b.err = b.rc.Close()
		b.link.ended()
	})
	return b.err
}

// bodyError marks an error of reading a body as one of the network, whatever
// the transport calls it.
type bodyError struct{ error }

// Unwrap gives the transport's error.
func (e bodyError) Unwrap() error { return e.error }

// Timeout implements net.Error.
func (bodyError) Timeout() bool { return false }

// Temporary implements net.Error.
func (bodyError) Temporary() bool { return true }

// sentBody is the body of a request, watched and counted.
type sentBody struct {
	rc      io.ReadCloser
	watch   *watch
	counter *source.HostCounter
}

// Read implements io.Reader.
func (b *sentBody) Read(p []byte) (int, error) {
	b.watch.pause() // reading our own content is not the host's stalling
	n, err := b.rc.Read(p)
	b.watch.touch()
	b.counter.BytesSent.Add(int64(n))
	return n, err
}

// Close implements io.Closer.
func (b *sentBody) Close() error { return b.rc.Close() }
