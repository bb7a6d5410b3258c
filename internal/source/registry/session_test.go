package registry

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/testreg"
)

// clock is a time that only tests move.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1_700_000_000, c.ns.Load()) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

func timed(t *testing.T, opts Options) (*Registry, *clock) {
	t.Helper()
	r, c := New(opts), &clock{}
	r.now = c.now
	closeAtEnd(t, r)
	return r, c
}

func readSome(t *testing.T, b source.Blob) {
	t.Helper()
	if err := b.ReadRange(t.Context(), 10, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
}

func wantCount(t *testing.T, what string, reg *testreg.Registry, m testreg.Match, want int) {
	t.Helper()
	if n := reg.Count(m).Requests; n != want {
		t.Errorf("%s: %d requests, want %d", what, n, want)
	}
}

// A token is renewed before it expires, beside the reads that go on with it.
func TestTokenIsRenewed(t *testing.T) {
	reg := testreg.New(t, testreg.WithBearer("", ""))
	r, clock := timed(t, Options{})
	b, err := r.Blob(t.Context(), reg.Ref("demo", "v1"), reg.AddBlob(make([]byte, 1000)))
	if err != nil {
		t.Fatal(err)
	}
	tokens, blobs := testreg.Match{Path: "/token"}, testreg.Match{Path: "/blobs/"}
	readSome(t, b)
	wantCount(t, "tokens for the first read", reg, tokens, 1)
	wantCount(t, "first read", reg, blobs, 2) // one of them was refused

	clock.advance(200 * time.Second) // of 300
	readSome(t, b)
	r.wg.Wait()
	wantCount(t, "tokens long before the end", reg, tokens, 1)

	clock.advance(30 * time.Second)
	readSome(t, b)
	r.wg.Wait()
	wantCount(t, "tokens near the end", reg, tokens, 2)
	readSome(t, b)
	wantCount(t, "reads", reg, blobs, 5)
	last := reg.Requests(blobs)
	if old, renewed := last[3].Header.Get("Authorization"), last[4].Header.Get("Authorization"); old == renewed || renewed == "" {
		t.Errorf("the read after the renewal shows %q, the one before %q", renewed, old)
	}
}

// A renewal that fails leaves the old token in use, and is not tried all the time.
func TestTokenIsNotRenewed(t *testing.T) {
	reg := testreg.New(t, testreg.WithBearer("", ""))
	r, clock := timed(t, Options{})
	b, err := r.Blob(t.Context(), reg.Ref("demo", "v1"), reg.AddBlob(make([]byte, 1000)))
	if err != nil {
		t.Fatal(err)
	}
	readSome(t, b)
	clock.advance(250 * time.Second)
	tokens := testreg.Match{Path: "/token"}
	reg.On(tokens, testreg.Times(2, testreg.Status(http.StatusServiceUnavailable))...)
	for range 3 {
		readSome(t, b)
		r.wg.Wait()
	}
	wantCount(t, "tokens after a failure", reg, tokens, 2)
	clock.advance(renewPause)
	for range 2 {
		readSome(t, b)
		r.wg.Wait()
	}
	wantCount(t, "tokens after the second", reg, tokens, 3)
	clock.advance(renewPause)
	readSome(t, b)
	r.wg.Wait()
	wantCount(t, "tokens when the server is back", reg, tokens, 4)
	wantCount(t, "reads", reg, testreg.Match{Path: "/blobs/"}, 8)
}

// Close does not wait for a token server that does not answer.
func TestCloseDuringRenewal(t *testing.T) {
	reg := testreg.New(t, testreg.WithBearer("", ""))
	r, clock := timed(t, Options{})
	b, err := r.Blob(t.Context(), reg.Ref("demo", "v1"), reg.AddBlob(make([]byte, 1000)))
	if err != nil {
		t.Fatal(err)
	}
	readSome(t, b)
	clock.advance(250 * time.Second)
	reg.Always(testreg.Match{Path: "/token"}, testreg.Stall(-1))
	readSome(t, b)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// All users of a blob know where its bytes are; users of the same blob in another
// repository ask for themselves.
func TestLocationIsShared(t *testing.T) {
	reg := testreg.New(t, testreg.WithRedirects())
	r, clock := timed(t, Options{})
	desc := reg.AddBlob(make([]byte, 1000))
	for i, repo := range []string{"demo", "demo", "other", "demo"} {
		b, err := r.Blob(t.Context(), reg.Ref(repo, "v1"), desc)
		if err != nil {
			t.Fatal(err)
		}
		readSome(t, b)
		wantCount(t, fmt.Sprintf("asked after read %d", i), reg, testreg.Match{Registry: true}, []int{1, 1, 2, 2}[i])
	}
	clock.advance(unknownLife)
	b, err := r.Blob(t.Context(), reg.Ref("demo", "v1"), desc)
	if err != nil {
		t.Fatal(err)
	}
	readSome(t, b)
	wantCount(t, "asked after a while", reg, testreg.Match{Registry: true}, 3)
}
