package registry

import (
	"context"
	"io"
	"time"
)

// ask is get, with a second request when the first one takes much longer than
// others of its host did. Whichever is answered first counts, and the other is
// given up. How many of them there are is bounded by a share of all requests.
func (b *blob) ask(ctx context.Context, e *endpoint, ranges string) (*answer, error) {
	l := b.link(e)
	patience, ok := l.patience()
	if !ok {
		return b.get(ctx, e, ranges)
	}
	r := &race{blob: b, endpoint: e, ranges: ranges, replies: make(chan reply, 2)}
	r.start(ctx)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case first := <-r.replies:
			if first.err != nil && r.running() > 1 {
				r.cancels[first.number]()
				r.lost++
				continue // the other one may do better
			}
			return r.finish(first)
		case <-timer.C:
			if l.hedge() {
				e.registry.stats.Host(e.Addr).Hedges.Add(1)
				r.start(ctx)
			}
		}
	}
}

// race is one or two requests for the same range.
type race struct {
	blob     *blob
	endpoint *endpoint
	ranges   string
	replies  chan reply
	cancels  []context.CancelFunc
	lost     int
}

// reply is how one of them ended.
type reply struct {
	number int
	answer *answer
	err    error
}

func (r *race) running() int { return len(r.cancels) - r.lost }

func (r *race) start(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	number := len(r.cancels)
	r.cancels = append(r.cancels, cancel)
	go func() { // ask waits for it
		a, err := r.blob.get(ctx, r.endpoint, r.ranges)
		r.replies <- reply{number, a, err}
	}()
}

// finish gives up the request that lost, and waits for its end.
func (r *race) finish(won reply) (*answer, error) {
	for i, cancel := range r.cancels {
		if i != won.number {
			cancel()
		}
	}
	for r.running() > 1 {
		if other := <-r.replies; other.answer != nil {
			_ = other.answer.Body.Close() // nobody wants it
		}
		r.lost++
	}
	cancel := r.cancels[won.number]
	if won.err != nil {
		cancel()
		return nil, won.err
	}
	won.answer.Body = cancelledBody{won.answer.Body, cancel}
	return won.answer, nil
}

// cancelledBody ends its request's context when it is closed.
type cancelledBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (b cancelledBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// link is what was learned about the host that bytes of the blob come from: the
// one that the endpoint sends us to, if that is known.
func (b *blob) link(e *endpoint) *link {
	host := e.Addr
	if u := b.registry.locations.get(b.place(e), b.registry.now()); u != nil {
		host = u.Host
	}
	return b.registry.links.of(host)
}
