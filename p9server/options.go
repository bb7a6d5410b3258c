package p9server

import (
	"context"
	"net"
	"time"

	"go.uber.org/zap"
)

// Options bound what a server lends to its clients. The zero value of each
// field stands for its default; values out of range are moved into it.
type Options struct {
	// MaxMessageSize is the largest msize agreed to, in bytes: 4096 to the
	// default, 1 MiB + 24.
	MaxMessageSize uint32
	// MaxConns is how many connections are served at once; further ones are
	// closed at once. Default 1024.
	MaxConns int
	// MaxFIDs is how many fids one connection may hold. A Linux client holds
	// one per cached directory entry; each costs at most 96 bytes. Beyond it,
	// EMFILE. Default 1 Mi.
	MaxFIDs int
	// MaxOutstanding is how many requests of one connection may wait for
	// bytes (or for an attach), running or queued. At the bound the connection
	// is not read from until one is done. Default 4096.
	MaxOutstanding int
	// MaxConnReads is how many of those run at once. Default 64.
	MaxConnReads int
	// MaxReads bounds the same over all connections. Default 1024.
	MaxReads int
	// MaxConnBytes bounds the reply buffers of the running requests of one
	// connection, in bytes. Default 16 MiB, at least one message.
	MaxConnBytes int64
	// MaxBytes bounds the same over all connections. Default 256 MiB, at least
	// one message.
	MaxBytes int64
	// ReadTimeout is how long a Tread may take before it is answered EIO: v9fs
	// cannot interrupt a read otherwise. Default 30 s.
	ReadTimeout time.Duration
	// AttachTimeout is the same for Tattach. Default 60 s.
	AttachTimeout time.Duration
	// VersionTimeout is how long a connection may be there before it has agreed on
	// a version, which every client does first. Default 1 min.
	VersionTimeout time.Duration
	// WriteTimeout is how long a client may refuse to take replies before its
	// connection is closed. Default 2 min.
	WriteTimeout time.Duration
	// ConnContext, if set, derives the context of a connection, from which an
	// Exporter can tell who the peer is.
	ConnContext func(ctx context.Context, nc net.Conn) context.Context
	// Logger gets one debug line per connection that ends, and a warning for
	// each that broke the protocol. Default none.
	Logger *zap.Logger
}

const maxMessageSize = 1<<20 + ioHeader

// withDefaults gives a copy without zero or impossible values.
func (o Options) withDefaults() Options {
	if o.MaxMessageSize == 0 || o.MaxMessageSize > maxMessageSize {
		o.MaxMessageSize = maxMessageSize
	}
	o.MaxMessageSize = max(o.MaxMessageSize, minMsize)
	o.MaxConns = orDefault(o.MaxConns, 1024)
	o.MaxFIDs = orDefault(o.MaxFIDs, 1<<20)
	o.MaxOutstanding = orDefault(o.MaxOutstanding, 4096)
	o.MaxConnReads = orDefault(o.MaxConnReads, 64)
	o.MaxReads = orDefault(o.MaxReads, 1024)
	o.MaxConnBytes = max(orDefault(o.MaxConnBytes, 16<<20), int64(o.MaxMessageSize))
	o.MaxBytes = max(orDefault(o.MaxBytes, 256<<20), int64(o.MaxMessageSize))
	o.ReadTimeout = orDefault(o.ReadTimeout, 30*time.Second)
	o.AttachTimeout = orDefault(o.AttachTimeout, time.Minute)
	o.VersionTimeout = orDefault(o.VersionTimeout, time.Minute)
	o.WriteTimeout = orDefault(o.WriteTimeout, 2*time.Minute)
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}
