package registry

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/testreg"
)

func newLink() *link { return (&links{}).of("h.example") }

func TestPatience(t *testing.T) {
	l, now := newLink(), time.Unix(1_700_000_000, 0)
	for i := range enoughAnswers - 1 {
		l.answered(now, time.Duration(20+i%2)*time.Millisecond)
	}
	if d, ok := l.patience(); ok {
		t.Errorf("%v after %d answers", d, l.n)
	}
	l.answered(now, time.Second)
	if d, ok := l.patience(); !ok || d != 1*time.Second {
		t.Errorf("%v, %v: one of sixteen took a second", d, ok)
	}
	for range keptAnswers {
		l.answered(now, 20*time.Millisecond)
	}
	if d, _ := l.patience(); d != 40*time.Millisecond {
		t.Errorf("%v after many answers in 20 ms", d)
	}
	for range keptAnswers {
		l.answered(now, time.Millisecond)
	}
	if d, _ := l.patience(); d != leastPatience {
		t.Errorf("%v after many answers in 1 ms", d)
	}
}

func TestCost(t *testing.T) {
	l, now := newLink(), time.Unix(1_700_000_000, 0)
	if c, ok := l.cost(); ok {
		t.Errorf("%+v of a host that nothing is known of", c)
	}
	l.answered(now, 25*time.Millisecond)
	l.answered(now, 20*time.Millisecond)
	l.answered(now, 30*time.Millisecond)
	l.began(now)
	l.began(now) // a second body beside it
	for range 100 {
		now = now.Add(time.Millisecond)
		l.came(now, 50_000)
	}
	l.ended()
	l.ended()
	c, ok := l.cost()
	if !ok || c.RoundTrip != 20*time.Millisecond || c.BytesPerSecond < 49e6 || c.BytesPerSecond > 51e6 {
		t.Errorf("learned %+v, %v of 20 ms and 50 MB/s", c, ok)
	}
	if n := c.WorthRequest(); n < 980_000 || n > 1_020_000 {
		t.Errorf("a request is worth %d bytes", n)
	}
	// The host moved farther away.
	now = now.Add(2 * rttMemory)
	l.answered(now, 70*time.Millisecond)
	if c, _ := l.cost(); c.RoundTrip != 70*time.Millisecond {
		t.Errorf("the round trip is still %v", c.RoundTrip)
	}
}

func TestHedgesAreBounded(t *testing.T) {
	l, now := newLink(), time.Unix(1_700_000_000, 0)
	made := 0
	for range 200 {
		l.answered(now, time.Millisecond)
		if l.hedge() {
			made++
		}
	}
	if made < 8 || made > 11 {
		t.Errorf("%d second requests for 200 answers", made)
	}
	for range 1000 {
		l.answered(now, time.Millisecond)
	}
	made = 0
	for l.hedge() {
		made++
	}
	if made != maxHedges {
		t.Errorf("%d second requests at once", made)
	}
}

func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, now := newLink(), time.Now()
		for range openRequests {
			if err := l.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		order := make(chan int, 3)
		for i := range 3 {
			go func() {
				if err := l.enter(t.Context()); err != nil {
					t.Error(err)
				}
				order <- i
			}()
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() { gaveUp <- l.enter(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Errorf("waiting in vain: %v", err)
		}
		for i := range 3 {
			l.leave()
			if got := <-order; got != i {
				t.Errorf("let in %d as number %d", got, i)
			}
		}
		l.judged(now, http.StatusTooManyRequests)
		l.judged(now, http.StatusTooManyRequests) // of the same time: does not count
		if l.limit != openRequests/2 {
			t.Errorf("limit %v after a refusal", l.limit)
		}
		for range 10 {
			now = now.Add(calm)
			l.judged(now, http.StatusServiceUnavailable)
		}
		if l.limit != 1 {
			t.Errorf("limit %v after many", l.limit)
		}
		for range 10_000 {
			l.judged(now, http.StatusPartialContent)
		}
		if l.limit != maxOpen {
			t.Errorf("limit %v after many answers", l.limit)
		}
		for range openRequests {
			l.leave()
		}
		if l.open != 0 || len(l.waiting) != 0 {
			t.Errorf("%d open, %d waiting in the end", l.open, len(l.waiting))
		}
	})
}

// A request that is not answered gets a second one beside it once it is known how
// long answers take; the first of the two that comes counts.
func TestSecondRequest(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault testreg.Fault
	}{{"stall", testreg.Stall(-1)}, {"reset", func(x testreg.Exchange) {
		<-x.R.Context().Done() // as a host that dies while the second one is served
	}}} {
		t.Run(test.name, func(t *testing.T) {
			reg := testreg.New(t)
			r := New(Options{})
			closeAtEnd(t, r)
			b, err := r.Blob(t.Context(), reg.Ref("demo", "v1"), reg.AddBlob(make([]byte, 1000)))
			if err != nil {
				t.Fatal(err)
			}
			for range enoughAnswers + 1 { // the first one makes the connection
				readSome(t, b)
			}
			before := reg.Count(testreg.Match{}).Requests
			reg.On(testreg.Match{}, test.fault)
			readSome(t, b)
			wantCount(t, "all", reg, testreg.Match{}, before+2)
			if n := r.Stats()[reg.Host()].Hedges; n != 1 {
				t.Errorf("%d second requests counted", n)
			}
		})
	}
}

// Both requests fail: the error is one of theirs, and nothing hangs.
func TestSecondRequestFails(t *testing.T) {
	reg := testreg.New(t)
	r := New(Options{Attempts: 1, StallTimeout: time.Second})
	closeAtEnd(t, r)
	b, err := r.Blob(t.Context(), reg.Ref("demo", "v1"), reg.AddBlob(make([]byte, 1000)))
	if err != nil {
		t.Fatal(err)
	}
	for range enoughAnswers + 1 {
		readSome(t, b)
	}
	reg.Always(testreg.Match{}, testreg.Stall(-1))
	if err := b.ReadRange(t.Context(), 0, make([]byte, 10)); err == nil {
		t.Error("no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.ReadRange(ctx, 0, make([]byte, 10)); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

// What a blob's requests cost is learned by reading it.
func TestBlobCost(t *testing.T) {
	reg := testreg.New(t, testreg.WithRedirects())
	r := New(Options{})
	closeAtEnd(t, r)
	b, err := r.Blob(t.Context(), reg.Ref("demo", "v1"), reg.AddBlob(make([]byte, 16<<20)))
	if err != nil {
		t.Fatal(err)
	}
	coster, ok := b.(source.Coster)
	if !ok {
		t.Fatal("the blob knows no cost")
	}
	if _, ok := coster.Cost(); ok {
		t.Error("a cost is known before anything was read")
	}
	for range 3 {
		if err := b.ReadRange(t.Context(), 0, make([]byte, 16<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if c, ok := coster.Cost(); !ok || c.RoundTrip <= 0 || c.BytesPerSecond <= 0 {
		t.Errorf("%+v, %v", c, ok)
	}
	if c, ok := r.links.of(reg.Host()).cost(); ok {
		t.Errorf("%+v of the registry, which served no bytes", c)
	}
}

// A host that refuses a request is asked less at a time, and the request is made
// again.
func TestRefusalLowersTheLimit(t *testing.T) {
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		reg := testreg.New(t)
		r := New(Options{Sleep: func(context.Context, time.Duration) error { return nil }})
		closeAtEnd(t, r)
		b, err := r.Blob(t.Context(), reg.Ref("demo", "v1"), reg.AddBlob(make([]byte, 1000)))
		if err != nil {
			t.Fatal(err)
		}
		reg.On(testreg.Match{}, testreg.Status(status, "Retry-After", "1"))
		readSome(t, b)
		wantCount(t, "requests", reg, testreg.Match{}, 2)
		if l := r.links.of(reg.Host()); l.limit >= openRequests {
			t.Errorf("%v requests at a time after %d", l.limit, status)
		}
	}
}

// As many requests wait for an answer as the limit says, whoever makes them.
func TestLimitHolds(t *testing.T) {
	reg := testreg.New(t)
	r := New(Options{})
	closeAtEnd(t, r)
	b, err := r.Blob(t.Context(), reg.Ref("demo", "v1"), reg.AddBlob(make([]byte, 1000)))
	if err != nil {
		t.Fatal(err)
	}
	l := r.links.of(reg.Host())
	l.limit = 1
	var open, most atomic.Int64
	reg.Always(testreg.Match{}, func(x testreg.Exchange) {
		most.Store(max(most.Load(), open.Add(1)))
		l.mu.Lock()
		l.limit = 1 // as if it were never answered well
		l.mu.Unlock()
		open.Add(-1)
		x.Serve(x.W, x.R)
	})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := b.ReadRange(t.Context(), 10, make([]byte, 100)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := most.Load(); n > 2 { // the limit grows by one between answer and reset
		t.Errorf("%d requests at a time", n)
	}
	if l.open != 0 || len(l.waiting) != 0 {
		t.Errorf("%d open, %d waiting in the end", l.open, len(l.waiting))
	}
}
