package p9server_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

func TestSessions(t *testing.T) {
	e, g := remote(t)
	e.Add("other", p9test.Reference(t))
	s := serve(t, e, p9server.Options{})
	first, second := s.client(), s.client()
	first.Exchange(`Tattach fid=5 aname="other"`, "Rattach tag=0 qid=(80.1.1)")
	second.Exchange(`Twalk fid=0 newfid=1 wname=["bin" "sh"]`, "Rwalk tag=0 wqid=[(80.1.2) (0.1.3)]")
	second.Exchange("Tlopen fid=1", "Rlopen tag=0 qid=(0.1.3) iounit=0")
	second.Exchange("Tread fid=1 count=3", `Rread tag=0 data="#!s"`)
	second.Exchange(`Twalk fid=0 newfid=2 wname=["remote"]`, "Rwalk tag=0 wqid=[(0.1.15)]")
	second.Exchange("Tlopen fid=2", "Rlopen tag=0 qid=(0.1.15) iounit=0")
	second.Send("Tread fid=2 count=4")
	<-g.Entered
	second.Exchange("Tclunk tag=1 fid=2", "Rclunk tag=1")
	list := s.Sessions()
	if len(list) != 2 || list[0].Since.After(list[1].Since) {
		t.Fatalf("sessions: %+v", list)
	}
	if got := list[0]; got.Aname != "other" || got.Messages != 3 || got.FIDs != 2 || got.Misses != 0 {
		t.Errorf("first session: %+v", got)
	}
	if got := list[1]; got.Aname != "" || got.Messages != 9 || got.FIDs != 2 || got.LocalReads != 1 || got.Payload != 3 || got.Misses != 1 || got.Outstanding != 1 {
		t.Errorf("second session: %+v", got)
	}
	g.Open()
	second.Expect("Rread tag=0 " + remoteData)
	if h := s.Stats().Waited["read"]; h.Count() != 1 {
		t.Errorf("%d reads waited", h.Count())
	}
	if got := s.Sessions()[1].Payload; got != 3 && got != 7 { // counted behind the reply
		t.Errorf("payload %d", got)
	}
}

func TestLatencies(t *testing.T) {
	tree := p9test.Reference(t)
	inBubble(t, p9test.Export(tree), p9server.Options{ReadTimeout: time.Minute}, func(t *testing.T, s *session) {
		const wait = 300 * time.Microsecond
		tree.Fetch = func(context.Context, string) error { time.Sleep(wait); return nil }
		openRemote(s.Client)
		for range 10 {
			s.Exchange("Tread tag=1 fid=1 count=4", "Rread tag=1 "+remoteData)
		}
		for range 10 * p9server.SampledOneIn {
			s.Exchange("Tgetattr fid=9 mask=0", fmt.Sprintf("Rlerror tag=0 ecode=%d", 9))
		}
		synctest.Wait()
		got := s.server.Stats()
		waited, atOnce := got.Waited["read"], got.AtOnce["getattr"]
		if waited.Count() != 10 || waited.Sum != 10*wait {
			t.Errorf("%d reads waited for %v", waited.Count(), waited.Sum)
		}
		for i, n := range waited.Buckets {
			if holds := p9server.LatencyBound(i) >= wait && p9server.LatencyBound(i) < 2*wait; holds != (n > 0) {
				t.Errorf("bucket to %v has %d of %v", p9server.LatencyBound(i), n, wait)
			}
		}
		if atOnce.Count() != 10 || atOnce.Sum != 0 || atOnce.Buckets[0] != 10 {
			t.Errorf("answered at once: %+v", atOnce)
		}
	})
}
