package p9server_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// pipes is a server in a bubble with as many connections as a test dials.
type pipes struct {
	t      *testing.T
	server *p9server.Server
	ends   []net.Conn
}

func (p *pipes) client() *p9test.Client {
	theirs, ours := net.Pipe()
	p.ends = append(p.ends, ours)
	go func() { _ = p.server.ServeConn(p.t.Context(), theirs) }() // ends with ours
	c := p9test.NewClient(p.t, ours)
	c.Start("8192", "")
	return c
}

func (p *pipes) close() {
	for _, nc := range p.ends {
		if err := nc.Close(); err != nil {
			p.t.Error(err)
		}
	}
	if err := p.server.Close(); err != nil {
		p.t.Error(err)
	}
}

// However much some connections want, all at once and for ever, the next one
// finds room.
func TestGreedyConnectionsLeaveRoom(t *testing.T) {
	tests := map[string]p9server.Options{
		"reads": {MaxReads: 8, MaxConnReads: 64, ReadTimeout: time.Hour},
		"bytes": {MaxMessageSize: 8192, MaxBytes: 16 << 10, MaxConnReads: 64, ReadTimeout: time.Hour},
	}
	for name, opts := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stuck, free := p9test.Reference(t), p9test.Reference(t)
				g := p9test.NewGate()
				stuck.Fetch = g.Wait
				e := p9test.Export(stuck)
				e.Add("free", free)
				p := &pipes{t: t, server: p9server.NewServer(e, opts)}
				defer p.close()
				for range 3 {
					c := p.client()
					openRemote(c)
					for tag := range 30 {
						c.Send(fmt.Sprintf("Tread tag=%d fid=1 count=4000", tag+1))
					}
					synctest.Wait()
				}
				c := p.client()
				began := time.Now()
				c.Exchange(`Tattach fid=7 aname="free"`, "Rattach tag=0 qid=(80.1.1)")
				c.Send(`Twalk fid=7 newfid=1 wname=["remote"]`)
				c.Receive()
				c.Exchange("Tlopen fid=1", "Rlopen tag=0 qid=(0.1.15) iounit=0")
				c.Exchange("Tread fid=1 count=4", "Rread tag=0 "+remoteData)
				if d := time.Since(began); d != 0 {
					t.Errorf("answered after %v", d)
				}
			})
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
