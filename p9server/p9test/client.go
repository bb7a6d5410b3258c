package p9test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// patience bounds every wait for a reply, so that a broken server fails a test
// instead of stopping it.
const patience = 30 * time.Second

// Client sends and receives messages as lines of text. Its methods fail the
// test on any error. It must be used by one goroutine.
type Client struct {
	t  testing.TB
	nc net.Conn
}

// NewClient makes a client on a connection, which is closed when the test ends.
func NewClient(t testing.TB, nc net.Conn) *Client {
	t.Helper()
	t.Cleanup(func() { _ = nc.Close() }) // the server may have closed first
	return &Client{t: t, nc: nc}
}

// Start agrees on msize and attaches fid 0 to aname.
func (c *Client) Start(msize, aname string) {
	c.t.Helper()
	c.Exchange("Tversion msize="+msize+` version="9P2000.L"`, "Rversion tag=65535 msize="+msize+` version="9P2000.L"`)
	c.Exchange(`Tattach fid=0 aname="`+aname+`"`, "Rattach tag=0 qid=(80.1.1)")
}

// Send sends one message, written as text.
func (c *Client) Send(line string) {
	c.t.Helper()
	msg, err := Encode(line)
	if err != nil {
		c.t.Fatal(err)
	}
	c.SendBytes(msg)
}

// SendBytes sends bytes as they are.
func (c *Client) SendBytes(b []byte) {
	c.t.Helper()
	if err := c.nc.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatalf("sending % x: %v", b[:min(len(b), 32)], err)
	}
}

// ReceiveBytes gives the next message, io.EOF if the server closed the
// connection instead.
func (c *Client) ReceiveBytes() ([]byte, error) {
	if err := c.nc.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(c.nc, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, max(4, binary.LittleEndian.Uint32(size[:])))
	copy(msg, size[:])
	_, err := io.ReadFull(c.nc, msg[4:])
	return msg, err
}

// Receive gives the next message as text, "EOF" if the connection was closed.
func (c *Client) Receive() string {
	c.t.Helper()
	msg, err := c.ReceiveBytes()
	var netErr net.Error
	switch {
	case err == nil:
	case errors.As(err, &netErr) && netErr.Timeout():
		c.t.Fatalf("no reply within %v", patience)
	default:
		return "EOF"
	}
	line, err := Decode(msg)
	if err != nil {
		c.t.Fatal(err)
	}
	return line
}

// Expect receives a message and compares it.
func (c *Client) Expect(want string) {
	c.t.Helper()
	if got := c.Receive(); got != want {
		c.t.Fatalf("received %s\n    want %s", got, want)
	}
}

// Exchange sends a message and expects its reply.
func (c *Client) Exchange(request, reply string) {
	c.t.Helper()
	c.Send(request)
	if got := c.Receive(); got != reply {
		c.t.Fatalf("%s\nanswered %s\n    want %s", request, got, reply)
	}
}
