package p9client

import (
	"time"

	"golang.org/x/sys/unix"
)

// peerTimeout is how long a TCP peer may leave data unacknowledged before the
// connection counts as lost; the system's default is many minutes.
const peerTimeout = time.Minute

// tuneSocket sets buffers and timeouts. It prefers the privileged options, which ignore the system's
// limit, and falls back to the ordinary ones.
func tuneSocket(fd, size int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, size)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
	}
	// Sockets of other families do not know this option.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerTimeout.Milliseconds()))
}
