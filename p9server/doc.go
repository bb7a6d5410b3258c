// Package p9server serves immutable file trees as 9P2000.L, the protocol that
// Linux mounts as file system type 9p.
//
// # How data passes through
//
// One goroutine per connection, the read loop, takes requests out of a receive
// buffer, decodes them in place, asks the [Tree] and appends the replies to one
// buffer, which is written when no further whole request is at hand. Bytes of
// files go straight from the Tree into that buffer ([Tree.TryReadAt]); nothing
// is allocated per message.
//
// What cannot be answered from memory, a Tread of bytes that are not at hand and
// a Tattach, becomes a request of its own: a goroutine waits for it under a
// deadline and writes the reply itself, while the read loop goes on. How many
// such requests run, wait and hold buffers is bounded per connection and for
// the server, and no connection gets all that the server has: n that want it
// have one part in n+1 each. Tflush cancels one and is answered at once; a flushed
// request is never answered, because its tag may be in use again.
//
// A fid is 24 bytes in a table of the connection: node, attach, state. There is
// no tree of paths, no lock that readers share, and nothing left of a fid after
// its clunk.
//
// # What it is not
//
// It knows nothing of images, registries or caches, and checks no permissions:
// the mode bits are for the client's kernel, and which trees a connection may
// attach is the [Exporter]'s decision. Users named in Tattach are ignored.
//
// # Locks
//
// The fid table and the reply buffer belong to the read loop and have none.
//
//	Server.mu            connections and listeners
//	conn.wmu             whole replies on the wire
//	  conn.mu            tags, queue and outcomes of waiting requests
//
// Server.mu is never held together with the others. No lock but wmu is held
// during I/O, and none while a Tree or an Exporter is called.
package p9server
