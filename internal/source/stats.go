package source

import (
	"sync"
	"sync/atomic"
)

// maxStatHosts bounds the hosts counted by name; the rest share [OtherHosts].
const maxStatHosts = 256

// OtherHosts is the name under which hosts beyond the bound are counted.
const OtherHosts = "other"

// HostStats counts the traffic with one host since the start.
type HostStats struct {
	// Requests sent, redirects followed included.
	Requests int64
	// Bytes of response bodies received.
	Bytes int64
	// BytesSent are the bytes of request bodies.
	BytesSent int64
	// Failures are requests that gave no usable answer.
	Failures int64
	// Retries are requests made again because of a failure.
	Retries int64
	// Hedges are second requests made because the first took long.
	Hedges int64
	// Cost is what was learned of the host; zero while too little is known.
	Cost Cost
}

// Counter counts traffic by host. The zero value is ready; it is safe for
// concurrent use.
type Counter struct {
	mu    sync.RWMutex
	hosts map[string]*HostCounter
}

// HostCounter counts the traffic with one host.
type HostCounter struct {
	Requests, Bytes, BytesSent, Failures, Retries, Hedges atomic.Int64
}

// Host gives the counter of a host.
func (c *Counter) Host(name string) *HostCounter {
	c.mu.RLock()
	h := c.hosts[name]
	c.mu.RUnlock()
	if h != nil {
		return h
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.hosts[name]; h != nil {
		return h
	}
	if c.hosts == nil {
		c.hosts = make(map[string]*HostCounter)
	}
	if len(c.hosts) >= maxStatHosts-1 {
		name = OtherHosts
		if h := c.hosts[name]; h != nil {
			return h
		}
	}
	h = &HostCounter{}
	c.hosts[name] = h
	return h
}

// Snapshot gives the figures of all hosts, by host name with port.
func (c *Counter) Snapshot() map[string]HostStats {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make(map[string]HostStats, len(c.hosts))
	for name, h := range c.hosts {
		out[name] = HostStats{
			Requests:  h.Requests.Load(),
			Bytes:     h.Bytes.Load(),
			BytesSent: h.BytesSent.Load(),
			Failures:  h.Failures.Load(),
			Retries:   h.Retries.Load(),
			Hedges:    h.Hedges.Load(),
		}
	}
	return out
}
