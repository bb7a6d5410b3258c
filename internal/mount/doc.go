// Package mount turns a tree served over 9P into a kernel mount that outlives
// the server's process.
//
// A session is an attach that survives its connection: when the connection is
// lost, requests wait, the session dials, negotiates and attaches again, and
// the requests are repeated. That is safe because trees are immutable and node
// numbers are the same after any restart; both are verified whenever a node is
// found again, and a tree that changed is an error (ESTALE), never wrong bytes.
//
// The FUSE backend (front) answers the kernel from a tree: a table of the nodes
// the kernel knows, each with its parent and name, on top of a session. Fids on
// the server are only a cache of that table. They carry the epoch of the
// connection they belong to, the idle ones are bounded in number, and one that
// is missing is made again by walking the names from the nearest ancestor that
// has one. The kernel is told to keep entries, attributes, absent names,
// directories, link targets and pages for good, and to open files without
// asking.
//
// Where the daemon is on the same host and has a host link (internal/hostlink), a
// FUSE mount needs neither session nor table: hostMount answers the kernel from the
// merged index, and the daemon writes what is read straight to the FUSE device.
// device speaks the protocol, indexFront answers, reads holds what the daemon was
// asked for and asks again.
//
// The v9fs backend gives the kernel's own 9p client one end of a socket pair
// and relays the frames; see relay.go.
//
// The package is not the process that keeps mounts: that is internal/keeper.
//
// Locks: table.mu guards nodes and fids, session.mu the current connection, reads.mu
// what the daemon was asked for, Indexes.mu the indexes that are open; Mount.mu is
// held while unmounting. None is held while another is taken or
// while waiting for the server.
package mount
