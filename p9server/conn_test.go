package p9server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

func encode(t testing.TB, lines ...string) []byte {
	t.Helper()
	var b []byte
	for _, line := range lines {
		msg, err := p9test.Encode(line)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, msg...)
	}
	return b
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	s := serve(t, p9test.Export(p9test.Reference(t)), p9server.Options{})
	c := s.client()
	const rounds = 2000
	var batch []byte
	for i := range rounds {
		batch = append(batch, encode(t,
			fmt.Sprintf(`Twalk tag=%d fid=0 newfid=1 wname=["bin" "sh"]`, i),
			fmt.Sprintf("Tlopen tag=%d fid=1", i),
			fmt.Sprintf("Tread tag=%d fid=1 count=100", i),
			fmt.Sprintf("Tclunk tag=%d fid=1", i))...)
	}
	var wg sync.WaitGroup
	wg.Go(func() { c.SendBytes(batch) })
	for i := range rounds {
		c.Expect(fmt.Sprintf("Rwalk tag=%d wqid=[(80.1.2) (0.1.3)]", i))
		c.Expect(fmt.Sprintf("Rlopen tag=%d qid=(0.1.3) iounit=0", i))
		c.Expect(fmt.Sprintf(`Rread tag=%d data="#!shell\n"`, i))
		c.Expect(fmt.Sprintf("Rclunk tag=%d", i))
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got := s.Stats()
	for name, want := range map[string]uint64{"walk": rounds, "lopen": rounds, "read": rounds, "clunk": rounds, "version": 1} {
		if got.Messages[name] != want {
			t.Errorf("%d messages %s counted, want %d", got.Messages[name], name, want)
		}
	}
	if want := uint64(8 * rounds); got.Payload != want || got.LocalReads != rounds || got.Misses != 0 {
		t.Errorf("payload %d, local %d, misses %d", got.Payload, got.LocalReads, got.Misses)
	}
	if want := uint64(len(batch) + len(encode(t, `Tversion version="9P2000.L"`, "Tattach"))); got.BytesRead != want {
		t.Errorf("%d bytes read, want %d", got.BytesRead, want)
	}
}

// Messages longer than the receive buffer are refused and skipped, however
// they arrive.
func TestLongMessages(t *testing.T) {
	s := serve(t, p9test.Export(p9test.Reference(t)), p9server.Options{})
	c := p9test.NewClient(t, s.dial())
	c.Start("1048600", "")
	long := strings.Repeat("x", 40000)
	batch := encode(t,
		`Twrite tag=1 fid=0 data="`+strings.Repeat("x", 900_000)+`"`,
		"Tclunk tag=2 fid=99",
		`Twalk tag=3 fid=0 newfid=1 wname=["`+long+`" "`+long+`"]`,
		`Twrite tag=4 fid=5 data="`+long+`"`,
		`Tattach tag=5 fid=1 aname="`+long+`"`,
		"Tclunk tag=6 fid=99")
	var wg sync.WaitGroup
	wg.Go(func() {
		for step := 1; len(batch) > 0; step = step*3 + 1 {
			n := min(step, len(batch))
			c.SendBytes(batch[:n])
			batch = batch[n:]
		}
	})
	for tag, errno := range []syscall.Errno{syscall.EROFS, syscall.EBADF, syscall.ENAMETOOLONG, syscall.EBADF, syscall.ENAMETOOLONG, syscall.EBADF} {
		c.Expect(fmt.Sprintf("Rlerror tag=%d ecode=%d", tag+1, errno))
	}
	wg.Wait()
}

func TestLargeReads(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 5<<20/16)
	tree, err := p9test.NewTree([]p9test.File{{Path: "/file", Mode: 0o100644, Data: string(content)}})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, p9test.Export(tree), p9server.Options{})
	for _, msize := range []int{4096, 65536, 262168, 1048600} {
		c := p9test.NewClient(t, s.dial())
		c.Start(fmt.Sprint(msize), "")
		c.Exchange(`Twalk fid=0 newfid=1 wname=["file"]`, "Rwalk tag=0 wqid=[(0.1.2)]")
		c.Exchange("Tlopen fid=1", "Rlopen tag=0 qid=(0.1.2) iounit=0")
		var got []byte
		for {
			c.Send(fmt.Sprintf("Tread fid=1 offset=%d count=%d", len(got), msize-24))
			msg, err := c.ReceiveBytes()
			if err != nil {
				t.Fatal(err)
			}
			if len(msg) == 11 {
				break
			}
			got = append(got, msg[11:]...)
		}
		if !bytes.Equal(got, content) {
			t.Errorf("msize %d: %d bytes read differ from the %d of the file", msize, len(got), len(content))
		}
	}
}

func TestFIDBound(t *testing.T) {
	s := serve(t, p9test.Export(p9test.Reference(t)), p9server.Options{MaxFIDs: 3})
	c := s.client()
	c.Exchange("Twalk fid=0 newfid=1", "Rwalk tag=0 wqid=[]")
	c.Exchange("Txattrwalk fid=0 newfid=2", "Rxattrwalk tag=0 size=0")
	for _, request := range []string{"Twalk fid=0 newfid=3", "Txattrwalk fid=0 newfid=3", "Tattach fid=3"} {
		c.Exchange(request, fmt.Sprintf("Rlerror tag=0 ecode=%d", syscall.EMFILE))
	}
	c.Exchange(`Twalk fid=1 newfid=1 wname=["bin"]`, "Rwalk tag=0 wqid=[(80.1.2)]")
	c.Exchange("Tclunk fid=2", "Rclunk tag=0")
	c.Exchange("Twalk fid=0 newfid=3", "Rwalk tag=0 wqid=[]")
	if got := s.Stats(); got.FIDs != 3 || got.Attaches != 1 {
		t.Errorf("%d fids, %d attaches", got.FIDs, got.Attaches)
	}
}

func TestConnectionBound(t *testing.T) {
	s := serve(t, p9test.Export(p9test.Reference(t)), p9server.Options{MaxConns: 2})
	first := s.client()
	s.client()
	third := p9test.NewClient(t, s.dial())
	third.Expect("EOF")
	first.Exchange("Tclunk fid=0", "Rclunk tag=0")
	if got := s.Stats(); got.Conns != 2 || got.Accepted != 2 || got.Rejected != 1 {
		t.Errorf("%d connections, %d accepted, %d rejected", got.Conns, got.Accepted, got.Rejected)
	}
}

// When a connection goes, what it waited for is cancelled and nothing is left.
func TestDisconnect(t *testing.T) {
	e, g := remote(t)
	s := p9server.NewServer(e, p9server.Options{MaxConnReads: 2})
	theirs, ours := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- s.ServeConn(context.Background(), theirs) }()
	c := p9test.NewClient(t, ours)
	c.Start("8192", "")
	openRemote(c)
	for tag := range 10 {
		c.Send(fmt.Sprintf("Tread tag=%d fid=1 count=4", tag+1))
	}
	<-g.Entered
	c.SendBytes(encode(t, "Tclunk fid=0")[:9])
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ServeConn = %v", err)
	}
	if got := s.Stats(); got.Outstanding != 0 || got.FIDs != 0 || got.Attaches != 0 || got.BytesInFlight != 0 || e.Attached() != 0 {
		t.Errorf("left behind: %+v", got)
	}
	if n := len(g.Left); n != 1+len(g.Entered) {
		t.Errorf("%d of %d reads ended", n, 1+len(g.Entered))
	}
}

func TestConnContext(t *testing.T) {
	type peerKey struct{}
	var seen any
	e := p9test.Export(p9test.Reference(t))
	e.Wait = func(ctx context.Context, _ string) error {
		seen = ctx.Value(peerKey{})
		return fserr.New(fserr.Permission, "attach", "tree", nil)
	}
	s := serve(t, e, p9server.Options{ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
		return context.WithValue(ctx, peerKey{}, nc.RemoteAddr().Network())
	}})
	c := p9test.NewClient(t, s.dial())
	c.Exchange(`Tversion msize=8192 version="9P2000.L"`, `Rversion tag=65535 msize=8192 version="9P2000.L"`)
	c.Exchange("Tattach fid=0", "Rlerror tag=0 ecode=13")
	if seen != "unix" {
		t.Errorf("exporter saw %v", seen)
	}
}

// faultyListener fails a few times before it gives its connection.
type faultyListener struct {
	net.Listener
	mu    sync.Mutex
	fails []error
}

func (l *faultyListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.fails[0]
	l.fails = l.fails[1:]
	return nil, err
}

func (l *faultyListener) Close() error   { return nil }
func (l *faultyListener) Addr() net.Addr { return &net.UnixAddr{Name: "faulty", Net: "unix"} }

func TestAcceptFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		l := &faultyListener{fails: []error{syscall.EMFILE, syscall.ECONNABORTED, syscall.ENFILE, broken}}
		s := p9server.NewServer(p9test.Export(p9test.Reference(t)), p9server.Options{})
		start := time.Now()
		if err := s.Serve(t.Context(), l); !errors.Is(err, broken) {
			t.Errorf("Serve = %v", err)
		}
		if d := time.Since(start); d == 0 || d > time.Second {
			t.Errorf("failures were waited out for %v", d)
		}
	})
}

func TestServeEnds(t *testing.T) {
	e := p9test.Export(p9test.Reference(t))
	s := serve(t, e, p9server.Options{})
	c := s.client()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-s.done; !errors.Is(err, p9server.ErrServerClosed) {
		t.Errorf("Serve = %v", err)
	}
	c.Expect("EOF")
	if e.Attached() != 0 {
		t.Error("a tree is still attached")
	}
	l := &faultyListener{}
	if err := s.Serve(context.Background(), l); !errors.Is(err, p9server.ErrServerClosed) {
		t.Errorf("Serve after Close = %v", err)
	}
}

// A client that has shut down its side gets what it asked for, as far as it is at
// hand; what would have to be waited for is given up.
func TestHalfClosedConnection(t *testing.T) {
	e, g := remote(t)
	s := serve(t, e, p9server.Options{})
	nc := s.dial()
	c := p9test.NewClient(t, nc)
	c.Start("8192", "")
	openRemote(c)
	c.SendBytes(encode(t, "Tread tag=1 fid=1 count=4", "Tclunk tag=2 fid=9", "Tflush tag=3 oldtag=7"))
	half, ok := nc.(interface{ CloseWrite() error })
	if !ok {
		t.Fatalf("%T cannot be closed by halves", nc)
	}
	<-g.Entered
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.Expect("Rlerror tag=2 ecode=9")
	c.Expect("Rflush tag=3")
	c.Expect("EOF")
	if err := <-g.Left; err == nil {
		t.Error("the read was not cancelled")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := s.Stats(); got.Outstanding != 0 || got.FIDs != 0 || got.Attaches != 0 || got.Violations != 0 || e.Attached() != 0 {
		t.Errorf("left behind: %+v", got)
	}
}
