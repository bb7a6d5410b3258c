package p9server

import (
	"net"

	"golang.org/x/sys/unix"
)

// setSendBuffer gives a unix socket room for n bytes of replies, so that
// writing one does not take turns with the client's reading of it. The system's
// limit is passed where the process may; else as much as it allows is had. Other
// sockets size their buffers by themselves.
func setSendBuffer(nc net.Conn, n int) {
	u, ok := nc.(*net.UnixConn)
	if !ok {
		return
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return // closed: the next read says so
	}
	// The default is only slower, so failures are no matter. The kernel doubles n
	// for its own overhead, which is about that.
	_ = raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, n) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, n)
		}
	})
}
