package registry

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/testreg"
)

func (d *spareDialer) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, list := range d.spares {
		n += len(list)
	}
	return n
}

// eventually waits for another goroutine.
func eventually(t *testing.T, reached func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !reached() {
		if sleep(ctx, time.Millisecond) != nil {
			t.Fatal("it did not come to that")
		}
	}
}

func TestSpareConnections(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	addr := ln.Addr().String()
	d := newDialer(10 * time.Second)
	d.life = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { d.ahead(ctx, addr) })
	}
	eventually(t, func() bool { return d.count() == 2 })
	conn, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil || d.count() != 1 {
		t.Fatalf("%v, %d are left of two", err, d.count())
	}
	unused := d.spares[addr][0]
	cancel()
	wg.Wait()
	if d.count() != 0 || len(d.spares) != 0 {
		t.Errorf("%d are left in the end", d.count())
	}
	if _, err := unused.Write([]byte("x")); err == nil {
		t.Error("one that nobody wanted is still open")
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Errorf("the one that was taken: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	again, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	d.ahead(t.Context(), addr) // fails, and that is all
	if d.count() != 0 {
		t.Error("a connection to nobody is kept")
	}
}

// While a manifest is on its way, connections are made for what it names.
func TestConnectionsAreMadeAhead(t *testing.T) {
	reg := testreg.New(t)
	r, clock := timed(t, Options{})
	reg.AddImage("demo", "v1", testreg.Image{})
	resolve := func() {
		t.Helper()
		if _, err := r.ResolveEarly(t.Context(), reg.Ref("demo", "v1"), ocispec.Platform{OS: "linux", Architecture: "amd64"}, func(*source.Image) {}); err != nil {
			t.Fatal(err)
		}
	}
	r.dialer.life = time.Hour
	resolve()
	// The request for the manifest may have taken one of them.
	eventually(t, func() bool { return r.dialer.count() >= spareConns-1 })
	resolve() // no more of them
	clock.advance(sparePause - time.Second)
	resolve()
	if n := r.dialer.count(); n > spareConns {
		t.Errorf("%d connections were made ahead", n)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if n := r.dialer.count(); n != 0 {
		t.Errorf("%d are left after the end", n)
	}
}

// Hosts with TLS speak HTTP/2, mostly: one connection is enough.
func TestNoConnectionsAheadWithTLS(t *testing.T) {
	r := New(Options{})
	closeAtEnd(t, r)
	eps, err := r.endpoints("h.example")
	if err != nil {
		t.Fatal(err)
	}
	eps[0].prepare(t.Context())
	if eps[0].prepared.Load() != 0 {
		t.Error("connections were made ahead")
	}
}
