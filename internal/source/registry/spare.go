package registry

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// spareConns is how many connections are made ahead to a host about to be asked
	// for several things at once.
	spareConns = 4
	// spareLife is how long they wait for being used: less than servers wait for a
	// first request.
	spareLife = 3 * time.Second
	// sparePause is how long after that none are made again: those that were used
	// are still there.
	sparePause = time.Minute
)

// spareDialer hands out connections that were made ahead, before it makes one.
type spareDialer struct {
	net.Dialer
	life time.Duration // of those that nobody takes

	mu     sync.Mutex
	spares map[string][]net.Conn // by address
}

// DialContext is for [http.Transport].
func (d *spareDialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if conn := d.take(addr); conn != nil {
		return conn, nil
	}
	return d.Dialer.DialContext(ctx, network, addr)
}

func (d *spareDialer) take(addr string) net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.spares[addr]
	if len(list) == 0 {
		return nil
	}
	d.spares[addr] = list[1:]
	if len(list) == 1 {
		delete(d.spares, addr)
	}
	return list[0]
}

// ahead makes a connection, keeps it until it is taken, and closes it if it was
// not for too long or ctx ends.
func (d *spareDialer) ahead(ctx context.Context, addr string) {
	conn, err := d.Dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return // whoever needs one will see the error
	}
	d.mu.Lock()
	if d.spares == nil {
		d.spares = map[string][]net.Conn{}
	}
	d.spares[addr] = append(d.spares[addr], conn)
	d.mu.Unlock()
	_ = sleep(ctx, d.life) // however it ends
	if d.remove(addr, conn) {
		_ = conn.Close() // nothing was sent on it
	}
}

// remove reports whether conn was still there.
func (d *spareDialer) remove(addr string, conn net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.spares[addr]
	for i, c := range list {
		if c != conn {
			continue
		}
		if d.spares[addr] = append(list[:i:i], list[i+1:]...); len(list) == 1 {
			delete(d.spares, addr)
		}
		return true
	}
	return false
}

// prepare makes connections ahead while the first request to a host is under way,
// where each request at the same time needs one: on a host without TLS, which does
// not speak HTTP/2. Others share one connection.
func (e *endpoint) prepare(ctx context.Context) {
	if e.base.Scheme != "http" {
		return
	}
	now := e.registry.now().UnixNano()
	last := e.prepared.Load()
	if last != 0 && now-last < int64(sparePause) || !e.prepared.CompareAndSwap(last, now) {
		return
	}
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: e.base})
	if err != nil || proxy != nil {
		return
	}
	addr := net.JoinHostPort(e.base.Hostname(), port(e.base))
	for range spareConns {
		e.registry.goBackground(ctx, func(ctx context.Context) { e.dialer.ahead(ctx, addr) })
	}
}
