package hostlink

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is the keeper's end of a link. Sends may run at once with Acks.
type Conn struct {
	c   *net.UnixConn
	raw syscall.RawConn
	buf [maxPacket]byte // of Acks
}

// ErrRefused wraps the errno of a daemon that does not give the tree.
var ErrRefused = errors.New("the daemon refuses")

// Attach connects to the socket at path and attaches a tree. index is the file of
// its merged index, for the caller to close. A daemon's refusal is an errno that
// wraps ErrRefused as well.
func Attach(ctx context.Context, path, aname string) (conn *Conn, w Welcome, index *os.File, err error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, network, path)
	if err != nil {
		return nil, w, nil, err
	}
	c, ok := nc.(*net.UnixConn)
	if !ok {
		return nil, w, nil, errors.Join(fmt.Errorf("connection of type %T", nc), nc.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // an end that cannot be missed
	w, index, err = attach(c, aname)
	if !stop() && err == nil {
		err = errors.Join(ctx.Err(), index.Close())
	}
	if err == nil {
		conn = &Conn{c: c}
		conn.raw, err = c.SyscallConn()
	}
	if err != nil {
		return nil, w, nil, errors.Join(err, c.Close())
	}
	return conn, w, index, nil
}

func attach(c *net.UnixConn, aname string) (w Welcome, index *os.File, err error) {
	if err := sendJSON(c, hello{Version: version, Aname: aname}, nil); err != nil {
		return w, nil, err
	}
	buf := make([]byte, maxPacket)
	n, index, err := receive(c, buf, "index")
	if err != nil {
		return w, nil, err
	}
	err = json.Unmarshal(buf[:n], &w)
	switch {
	case err != nil:
	case w.Errno != 0:
		err = fmt.Errorf("%w: %s: %w", ErrRefused, w.Error, w.Errno)
	case index == nil || w.Tree == "":
		err = errPacket
	default:
		return w, index, nil
	}
	if index != nil {
		err = errors.Join(err, index.Close())
	}
	return w, nil, err
}

// Device gives the daemon the device to answer to.
func (c *Conn) Device(device *os.File) error { return send(c.c, []byte{0}, device) }

// TrySend sends reads if that takes no waiting.
func (c *Conn) TrySend(reads []byte) (sent bool, err error) {
	var serr error
	err = c.raw.Control(func(fd uintptr) {
		serr = unix.Send(int(fd), reads, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	switch {
	case err != nil:
		return false, err
	case errors.Is(serr, unix.EAGAIN), errors.Is(serr, unix.EINTR):
		return false, nil
	}
	return serr == nil, serr
}

// Send sends reads, and waits until the daemon has room for them.
func (c *Conn) Send(reads []byte) error { return send(c.c, reads, nil) }

// Acks waits until reads were answered and gives their numbers to fn.
func (c *Conn) Acks(fn func(unique uint64)) error {
	n, err := c.c.Read(c.buf[:])
	if err != nil {
		return err
	}
	b := c.buf[:n]
	if n == 0 || n%ackSize != 0 {
		return errPacket
	}
	for ; len(b) > 0; b = b[ackSize:] {
		fn(binary.LittleEndian.Uint64(b))
	}
	return nil
}

// Close ends the link.
func (c *Conn) Close() error { return c.c.Close() }
