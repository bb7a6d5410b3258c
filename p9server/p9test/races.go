package p9test

import (
	"context"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const raceRounds = 500

// yielding makes fetches and attaches end at about the time that the next
// request is read, sooner or later from round to round.
func yielding(round *atomic.Int64) func(context.Context, string) error {
	return func(ctx context.Context, _ string) error {
		for range round.Load() % 7 {
			runtime.Gosched()
		}
		return ctx.Err()
	}
}

// testFlushRaces: whether or not a request is answered before its Tflush takes
// hold, its reply never comes after the Rflush, and its tag is free then.
func testFlushRaces(t *testing.T, connect Connect) {
	var round atomic.Int64
	tree := Reference(t)
	tree.Fetch = yielding(&round)
	e := Export(tree)
	e.Wait = yielding(&round)
	c := NewClient(t, connect(t, e))
	c.Start("8192", "")
	c.Exchange(`Twalk fid=0 newfid=1 wname=["remote"]`, "Rwalk tag=0 wqid=[(0.1.15)]")
	c.Exchange("Tlopen fid=1", "Rlopen tag=0 qid=(0.1.15) iounit=0")
	won := 0
	for ; round.Load() < raceRounds; round.Add(1) {
		c.Send("Tread tag=1 fid=1 count=4")
		if c.flushed("Tflush tag=2 oldtag=1", "Rread tag=1 "+remoteStart, "Rflush tag=2") {
			won++
		}
		c.Exchange("Tclunk tag=1 fid=77", "Rlerror tag=1 ecode=9")

		c.Send("Tattach tag=1 fid=5")
		if c.flushed("Tflush tag=2 oldtag=1", "Rattach tag=1 qid=(80.1.1)", "Rflush tag=2") {
			c.Exchange("Tclunk tag=1 fid=5", "Rlerror tag=1 ecode=9")
		} else {
			c.Exchange("Tclunk tag=1 fid=5", "Rclunk tag=1")
		}
	}
	t.Logf("%d of %d reads were flushed in time", won, raceRounds)
}

// flushed sends a request that cancels another, and takes replies up to the
// last of want: true if no other one came.
func (c *Client) flushed(request string, want ...string) bool {
	c.t.Helper()
	c.Send(request)
	last := want[len(want)-1]
	got := c.Receive()
	if got == last {
		return true
	}
	for _, w := range want[:len(want)-1] {
		if got == w {
			c.Expect(last)
			return false
		}
	}
	c.t.Fatalf("received %s, want one of %q", got, want)
	return false
}

// testVersionRaces: nothing of a session comes after the Rversion that ends it.
func testVersionRaces(t *testing.T, connect Connect) {
	var round atomic.Int64
	tree := Reference(t)
	tree.Fetch = yielding(&round)
	e := Export(tree)
	c := NewClient(t, connect(t, e))
	const version = `Tversion msize=8192 version="9P2000.L"`
	c.Start("8192", "")
	for ; round.Load() < raceRounds; round.Add(1) {
		c.Send(`Twalk tag=1 fid=0 newfid=1 wname=["remote"]`)
		c.Expect("Rwalk tag=1 wqid=[(0.1.15)]")
		c.Exchange("Tlopen tag=1 fid=1", "Rlopen tag=1 qid=(0.1.15) iounit=0")
		c.Send("Tread tag=1 fid=1 count=4")
		c.Send("Tattach tag=2 fid=2")
		c.Send(version)
		for got := ""; !strings.HasPrefix(got, "Rversion "); {
			got = c.Receive()
		}
		c.Exchange("Tclunk tag=1 fid=2", "Rlerror tag=1 ecode=9")
		c.Exchange("Tattach tag=2 fid=0", "Rattach tag=2 qid=(80.1.1)")
	}
	c.Exchange("Tclunk tag=1 fid=0", "Rclunk tag=1")
	// An attach whose request was ended lets go of its tree when it comes to that.
	for deadline := time.Now().Add(patience); e.Attached() != 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d trees attached after the last clunk", e.Attached())
		}
	}
}
