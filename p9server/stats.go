package p9server

import (
	"math/bits"
	"sync/atomic"
	"syscall"
)

// Requests have even numbers below 128, so half the number is the place of
// their counter. Place 0 counts all numbers that are no request.
const (
	messageKinds  = 64
	knownMessages = 1<<(tstatfs/2) | 1<<(tlopen/2) | 1<<(tlcreate/2) | 1<<(tsymlink/2) | 1<<(tmknod/2) |
		1<<(trename/2) | 1<<(treadlink/2) | 1<<(tgetattr/2) | 1<<(tsetattr/2) | 1<<(txattrwalk/2) |
		1<<(txattrcreate/2) | 1<<(treaddir/2) | 1<<(tfsync/2) | 1<<(tlock/2) | 1<<(tgetlock/2) |
		1<<(tlink/2) | 1<<(tmkdir/2) | 1<<(trenameat/2) | 1<<(tunlinkat/2) | 1<<(tversion/2) |
		1<<(tauth/2) | 1<<(tattach/2) | 1<<(tflush/2) | 1<<(twalk/2) | 1<<(tread/2) | 1<<(twrite/2) |
		1<<(tclunk/2) | 1<<(tremove/2)
)

// messageIndex gives the place of a message's counter.
func messageIndex(typ uint8) uint8 {
	if i := typ / 2; typ%2 == 0 && i < messageKinds && knownMessages>>i&1 != 0 {
		return i
	}
	return 0
}

// messageName gives the name of the messages counted at place i.
func messageName(i int) string {
	switch i * 2 {
	case tstatfs:
		return "statfs"
	case tlopen:
		return "lopen"
	case tlcreate:
		return "lcreate"
	case tsymlink:
		return "symlink"
	case tmknod:
		return "mknod"
	case trename:
		return "rename"
	case treadlink:
		return "readlink"
	case tgetattr:
		return "getattr"
	case tsetattr:
		return "setattr"
	case txattrwalk:
		return "xattrwalk"
	case txattrcreate:
		return "xattrcreate"
	case treaddir:
		return "readdir"
	case tfsync:
		return "fsync"
	case tlock:
		return "lock"
	case tgetlock:
		return "getlock"
	case tlink:
		return "link"
	case tmkdir:
		return "mkdir"
	}
	return sessionMessageName(i)
}

func sessionMessageName(i int) string {
	switch i * 2 {
	case trenameat:
		return "renameat"
	case tunlinkat:
		return "unlinkat"
	case tversion:
		return "version"
	case tauth:
		return "auth"
	case tattach:
		return "attach"
	case tflush:
		return "flush"
	case twalk:
		return "walk"
	case tread:
		return "read"
	case twrite:
		return "write"
	case tclunk:
		return "clunk"
	case tremove:
		return "remove"
	}
	return "unknown"
}

// maxErrno bounds the errno values counted one by one; Linux's end at 133.
const maxErrno = 134

// counters are the live numbers of a server. Messages are counted by each
// connection for itself and added here when it writes its replies.
type counters struct {
	messages      [messageKinds]atomic.Uint64
	atOnce        [messageKinds]histogram
	waited        [messageKinds]histogram
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
	// AtOnce tells how long requests took that were answered at once, from when
	// they had come to when their reply was ready: one of SampledOneIn. Waited
	// tells the same of all those that had to wait, and were not given up by the
	// client. Both by name, and of those only that there were.
	AtOnce, Waited map[string]Histogram
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
		Messages: map[string]uint64{}, AtOnce: histograms(&c.atOnce), Waited: histograms(&c.waited), Errors: map[syscall.Errno]uint64{},
		BytesRead: c.bytesRead.Load(), BytesWritten: c.bytesWritten.Load(), Payload: c.payload.Load(),
		LocalReads: c.localReads.Load(), Misses: c.misses.Load(),
		Timeouts: c.timeouts.Load(), Flushed: c.flushed.Load(), Violations: c.violations.Load(),
		Accepted: c.accepted.Load(), Rejected: c.rejected.Load(),
		Conns: c.active.Load(), FIDs: c.fids.Load(), Attaches: c.attaches.Load(),
		Outstanding: c.outstanding.Load(), BytesInFlight: c.bytesInFlight.Load(),
	}
	for i := range c.messages {
		if i == 0 || knownMessages>>i&1 != 0 {
			snap.Messages[messageName(i)] = c.messages[i].Load()
		}
	}
	for i := range c.errors {
		if n := c.errors[i].Load(); n != 0 {
			snap.Errors[syscall.Errno(i)] = n
		}
	}
	return snap
}

func histograms(all *[messageKinds]histogram) map[string]Histogram {
	m := map[string]Histogram{}
	for i := range all {
		if h := all[i].snapshot(); h.Count() > 0 {
			m[messageName(i)] = h
		}
	}
	return m
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
	touched    uint64 // bit i: messages[i] is not 0
	unsampled  uint32
	read       uint64
	payload    uint64
	localReads uint64
	fids       int64
}

// sample tells whether to time the next request.
func (t *tally) sample() bool {
	t.unsampled++
	return t.unsampled%SampledOneIn == 0
}

// message counts one request.
func (t *tally) message(typ uint8) {
	i := messageIndex(typ)
	t.messages[i]++
	t.touched |= 1 << i
}

// publish adds the tally to c, and to what the connection has done, and empties
// it.
func (t *tally) publish(c *counters, own *sessionCounters) {
	sum := uint64(0)
	for m := t.touched; m != 0; m &= m - 1 {
		i := bits.TrailingZeros64(m)
		c.messages[i].Add(uint64(t.messages[i]))
		sum += uint64(t.messages[i])
		t.messages[i] = 0
	}
	t.touched = 0
	own.messages.Add(sum)
	if t.read != 0 {
		c.bytesRead.Add(t.read)
		t.read = 0
	}
	if t.localReads != 0 {
		c.localReads.Add(t.localReads)
		c.payload.Add(t.payload)
		own.localReads.Add(t.localReads)
		own.payload.Add(t.payload)
		t.localReads, t.payload = 0, 0
	}
	if t.fids != 0 {
		c.fids.Add(t.fids)
		own.fids.Add(t.fids)
		t.fids = 0
	}
}
