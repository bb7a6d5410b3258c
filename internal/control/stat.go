package control

import (
	"context"
	"net/http"
	"time"
)

// Stat is what the 9P server has done since the daemon started.
type Stat struct {
	// Messages are the requests, by type, those that there were most of first.
	Messages []MessageStat `json:"messages"`
	// Errors counts requests answered with an error, by its name (ENOENT).
	Errors map[string]uint64 `json:"errors"`
	// BytesIn and BytesOut went over connections; Payload is the file content in
	// BytesOut.
	BytesIn  uint64 `json:"bytesIn"`
	BytesOut uint64 `json:"bytesOut"`
	Payload  uint64 `json:"payloadBytes"`
	// LocalReads were answered from the cache, Misses had to wait.
	LocalReads uint64 `json:"localReads"`
	Misses     uint64 `json:"misses"`
	// Timeouts were answered EIO because their time was up, Flushed given up by
	// clients.
	Timeouts uint64 `json:"timeouts"`
	Flushed  uint64 `json:"flushed"`
	// Sessions are the connections there are now, the oldest first.
	Sessions []SessionStat `json:"sessions"`
}

// MessageStat is about the requests of one type.
type MessageStat struct {
	Type  string `json:"type"` // walk, getattr, ...
	Count uint64 `json:"count"`
	// AtOnce is of a sample of those answered at once, Waited of all that waited.
	AtOnce Latency `json:"atOnce"`
	Waited Latency `json:"waited"`
}

// Latency tells how long something took: the quantiles in seconds, each rounded up
// to the end of a bucket that is twice as long as the one before.
type Latency struct {
	Count uint64  `json:"count"` // timed
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
}

// SessionStat is what one connection has done so far.
type SessionStat struct {
	Peer       string    `json:"peer,omitempty"`
	Aname      string    `json:"aname,omitempty"` // the tree attached last
	Since      time.Time `json:"since"`
	Messages   uint64    `json:"messages"`
	Payload    uint64    `json:"payloadBytes"`
	LocalReads uint64    `json:"localReads"`
	Misses     uint64    `json:"misses"`
	FIDs       int64     `json:"fids"`
	Waiting    int64     `json:"waiting"` // requests
}

// StatService tells what the 9P server does.
type StatService interface {
	Stat(ctx context.Context) (Stat, error)
}

func handleStat(mux *http.ServeMux, s StatService) {
	mux.HandleFunc("GET /v1/stat", func(w http.ResponseWriter, r *http.Request) {
		st, err := s.Stat(r.Context())
		reply(w, st, err)
	})
}

// Stat calls [StatService.Stat].
func (c *Client) Stat(ctx context.Context) (Stat, error) {
	var st Stat
	err := c.call(ctx, http.MethodGet, "/v1/stat", nil, &st)
	return st, err
}
