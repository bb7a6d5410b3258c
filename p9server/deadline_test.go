package p9server_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// session is a connection over a pipe inside a synctest bubble, where time
// passes only while everything waits.
type session struct {
	*p9test.Client
	server *p9server.Server
	nc     net.Conn
	done   chan error // gets what ServeConn returned
}

func inBubble(t *testing.T, e p9server.Exporter, opts p9server.Options, fn func(t *testing.T, s *session)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		theirs, ours := net.Pipe()
		s := &session{p9test.NewClient(t, ours), p9server.NewServer(e, opts), ours, make(chan error, 1)}
		go func() { s.done <- s.server.ServeConn(t.Context(), theirs) }()
		s.Start("8192", "")
		fn(t, s)
		if err := errors.Join(ours.Close(), s.server.Close()); err != nil {
			t.Error(err)
		}
		if got := s.server.Stats(); got.Outstanding != 0 || got.FIDs != 0 || got.Attaches != 0 || got.BytesInFlight != 0 || got.Conns != 0 {
			t.Errorf("left behind: %+v", got)
		}
	})
}

func TestReadDeadline(t *testing.T) {
	tests := map[string]func(ctx context.Context, release <-chan struct{}) error{
		"tree obeys its context": func(ctx context.Context, _ <-chan struct{}) error { <-ctx.Done(); return ctx.Err() },
		"tree is stuck":          func(_ context.Context, release <-chan struct{}) error { <-release; return nil },
	}
	for name, fetch := range tests {
		t.Run(name, func(t *testing.T) {
			tree := p9test.Reference(t)
			opts := p9server.Options{ReadTimeout: 10 * time.Second, MaxConnReads: 1}
			inBubble(t, p9test.Export(tree), opts, func(t *testing.T, s *session) {
				release := make(chan struct{})
				tree.Fetch = func(ctx context.Context, _ string) error { return fetch(ctx, release) }
				openRemote(s.Client)
				start := time.Now()
				s.Send("Tread tag=1 fid=1 count=4")
				s.Send("Tread tag=2 fid=1 count=4") // queued
				for range 2 {
					if got := s.Receive(); !strings.HasPrefix(got, "Rlerror tag=") || !strings.HasSuffix(got, " ecode=5") {
						t.Errorf("received %s", got)
					}
				}
				if d := time.Since(start); d != opts.ReadTimeout {
					t.Errorf("answered after %v", d)
				}
				s.Exchange("Tclunk tag=1 fid=1", "Rclunk tag=1")
				if got := s.server.Stats().Timeouts; got != 2 {
					t.Errorf("%d timeouts counted", got)
				}
				close(release)
				s.Exchange("Tclunk tag=2 fid=0", "Rclunk tag=2")
			})
		})
	}
}

func TestAttachDeadline(t *testing.T) {
	e := p9test.Export(p9test.Reference(t))
	e.Add("slow", p9test.Reference(t))
	opts := p9server.Options{AttachTimeout: 20 * time.Second}
	inBubble(t, e, opts, func(t *testing.T, s *session) {
		release := make(chan struct{})
		e.Wait = func(_ context.Context, aname string) error {
			if aname == "slow" {
				<-release // whatever the context says
			}
			return nil
		}
		s.Exchange(`Tattach tag=1 fid=1 aname="slow"`, "Rlerror tag=1 ecode=5")
		s.Exchange(`Tattach tag=1 fid=1 aname=""`, "Rattach tag=1 qid=(80.1.1)")
		close(release) // the tree comes too late and is given back
		synctest.Wait()
		if got := e.Attached(); got != 2 {
			t.Errorf("%d trees attached, want 2", got)
		}
	})
	if got := e.Attached(); got != 0 {
		t.Errorf("%d trees attached at the end", got)
	}
}

// A client that sends and never reads is cut off, and costs little until then.
func TestDeafClient(t *testing.T) {
	e, g := remote(t)
	opts := p9server.Options{WriteTimeout: time.Minute}
	inBubble(t, e, opts, func(t *testing.T, s *session) {
		openRemote(s.Client)
		g.Open()
		start := time.Now()
		var err error
		for sent := 0; err == nil; sent++ {
			if sent > 2000 {
				t.Fatal("the server goes on taking requests")
			}
			var msg []byte
			if msg, err = p9test.Encode("Tgetattr fid=0 mask=0x7ff"); err == nil {
				_, err = s.nc.Write(msg)
			}
		}
		if err := <-s.done; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("ServeConn = %v", err)
		}
		if d := time.Since(start); d > opts.WriteTimeout || d < opts.WriteTimeout/2 {
			t.Errorf("cut off after %v", d)
		}
	})
}

// Half a message may lie about for as long as the client likes.
func TestIdleInTheMiddleOfAMessage(t *testing.T) {
	inBubble(t, p9test.Export(p9test.Reference(t)), p9server.Options{}, func(t *testing.T, s *session) {
		msg, err := p9test.Encode("Tclunk tag=5 fid=0")
		if err != nil {
			t.Fatal(err)
		}
		for i := range msg {
			time.Sleep(time.Hour)
			s.SendBytes(msg[i : i+1])
		}
		s.Expect("Rclunk tag=5")
	})
}

func TestShutdownAnswersWhatWasRead(t *testing.T) {
	tree := p9test.Reference(t)
	inBubble(t, p9test.Export(tree), p9server.Options{}, func(t *testing.T, s *session) {
		g := p9test.NewGate()
		tree.Fetch = g.Wait
		openRemote(s.Client)
		s.Send("Tread tag=1 fid=1 count=4")
		<-g.Entered
		down := make(chan error, 1)
		go func() { down <- s.server.Shutdown(t.Context()) }()
		synctest.Wait()
		g.Open()
		s.Expect("Rread tag=1 " + remoteData)
		s.Expect("EOF")
		if err := <-down; err != nil {
			t.Errorf("Shutdown = %v", err)
		}
		if err := <-s.done; !errors.Is(err, p9server.ErrServerClosed) {
			t.Errorf("ServeConn = %v", err)
		}
	})
}

func TestShutdownGivesUp(t *testing.T) {
	tree := p9test.Reference(t)
	inBubble(t, p9test.Export(tree), p9server.Options{}, func(t *testing.T, s *session) {
		g := p9test.NewGate()
		tree.Fetch = g.Wait
		openRemote(s.Client)
		s.Send("Tread tag=1 fid=1 count=4")
		<-g.Entered
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown = %v", err)
		}
		if err := <-g.Left; err == nil {
			t.Error("the read was not cancelled")
		}
		s.Expect("EOF")
	})
}

func TestContextEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		theirs, ours := net.Pipe()
		c := p9test.NewClient(t, ours)
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		s := p9server.NewServer(p9test.Export(p9test.Reference(t)), p9server.Options{})
		done := make(chan error, 1)
		go func() { done <- s.ServeConn(ctx, theirs) }()
		c.Start("8192", "")
		cancel(cause)
		if err := <-done; !errors.Is(err, cause) {
			t.Errorf("ServeConn = %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := s.ServeConn(t.Context(), theirs); fserr.KindOf(err) != fserr.Closed {
			t.Errorf("ServeConn after Close = %v", err)
		}
	})
}
