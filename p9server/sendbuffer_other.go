//go:build !linux

package p9server

import "net"

// setSendBuffer is for Linux alone.
func setSendBuffer(net.Conn, int) {}
