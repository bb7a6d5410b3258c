package netshape

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Shape is what a network is like. The zero value adds nothing.
type Shape struct {
	// RoundTrip is added to the way there and back, half to each.
	RoundTrip time.Duration
	// BytesPerSecond is shared by all connections and both directions; 0 means no
	// limit.
	BytesPerSecond int64
	// Window bounds what is on its way, in bytes, for each direction of a
	// connection; 4 MiB by default.
	Window int
}

const (
	defaultWindow = 4 << 20
	dialTimeout   = 10 * time.Second
)

// Stats count since the start.
type Stats struct {
	Conns int64 // accepted
	Up    int64 // bytes delivered to the upstream
	Down  int64 // bytes delivered to clients
}

// Proxy passes connections on to an upstream.
type Proxy struct {
	listener net.Listener
	upstream string
	shape    Shape
	link     *link

	conns, up, down atomic.Int64

	ctx    context.Context // of all connections; ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Listen starts a proxy at a TCP address, such as "127.0.0.1:0", for the upstream
// address. It passes connections on until ctx ends or Close is called; Close must
// be called in any case.
func Listen(ctx context.Context, addr, upstream string, shape Shape) (*Proxy, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("shaping proxy: %w", err)
	}
	if shape.Window <= 0 {
		shape.Window = defaultWindow
	}
	p := &Proxy{listener: ln, upstream: upstream, shape: shape, link: newLink(shape.BytesPerSecond)}
	p.ctx, p.cancel = context.WithCancel(ctx)
	p.wg.Add(1)
	go p.accept()
	return p, nil
}

// Addr is where the proxy listens, host and port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Stats counts what was carried so far.
func (p *Proxy) Stats() Stats {
	return Stats{Conns: p.conns.Load(), Up: p.up.Load(), Down: p.down.Load()}
}

// Close ends all connections and waits until nothing runs.
func (p *Proxy) Close() error {
	p.cancel()
	err := p.listener.Close()
	p.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil // ctx was faster
	}
	return err
}

// accept takes connections until the listener ends.
func (p *Proxy) accept() {
	defer p.wg.Done()
	stop := context.AfterFunc(p.ctx, func() { _ = p.listener.Close() }) // Close reports it
	defer stop()
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			if p.ctx.Err() != nil || errors.Is(err, net.ErrClosed) || !sleep(p.ctx, time.Millisecond) {
				return
			}
			continue // out of descriptors, most likely
		}
		p.conns.Add(1)
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			p.serve(conn)
		}()
	}
}

// serve passes one connection on.
func (p *Proxy) serve(client net.Conn) {
	open := time.Now().Add(p.shape.RoundTrip)
	dialer := net.Dialer{Timeout: dialTimeout}
	upstream, err := dialer.DialContext(p.ctx, "tcp", p.upstream)
	if err != nil {
		reset(client)
		return
	}
	p.carry(client, upstream, open)
}

// carry moves bytes between two connections until both directions have ended, and
// closes them. Nothing leaves before open.
func (p *Proxy) carry(client, upstream net.Conn, open time.Time) {
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		reset(client)
		reset(upstream)
	})
	var wg sync.WaitGroup
	for _, d := range []*direction{
		{from: client, to: upstream, count: &p.up},
		{from: upstream, to: client, count: &p.down},
	} {
		d.link, d.delay, d.open, d.window, d.abort = p.link, p.shape.RoundTrip/2, open, p.shape.Window, cancel
		wg.Go(func() { d.run(ctx) })
	}
	wg.Wait()
	if !stop() {
		<-ended
		return
	}
	// Both sides have said and heard all: nothing is lost by closing.
	_ = client.Close()
	_ = upstream.Close()
}

// reset ends a connection without a farewell, as a host does that is gone.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a connection that is gone already needs none
	}
	_ = conn.Close()
}

// sleep waits, and reports whether the context lasted.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
