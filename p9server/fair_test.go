package p9server_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// However much some connections want, all at once and for ever, or take and do
// not receive, the next one finds room.
func TestGreedyConnectionsLeaveRoom(t *testing.T) {
	reads := p9server.Options{MaxReads: 8, ReadTimeout: time.Hour}
	bytes := p9server.Options{MaxMessageSize: 8192, MaxBytes: 16 << 10, ReadTimeout: time.Hour}
	tests := map[string]struct {
		opts p9server.Options
		deaf bool // their bytes come, and they do not take them
	}{
		"reads": {reads, false}, "bytes": {bytes, false}, "deaf, reads": {reads, true}, "deaf, bytes": {bytes, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			const greedy, wanted = 3, 200 // more than a socket holds
			tree := p9test.Reference(t)
			if !tt.deaf {
				tree.Fetch = p9test.NewGate().Wait
			}
			e := p9test.Export(tree)
			e.Add("free", p9test.Reference(t))
			s := serve(t, e, tt.opts)
			for range greedy {
				c := s.client()
				openRemote(c)
				for tag := range wanted {
					c.Send(fmt.Sprintf("Tread tag=%d fid=1 count=4000", tag+1))
				}
			}
			for s.Stats().Misses < greedy*wanted {
				runtime.Gosched()
			}
			c := s.client()
			c.Exchange(`Tattach fid=7 aname="free"`, "Rattach tag=0 qid=(80.1.1)")
			c.Send(`Twalk fid=7 newfid=1 wname=["remote"]`)
			c.Receive()
			c.Exchange("Tlopen fid=1", "Rlopen tag=0 qid=(0.1.15) iounit=0")
			c.Exchange("Tread fid=1 count=4", "Rread tag=0 "+remoteData)
		})
	}
}

// A connection that says nothing, or not enough, is not kept.
func TestConnectionWithoutVersion(t *testing.T) {
	for name, sent := range map[string][]byte{
		"silent":         nil,
		"half a message": {19, 0, 0, 0, 100, 255},
		"no version":     encode(t, "Tclunk fid=1"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				theirs, ours := net.Pipe()
				s := p9server.NewServer(p9test.Export(p9test.Reference(t)), p9server.Options{VersionTimeout: 5 * time.Second})
				done := make(chan error, 1)
				go func() { done <- s.ServeConn(t.Context(), theirs) }()
				c := p9test.NewClient(t, ours)
				if sent != nil {
					c.SendBytes(sent)
				}
				if name == "no version" {
					c.Expect("Rlerror tag=0 ecode=71")
				}
				began := time.Now()
				c.Expect("EOF")
				if d := time.Since(began); d != 5*time.Second {
					t.Errorf("ended after %v", d)
				}
				if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("ServeConn = %v", err)
				}
				if err := errors.Join(ours.Close(), s.Close()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
