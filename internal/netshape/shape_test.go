package netshape

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// The tests of this file run on a clock of their own, which stands still while
// anything can happen: times are exact.

const rtt = 20 * time.Millisecond

// wire carries one connection over a proxy that listens nowhere.
type wire struct {
	proxy          *Proxy
	client, server net.Conn
	done           chan struct{}
}

func newProxy(t *testing.T, shape Shape) *Proxy {
	t.Helper()
	if shape.Window == 0 {
		shape.Window = defaultWindow
	}
	p := &Proxy{shape: shape, link: newLink(shape.BytesPerSecond)}
	p.ctx, p.cancel = context.WithCancel(t.Context())
	t.Cleanup(p.cancel)
	return p
}

func (p *Proxy) connect() *wire {
	client, near := net.Pipe()
	far, server := net.Pipe()
	w := &wire{proxy: p, client: client, server: server, done: make(chan struct{})}
	open := time.Now().Add(p.shape.RoundTrip)
	go func() {
		defer close(w.done)
		p.carry(near, far, open)
	}()
	return w
}

func (w *wire) close(t *testing.T) {
	t.Helper()
	if err := w.client.Close(); err != nil {
		t.Error(err)
	}
	if err := w.server.Close(); err != nil {
		t.Error(err)
	}
	<-w.done
}

func write(t *testing.T, w io.Writer, p []byte) {
	t.Helper()
	if _, err := w.Write(p); err != nil {
		t.Error(err)
	}
}

// read reads n bytes and says when the last of them had come.
func read(t *testing.T, r io.Reader, n int) time.Time {
	t.Helper()
	if _, err := io.ReadFull(r, make([]byte, n)); err != nil {
		t.Error(err)
	}
	return time.Now()
}

func wantAfter(t *testing.T, what string, began, at time.Time, want time.Duration) {
	t.Helper()
	if got := at.Sub(began); got != want {
		t.Errorf("%s after %v, want %v", what, got, want)
	}
}

func TestRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w := newProxy(t, Shape{RoundTrip: rtt}).connect()
		write(t, w.client, []byte("request"))
		wantAfter(t, "first request arrived", began, read(t, w.server, 7), rtt+rtt/2)
		write(t, w.server, []byte("answer"))
		wantAfter(t, "first answer arrived", began, read(t, w.client, 6), 2*rtt)

		// The connection is there: a second request costs one round trip.
		again := time.Now()
		write(t, w.client, []byte("request"))
		wantAfter(t, "second request arrived", again, read(t, w.server, 7), rtt/2)
		write(t, w.server, []byte("answer"))
		wantAfter(t, "second answer arrived", again, read(t, w.client, 6), rtt)
		w.close(t)
	})
}

// Segments that follow each other are delayed together, not one after another.
func TestSegmentsOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w := newProxy(t, Shape{RoundTrip: rtt}).connect()
		const n = 20
		go func() {
			for range n {
				write(t, w.client, []byte("segment"))
				time.Sleep(time.Millisecond)
			}
		}()
		wantAfter(t, "first segment arrived", began, read(t, w.server, 7), rtt+rtt/2)
		wantAfter(t, "last segment arrived", began, read(t, w.server, (n-1)*7), rtt+rtt/2)
		w.close(t)
	})
}

func TestBandwidth(t *testing.T) {
	const rate = 1 << 20
	for _, test := range []struct {
		name     string
		down, up int // connections sending from the server and to it
		bytes    int
		want     time.Duration
	}{
		{"one down", 1, 0, rate, time.Second},
		{"one up", 0, 1, rate, time.Second},
		{"shared by connections", 4, 0, rate / 2, 2 * time.Second},
		{"shared by directions", 1, 1, rate, 2 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, Shape{RoundTrip: rtt, BytesPerSecond: rate})
				began := time.Now()
				last := make(chan time.Time)
				var wires []*wire
				for i := range test.down + test.up {
					w := p.connect()
					wires = append(wires, w)
					from, to := w.server, w.client
					if i >= test.down {
						from, to = to, from
					}
					go write(t, from, make([]byte, test.bytes))
					go func() { last <- read(t, to, test.bytes) }()
				}
				var end time.Time
				for range wires {
					if at := <-last; at.After(end) {
						end = at
					}
				}
				wantAfter(t, "last byte arrived", began, end, rtt+rtt/2+test.want)
				for _, w := range wires {
					w.close(t)
				}
			})
		})
	}
}

// A reply to a small request does not wait for all that a bulk transfer would
// like to send, only for what the link has taken already.
func TestLinkIsNotBookedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, Shape{BytesPerSecond: 50e6})
		bulk, small := p.connect(), p.connect()
		go func() { _, _ = bulk.server.Write(make([]byte, 50e6)) }() // ends with the connection
		go func() { _, _ = io.Copy(io.Discard, bulk.client) }()
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		write(t, small.client, []byte("request"))
		if took := read(t, small.server, 7).Sub(began); took > maxAhead+2*time.Millisecond {
			t.Errorf("a small request took %v beside a bulk transfer", took)
		}
		bulk.close(t)
		small.close(t)
	})
}

// A receiver that does not read stops the sender.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newProxy(t, Shape{RoundTrip: rtt, Window: 256 << 10}).connect()
		sent := make(chan int)
		go func() {
			n, _ := w.client.Write(make([]byte, 8<<20)) // ends with the connection
			sent <- n
		}()
		time.Sleep(time.Minute)
		w.close(t)
		if n := <-sent; n < 128<<10 || n > 256<<10+2*blockSize {
			t.Errorf("%d bytes were taken with a window of %d", n, 256<<10)
		}
	})
}

func TestContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newProxy(t, Shape{RoundTrip: rtt, BytesPerSecond: 10e6}).connect()
		want := make([]byte, 3<<20+17)
		if _, err := rand.Read(want); err != nil {
			t.Fatal(err)
		}
		go func() {
			for p := want; len(p) > 0; { // pieces of all sizes
				n := min(len(p), 1+len(p)%100_000)
				write(t, w.client, p[:n])
				p = p[n:]
			}
		}()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(w.server, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("bytes differ, error %v", err)
		}
		w.close(t)
		if s := w.proxy.Stats(); s.Up != int64(len(want)) || s.Down != 0 {
			t.Errorf("stats %+v after %d bytes to the upstream", s, len(want))
		}
	})
}

// TLS is carried like any bytes: a handshake of version 1.3 costs one round trip
// beside that of the connection.
func TestTLS(t *testing.T) {
	cert := selfSigned(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w := newProxy(t, Shape{RoundTrip: rtt}).connect()
		server := tls.Server(w.server, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
		client := tls.Client(w.client, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
		go func() {
			if err := server.Handshake(); err != nil {
				t.Error(err)
			}
			read(t, server, 7)
			write(t, server, []byte("answer"))
		}()
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		wantAfter(t, "handshake done", began, time.Now(), 2*rtt)
		go write(t, client, []byte("request"))
		wantAfter(t, "answer arrived", began, read(t, client, 6), 3*rtt)
		w.close(t)
	})
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
