package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/mount"
)

// Client speaks to a keeper. Its errors carry the kind the keeper gave them;
// Unavailable means there is no keeper to speak to.
type Client struct {
	http http.Client
}

// NewClient makes a client of the keeper that listens on the Unix socket at
// path. It connects when used.
func NewClient(path string) *Client {
	var d net.Dialer
	return &Client{http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", path)
		},
		MaxIdleConns: 4,
	}}}
}

// Close lets idle connections go.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Mount mounts the tree called aname on target. It may be called again for
// what is mounted already. mode "" leaves the choice to the keeper.
func (c *Client) Mount(ctx context.Context, aname, target string, mode mount.Mode) (mount.Status, error) {
	return c.MountWith(ctx, MountRequest{Aname: aname, Target: target, Mode: mode})
}

// MountWith is Mount with all options.
func (c *Client) MountWith(ctx context.Context, req MountRequest) (st mount.Status, err error) {
	err = c.do(ctx, http.MethodPost, pathMount, req, &st)
	return st, err
}

// Unmount takes the mount on target away; kind Busy if it is in use and lazy
// is not set. What is not mounted is no error.
func (c *Client) Unmount(ctx context.Context, target string, lazy bool) error {
	return c.do(ctx, http.MethodPost, pathUmount, UmountRequest{Target: target, Lazy: lazy}, &struct{}{})
}

// List tells about every mount.
func (c *Client) List(ctx context.Context) (list []mount.Status, err error) {
	err = c.do(ctx, http.MethodGet, pathMounts, nil, &list)
	return list, err
}

// Health tells how the keeper is.
func (c *Client) Health(ctx context.Context) (h Health, err error) {
	err = c.do(ctx, http.MethodGet, pathHealth, nil, &h)
	return h, err
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("keeper %s: %w", path, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://keeper"+path, body)
	if err != nil {
		return fmt.Errorf("keeper %s: %w", path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fserr.New(fserr.Unavailable, "ask keeper", path, err)
	}
	return errors.Join(decode(resp, path, out), resp.Body.Close())
}

func decode(resp *http.Response, path string, out any) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fserr.New(fserr.Unavailable, "ask keeper", path, err)
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(b, out); err != nil {
			return fserr.New(fserr.Internal, "ask keeper", path, err)
		}
		return nil
	}
	var f failure
	if err := json.Unmarshal(b, &f); err != nil {
		return fserr.Newf(fserr.Internal, "ask keeper", path, "status %s", resp.Status)
	}
	kind, ok := fserr.ParseKind(f.Kind)
	if !ok {
		kind = fserr.Internal
	}
	return fserr.New(kind, "", "", errors.New(f.Error))
}
