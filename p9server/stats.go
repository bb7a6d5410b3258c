package p9server

import (
	"math/bits"
	"sync/atomic"
	"syscall"
)

// messageNames names every counted message, in the order of the counters. The
// last stands for all numbers that are no request of 9P2000.L.
var messageNames = [...]string{
	"statfs", "lopen", "lcreate", "symlink", "mknod", "rename", "readlink", "getattr", "setattr",
	"xattrwalk", "xattrcreate", "readdir", "fsync", "lock", "getlock", "link", "mkdir", "renameat",
	"unlinkat", "version", "auth", "attach", "flush", "walk", "read", "write", "clunk", "remove", "unknown",
}

var messageNumbers = [...]uint8{
	tstatfs, tlopen, tlcreate, tsymlink, tmknod, trename, treadlink, tgetattr, tsetattr,
	txattrwalk, txattrcreate, treaddir, tfsync, tlock, tgetlock, tlink, tmkdir, trenameat,
	tunlinkat, tversion, tauth, tattach, tflush, twalk, tread, twrite, tclunk, tremove,
}

const messageKinds = len(messageNames)

// messageIndex maps a message number to its counter.
var messageIndex = func() (index [256]uint8) {
	for i := range index {
		index[i] = uint8(messageKinds - 1)
	}
	for i, typ := range messageNumbers {
		index[typ] = uint8(i)
	}
	return index
}()

// maxErrno bounds the errno values counted one by one; Linux's end at 133.
const maxErrno = 134

// counters are the live numbers of a server. Messages are counted by each
// connection for itself and added here when it writes its replies.
type counters struct {
	messages      [messageKinds]atomic.Uint64
	errors        [maxErrno]atomic.Uint64
	bytesRead     atomic.Uint64
	bytesWritten  atomic.Uint64
	payload       atomic.Uint64
	localReads    atomic.Uint64
	misses        atomic.Uint64
	timeouts      atomic.Uint64
	flushed       atomic.Uint64
	violations    atomic.Uint64
	accepted      atomic.Uint64
	rejected      atomic.Uint64
	active        atomic.Int64
	fids          atomic.Int64
	attaches      atomic.Int64
	outstanding   atomic.Int64
	bytesInFlight atomic.Int64
}

// Snapshot is the state of a server's counters at one moment. Messages and
// bytes of a connection are added when it writes its replies.
type Snapshot struct {
	// Messages counts requests by name ("walk", "read", …; "unknown" for
	// numbers that are no request).
	Messages map[string]uint64
	// Errors counts Rlerror replies by errno.
	Errors map[syscall.Errno]uint64
	// BytesRead and BytesWritten count what went over the connections.
	BytesRead, BytesWritten uint64
	// Payload counts bytes of file content sent.
	Payload uint64
	// LocalReads counts Treads answered from bytes at hand, Misses those that
	// had to wait.
	LocalReads, Misses uint64
	// Timeouts counts requests answered EIO because their time was up, Flushed
	// those given up by the client.
	Timeouts, Flushed uint64
	// Violations counts connections closed for breaking the protocol.
	Violations uint64
	// Accepted and Rejected count connections taken and closed at the bound.
	Accepted, Rejected uint64
	// Conns, FIDs, Attaches, Outstanding and BytesInFlight are what is held
	// now: connections, fids, attached trees, requests waiting for bytes, and
	// bytes of their reply buffers.
	Conns, FIDs, Attaches, Outstanding, BytesInFlight int64
}

// Stats gives the counters.
func (s *Server) Stats() Snapshot {
	c := &s.stats
	snap := Snapshot{
		Messages: make(map[string]uint64, messageKinds), Errors: map[syscall.Errno]uint64{},
		BytesRead: c.bytesRead.Load(), BytesWritten: c.bytesWritten.Load(), Payload: c.payload.Load(),
		LocalReads: c.localReads.Load(), Misses: c.misses.Load(),
		Timeouts: c.timeouts.Load(), Flushed: c.flushed.Load(), Violations: c.violations.Load(),
		Accepted: c.accepted.Load(), Rejected: c.rejected.Load(),
		Conns: c.active.Load(), FIDs: c.fids.Load(), Attaches: c.attaches.Load(),
		Outstanding: c.outstanding.Load(), BytesInFlight: c.bytesInFlight.Load(),
	}
	for i := range c.messages {
		snap.Messages[messageNames[i]] = c.messages[i].Load()
	}
	for i := range c.errors {
		if n := c.errors[i].Load(); n != 0 {
			snap.Errors[syscall.Errno(i)] = n
		}
	}
	return snap
}

// countError counts one Rlerror.
func (c *counters) countError(errno syscall.Errno) {
	if errno < maxErrno {
		c.errors[errno].Add(1)
	}
}

// tally holds what one connection has counted since it last published.
type tally struct {
	messages   [messageKinds]uint32
	touched    uint32 // bit i: messages[i] is not 0
	read       uint64
	payload    uint64
	localReads uint64
	fids       int64
}

// message counts one request.
func (t *tally) message(typ uint8) {
	i := messageIndex[typ]
	t.messages[i]++
	t.touched |= 1 << i
}

// publish adds the tally to c and empties it.
func (t *tally) publish(c *counters) {
	for m := t.touched; m != 0; m &= m - 1 {
		i := bits.TrailingZeros32(m)
		c.messages[i].Add(uint64(t.messages[i]))
		t.messages[i] = 0
	}
	t.touched = 0
	if t.read != 0 {
		c.bytesRead.Add(t.read)
		t.read = 0
	}
	if t.localReads != 0 {
		c.localReads.Add(t.localReads)
		c.payload.Add(t.payload)
		t.localReads, t.payload = 0, 0
	}
	if t.fids != 0 {
		c.fids.Add(t.fids)
		t.fids = 0
	}
}
