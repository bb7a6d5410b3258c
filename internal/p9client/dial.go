package p9client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/vsock"
)

// ErrNoRedial is returned by a second dial of an address that stands for one
// connection only, such as an inherited descriptor.
var ErrNoRedial = errors.New("this connection cannot be made again")

// Dialer makes connections to one server.
type Dialer func(ctx context.Context) (net.Conn, error)

// keepAlive finds a TCP peer that vanished without a word.
const keepAlive = 15 * time.Second

// ParseAddr understands
//
//	unix:PATH  tcp:HOST:PORT  vsock:CID:PORT  fd:N
//
// and a bare absolute path, which is a Unix socket. For vsock, CID 2 is the
// host. fd:N takes the descriptor over and can be dialled once.
func ParseAddr(addr string) (Dialer, error) {
	if strings.HasPrefix(addr, "/") {
		addr = "unix:" + addr
	}
	scheme, rest, _ := strings.Cut(addr, ":")
	switch scheme {
	case "unix":
		if rest == "" {
			return nil, fmt.Errorf("address %q: no socket path", addr)
		}
		return netDialer("unix", rest), nil
	case "tcp":
		if _, _, err := net.SplitHostPort(rest); err != nil {
			return nil, fmt.Errorf("address %q: %w", addr, err)
		}
		return netDialer("tcp", rest), nil
	case "vsock":
		return vsockDialer(addr, rest)
	case "fd":
		return fdDialer(addr, rest)
	}
	return nil, fmt.Errorf("address %q: want unix:PATH, tcp:HOST:PORT, vsock:CID:PORT or fd:N", addr)
}

func netDialer(network, address string) Dialer {
	d := net.Dialer{KeepAlive: keepAlive}
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, network, address) }
}

func vsockDialer(addr, rest string) (Dialer, error) {
	cidText, portText, _ := strings.Cut(rest, ":")
	cid, err := strconv.ParseUint(cidText, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("address %q: context ID: %w", addr, err)
	}
	port, err := strconv.ParseUint(portText, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("address %q: port: %w", addr, err)
	}
	return func(context.Context) (net.Conn, error) { return vsock.Dial(uint32(cid), uint32(port), nil) }, nil
}

func fdDialer(addr, rest string) (Dialer, error) {
	fd, err := strconv.ParseUint(rest, 10, 31)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", addr, err)
	}
	once := make(chan struct{}, 1)
	once <- struct{}{}
	return func(context.Context) (net.Conn, error) {
		select {
		case <-once:
		default:
			return nil, ErrNoRedial
		}
		f := os.NewFile(uintptr(fd), addr)
		conn, err := net.FileConn(f)
		return conn, errors.Join(err, f.Close())
	}, nil
}

// Dial connects to addr (see [ParseAddr]) and negotiates the version.
func Dial(ctx context.Context, addr string, opts Options) (*Client, error) {
	dial, err := ParseAddr(addr)
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	return New(ctx, conn, opts)
}
