package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"github.com/nineply/nineply/internal/fserr"
)

// maxReply bounds what a client reads of one answer, bytes.
const maxReply = 64 << 20

// Client calls a daemon. It implements [Service].
type Client struct {
	socket string
	http   *http.Client
}

var _ Service = (*Client)(nil)

// NewClient makes a client for the daemon behind a unix socket. It connects on
// first use and again whenever the daemon was restarted.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 4}}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// AddLayer calls [Service.AddLayer].
func (c *Client) AddLayer(ctx context.Context, l Layer) (LayerStatus, error) {
	var st LayerStatus
	err := c.call(ctx, http.MethodPost, "/v1/layers", l, &st)
	return st, err
}

// RemoveChain calls [Service.RemoveChain].
func (c *Client) RemoveChain(ctx context.Context, chainID string) error {
	return c.call(ctx, http.MethodDelete, "/v1/chains/"+url.PathEscape(chainID), nil, nil)
}

// Mount calls [Service.Mount].
func (c *Client) Mount(ctx context.Context, m MountRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/mounts", m, nil)
}

// Unmount calls [Service.Unmount].
func (c *Client) Unmount(ctx context.Context, target string) error {
	return c.call(ctx, http.MethodDelete, "/v1/mounts?target="+url.QueryEscape(target), nil, nil)
}

// Status calls [Service.Status].
func (c *Client) Status(ctx context.Context) (Status, error) {
	var st Status
	err := c.call(ctx, http.MethodGet, "/v1/status", nil, &st)
	return st, err
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encoding the request: %w", err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://nineply"+path, body)
	if err != nil {
		return fmt.Errorf("request %s: %w", path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(err)
	}
	defer func() { _ = resp.Body.Close() }() // read to the end below; nothing is lost
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return c.unreachable(err)
	}
	if resp.StatusCode/100 != 2 {
		return decodeError(resp.StatusCode, text)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fserr.Newf(fserr.Internal, "daemon", c.socket, "answer not understood: %w", err)
	}
	return nil
}

// unreachable turns a transport error into advice.
func (c *Client) unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return fserr.New(fserr.Canceled, "daemon", c.socket, err)
	}
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return fserr.Newf(fserr.Unavailable, "", "", "no daemon answers at %s: start it with \"nineply daemon\", or name its socket with --address: %w", c.socket, err)
	}
	return fserr.New(fserr.Unavailable, "daemon", c.socket, err)
}

// errorBody is how errors travel.
type errorBody struct {
	Kind  string `json:"kind"`
	Error string `json:"error"`
}

func decodeError(status int, text []byte) error {
	var e errorBody
	if err := json.Unmarshal(text, &e); err != nil || e.Error == "" {
		return fserr.Newf(fserr.Internal, "daemon", "", "HTTP status %d: %.200s", status, text)
	}
	kind, ok := fserr.ParseKind(e.Kind)
	if !ok {
		kind = fserr.Internal
	}
	return fserr.New(kind, "", "", errors.New(e.Error))
}
