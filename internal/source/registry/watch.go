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
	timer  *time.Timer
	ctx    context.Context // of the request, for reading its end's cause
	cancel context.CancelCauseFunc
}

// newWatch starts watching. The request must use the context that it returns.
func newWatch(ctx context.Context, limit time.Duration) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{limit: limit, ctx: ctx, cancel: cancel}
	w.timer = time.AfterFunc(limit, func() { cancel(errStalled) })
	return ctx, w
}

// touch starts the time anew.
func (w *watch) touch() { w.timer.Reset(w.limit) }

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
func (w *watch) pause() { w.timer.Stop() }

// stop ends the request.
func (w *watch) stop() {
	w.timer.Stop()
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
}

func newWatchedBody(rc io.ReadCloser, w *watch, l *link, counter *source.HostCounter) *watchedBody {
	l.began(time.Now())
	return &watchedBody{rc: rc, watch: w, link: l, counter: counter}
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.touch()
	n, err := b.rc.Read(p)
	b.watch.pause()
	b.counter.Bytes.Add(int64(n))
	b.link.came(time.Now(), n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = transportFailure(b.watch.ctx, bodyError{err})
	}
	return n, err
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
