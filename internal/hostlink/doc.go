// Package hostlink connects a keeper with the daemon of the same host for what
// 9P cannot do: hand over descriptors.
//
// The keeper attaches a tree and gets the file of its merged index, from which it
// answers the kernel whatever concerns names and attributes. It gives the daemon
// the descriptor of its FUSE device, and passes on requests to read: 32 bytes
// each. The daemon writes the bytes of files straight to the device, as the
// kernel's answer, so that they take no way through the keeper. What was answered
// is acknowledged, a little later and many at once.
//
// A keeper that loses the daemon knows which reads were not acknowledged, and asks
// the next daemon for them. The kernel ignores an answer that it has had already.
//
// The messages are the packets of a Unix socket, one connection for each mount:
//
//	keeper                         daemon
//	{"version":1,"aname":"…"}  →
//	                           ←   {"tree":"…",…} with the index
//	1 byte, with the device    →
//	reads, 32 bytes each       →
//	                           ←   numbers answered, 8 bytes each
//
// Who may connect is decided by the socket's mode, and by the kernel's word on who
// the peer is: root, or the daemon's own user.
//
// The package knows neither images nor FUSE, but for the 16 bytes in front of an
// answer.
//
// Locks: session.mu guards what is yet to be acknowledged. It is held while that
// is written.
package hostlink
