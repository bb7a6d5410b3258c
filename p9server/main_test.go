package p9server_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// served is a server on a unix socket for the length of a test.
type served struct {
	*p9server.Server
	t    testing.TB
	addr string
	done chan error // gets what Serve returned
}

func serve(t testing.TB, e p9server.Exporter, opts p9server.Options) *served {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "9p.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := &served{p9server.NewServer(e, opts), t, l.Addr().String(), make(chan error, 1)}
	go func() { s.done <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *served) dial() net.Conn {
	s.t.Helper()
	nc, err := net.Dial("unix", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	return nc
}

// client starts a session on a new connection.
func (s *served) client() *p9test.Client {
	s.t.Helper()
	c := p9test.NewClient(s.t, s.dial())
	c.Start("8192", "")
	return c
}
