package mount

import (
	"context"
	"net"
)

// What tests outside the package reach inside for.

// Relay is a relay as a test drives it.
type Relay struct{ r *relay }

// NewRelay makes a relay for a client's connection.
func NewRelay(client net.Conn, opts SessionOptions) Relay { return Relay{newRelay(client, opts)} }

// Run relays.
func (r Relay) Run(ctx context.Context, server net.Conn) error { return r.r.run(ctx, server) }

// Fids is how many fids the client has.
func (r Relay) Fids() int { return r.r.size() }

// Reconnects is how often a server was replaced.
func (r Relay) Reconnects() uint64 { return r.r.reconnects.Load() }

// Connected tells whether there is a server.
func (r Relay) Connected() bool { return r.r.connected() }

// Parts under test on their own.
var (
	FatalPending = fatalPending
	CheckRelease = checkRelease
	ListsV9FS    = listsV9FS
	V9FSOptions  = v9fsOptions
)

// Len is how many indexes are open.
func (s *Indexes) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byTree)
}
