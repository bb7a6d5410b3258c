package main

import (
	"encoding/binary"
	"net"
)

// echo answers each message with one of the size that its first field asks for,
// with the same tag: what sockets and the scheduler cost in Go. It writes
// once for what it has read at once, as long as that is not much.
func echo(nc net.Conn) {
	const writeAt = 64 << 10
	in := make([]byte, 16<<10)
	out := make([]byte, 0, 2<<20)
	for have := 0; ; {
		n, err := nc.Read(in[have:])
		if err != nil {
			return
		}
		have += n
		rest := in[:have]
		for len(rest) >= readHeader && len(rest) >= int(binary.LittleEndian.Uint32(rest)) {
			size := int(binary.LittleEndian.Uint32(rest[headerSize:]))
			if len(out) > 0 && len(out)+size > writeAt {
				if _, err := nc.Write(out); err != nil {
					return
				}
				out = out[:0]
			}
			at := len(out)
			out = out[:at+size]
			binary.LittleEndian.PutUint32(out[at:], uint32(size))
			out[at+4] = rest[4] + 1
			out[at+5], out[at+6] = rest[5], rest[6]
			rest = rest[binary.LittleEndian.Uint32(rest):]
		}
		if _, err := nc.Write(out); err != nil {
			return
		}
		out = out[:0]
		have = copy(in, rest)
	}
}
