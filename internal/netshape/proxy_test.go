package netshape_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/netshape"
)

func start(t testing.TB, upstream string, shape netshape.Shape) *netshape.Proxy {
	t.Helper()
	p, err := netshape.Listen(context.Background(), "127.0.0.1:0", upstream, shape)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// listen starts a server that answers each connection with serve.
func listen(t testing.TB, serve func(*net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				serve(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// An end of one direction leaves the other open.
func TestHalfClose(t *testing.T) {
	addr := listen(t, func(c *net.TCPConn) {
		all, err := io.ReadAll(c)
		if err == nil {
			_, _ = fmt.Fprintf(c, "%d bytes", len(all))
		}
	})
	p := start(t, addr, netshape.Shape{RoundTrip: 2 * time.Millisecond})
	conn := dial(t, p.Addr())
	if _, err := conn.Write(make([]byte, 300_000)); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || string(answer) != "300000 bytes" {
		t.Errorf("got %q, %v", answer, err)
	}
	if s := p.Stats(); s.Conns != 1 || s.Up != 300_000 || s.Down != 12 {
		t.Errorf("stats %+v", s)
	}
}

// A reset of one side reaches the other.
func TestReset(t *testing.T) {
	seen := make(chan error, 1)
	addr := listen(t, func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		seen <- err
	})
	p := start(t, addr, netshape.Shape{RoundTrip: time.Millisecond})
	conn := dial(t, p.Addr())
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-seen; err == nil {
		t.Error("the server saw an orderly end")
	}
}

func TestNoUpstream(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", start(t, addr, netshape.Shape{}).Addr())
	if err != nil {
		return // the reset was faster
	}
	defer func() { _ = conn.Close() }()
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes from nobody", n)
	}
}

// Close ends connections in use.
func TestClose(t *testing.T) {
	addr := listen(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	for _, end := range []string{"close", "context"} {
		t.Run(end, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			p, err := netshape.Listen(ctx, "127.0.0.1:0", addr, netshape.Shape{RoundTrip: time.Millisecond, BytesPerSecond: 1e6})
			if err != nil {
				t.Fatal(err)
			}
			conn := dial(t, p.Addr())
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if end == "context" {
				cancel()
			} else if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
				t.Errorf("the connection lives on: %v", err)
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// HTTP works over it, with connections that are used again and in parallel.
func TestHTTP(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 200_000)) }))
	defer srv.Close()
	p := start(t, srv.Listener.Addr().String(), netshape.Shape{RoundTrip: time.Millisecond, BytesPerSecond: 200e6})
	transport := &http.Transport{MaxIdleConnsPerHost: 4}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				resp, err := client.Get("http://" + p.Addr())
				if err != nil {
					t.Error(err)
					return
				}
				n, err := io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if n != 200_000 || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	if s := p.Stats(); s.Conns < 1 || s.Conns > 20 || s.Down < 20*200_000 {
		t.Errorf("stats %+v", s)
	}
}

// BenchmarkUnshaped carries bytes as fast as it can; sender, proxy and receiver
// share the processor.
func BenchmarkUnshaped(b *testing.B) {
	const n = 64 << 20
	addr := listen(b, func(c *net.TCPConn) {
		buf := make([]byte, 256<<10)
		for sent := 0; ; sent += len(buf) {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	})
	conn := dial(b, start(b, addr, netshape.Shape{}).Addr())
	buf := make([]byte, 256<<10)
	b.SetBytes(n)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(conn, n), buf); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(500, "MB/s-min")
}
