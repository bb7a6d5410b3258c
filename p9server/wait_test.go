package p9server_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

const remoteData = `data="\x00\a\x0e\x15"`

// remote is a reference tree whose remote file is behind a gate.
func remote(t testing.TB) (*p9test.Exports, *p9test.Gate) {
	t.Helper()
	tree, g := p9test.Reference(t), p9test.NewGate()
	tree.Fetch = g.Wait
	return p9test.Export(tree), g
}

// openRemote makes fid 1 the open remote file.
func openRemote(c *p9test.Client) {
	c.Send(`Twalk fid=0 newfid=1 wname=["remote"]`)
	c.Receive()
	c.Exchange("Tlopen fid=1", "Rlopen tag=0 qid=(0.1.15) iounit=0")
}

func TestQueuedReadsLeaveTheConnectionFree(t *testing.T) {
	e, g := remote(t)
	s := serve(t, e, p9server.Options{MaxConnReads: 2})
	c := s.client()
	openRemote(c)
	for tag := range 20 {
		c.Send(fmt.Sprintf("Tread tag=%d fid=1 count=4", tag+1))
	}
	<-g.Entered
	<-g.Entered
	c.Exchange("Tclunk tag=99 fid=99", "Rlerror tag=99 ecode=9")
	if got := s.Stats().Outstanding; got != 20 {
		t.Errorf("%d requests outstanding, want 20", got)
	}
	if n := len(g.Entered); n != 0 {
		t.Errorf("%d reads more than MaxConnReads run", n)
	}
	// A queued read that is flushed never runs.
	c.Exchange("Tflush tag=99 oldtag=20", "Rflush tag=99")
	g.Open()
	got := map[string]bool{}
	for range 19 {
		got[c.Receive()] = true
	}
	for tag := 1; tag <= 19; tag++ {
		if want := fmt.Sprintf("Rread tag=%d %s", tag, remoteData); !got[want] {
			t.Errorf("no reply %s", want)
		}
	}
	c.Exchange("Tclunk tag=20 fid=1", "Rclunk tag=20")
	if n := len(g.Entered); n != 17 {
		t.Errorf("%d further reads ran, want 17", n)
	}
}

func TestOutstandingBound(t *testing.T) {
	e, g := remote(t)
	s := serve(t, e, p9server.Options{MaxOutstanding: 2})
	c := s.client()
	openRemote(c)
	for tag := range 3 {
		c.Send(fmt.Sprintf("Tread tag=%d fid=1 count=4", tag+1))
	}
	c.Send("Tclunk tag=9 fid=99")
	<-g.Entered
	<-g.Entered
	if got := s.Stats().Outstanding; got != 2 {
		t.Errorf("%d requests outstanding at a bound of 2", got)
	}
	g.Open()
	var got []string
	for range 4 {
		got = append(got, c.Receive())
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{"Rread tag=1 ", "Rread tag=2 ", "Rread tag=3 ", "Rlerror tag=9 ecode=9"} {
		if !strings.Contains(all, want) {
			t.Errorf("replies lack %s:\n%s", want, all)
		}
	}
}

// The byte bound of the server holds over connections: one at a time here.
func TestBytesBound(t *testing.T) {
	e, g := remote(t)
	s := serve(t, e, p9server.Options{MaxMessageSize: 8192, MaxBytes: 8192})
	clients := []*p9test.Client{s.client(), s.client()}
	for _, c := range clients {
		openRemote(c)
		c.Send("Tread tag=1 fid=1 count=5000")
	}
	<-g.Entered
	clients[0].Exchange("Tclunk tag=2 fid=99", "Rlerror tag=2 ecode=9")
	clients[1].Exchange("Tclunk tag=2 fid=99", "Rlerror tag=2 ecode=9")
	if n := len(g.Entered); n != 0 {
		t.Errorf("%d reads more than the bytes allow", n)
	}
	if got := s.Stats().BytesInFlight; got != 5011 {
		t.Errorf("%d bytes in flight, want 5011", got)
	}
	g.Open()
	for _, c := range clients {
		if got := c.Receive(); !strings.HasPrefix(got, "Rread tag=1 data=<5000 bytes") {
			t.Errorf("received %s", got)
		}
	}
}

func TestTagInUseEndsTheConnection(t *testing.T) {
	e, g := remote(t)
	s := serve(t, e, p9server.Options{})
	for _, second := range []string{"Tread tag=1 fid=1 count=4", "Tclunk tag=1 fid=1", "Tflush tag=1 oldtag=1"} {
		c := s.client()
		openRemote(c)
		c.Send("Tread tag=1 fid=1 count=4")
		<-g.Entered
		c.Send(second)
		c.Expect("EOF")
		if err := <-g.Left; err == nil {
			t.Error("the read was not cancelled")
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := s.Stats(); got.Violations != 3 || got.Outstanding != 0 || got.FIDs != 0 || got.Attaches != 0 || e.Attached() != 0 {
		t.Errorf("left behind: %+v", got)
	}
}

func TestTreeErrors(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want syscall.Errno
	}{
		{"corrupt", fserr.New(fserr.Corrupt, "verify", "chunk", nil), syscall.EIO},
		{"unavailable", fmt.Errorf("reading: %w", fserr.New(fserr.Unavailable, "fetch", "blob", nil)), syscall.EIO},
		{"permission", fserr.New(fserr.Permission, "read", "blob", nil), syscall.EACCES},
		{"cancelled by someone else", context.Canceled, syscall.EIO},
		{"unknown", errors.New("boom"), syscall.EIO},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree := p9test.Reference(t)
			tree.Fetch = func(context.Context, string) error { return tt.err }
			s := serve(t, p9test.Export(tree), p9server.Options{})
			c := s.client()
			openRemote(c)
			c.Exchange("Tread tag=1 fid=1 count=4", fmt.Sprintf("Rlerror tag=1 ecode=%d", tt.want))
			if got := s.Stats().Errors[tt.want]; got != 1 {
				t.Errorf("%d errors counted", got)
			}
		})
	}
}
