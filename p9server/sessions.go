package p9server

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// Session is what one connection has done so far.
type Session struct {
	// Peer is the client's address, of no meaning on unix sockets.
	Peer string
	// Aname is the tree attached last, "" if there is none yet.
	Aname string
	// Since is when the connection was accepted.
	Since time.Time
	// Messages counts requests, LocalReads the Treads answered at once, Misses
	// those that had to wait.
	Messages, LocalReads, Misses uint64
	// Payload counts bytes of file content sent.
	Payload uint64
	// FIDs and Outstanding are what it holds now: fids, and requests that wait.
	FIDs, Outstanding int64
}

// sessionCounters are those of one connection: added to when it writes its
// replies, and read by others.
type sessionCounters struct {
	messages, localReads, misses, payload atomic.Uint64
	fids                                  atomic.Int64
	aname                                 atomic.Pointer[string]
}

// Sessions gives the connections there are, the oldest first.
func (s *Server) Sessions() []Session {
	s.mu.Lock()
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	list := make([]Session, 0, len(conns))
	for _, c := range conns {
		list = append(list, c.session())
	}
	slices.SortFunc(list, func(a, b Session) int { return a.Since.Compare(b.Since) })
	return list
}

func (c *conn) session() Session {
	n := &c.count
	s := Session{
		Peer: addrString(c.nc.RemoteAddr()), Since: c.since,
		Messages: n.messages.Load(), LocalReads: n.localReads.Load(), Misses: n.misses.Load(), Payload: n.payload.Load(),
		FIDs: n.fids.Load(),
	}
	if name := n.aname.Load(); name != nil {
		s.Aname = *name
	}
	c.mu.Lock()
	s.Outstanding = int64(c.held)
	c.mu.Unlock()
	return s
}
