package control

import (
	"context"
	"net"
	"net/http"
)

// NewClientTo makes a client for a server at an address of any network.
func NewClientTo(addr net.Addr) *Client {
	c := NewClient(addr.String())
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, addr.Network(), addr.String())
	}}
	return c
}
