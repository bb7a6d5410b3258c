package snapshotter

import (
	"maps"
	"sync"
)

// Reasons for handing a layer back to containerd, as counted in [Stats].
const (
	ReasonNoLabels     = "no-labels"    // the client named no image: its annotations are off
	ReasonBadLabels    = "bad-labels"   // a reference or digest in the labels is malformed
	ReasonLocalParent  = "local-parent" // the layer below is unpacked on this host
	ReasonOtherParent  = "other-parent" // the chain exists on top of another parent
	ReasonOtherLayer   = "other-layer"  // the chain exists with a layer that is not what it claims to be
	ReasonUnsupported  = "unsupported"  // no reader for the layer's format
	ReasonTooLarge     = "too-large"    // a limit was exceeded
	ReasonNotFound     = "not-found"    // the source has no such layer
	ReasonUnauthorized = "unauthorized" // the source refused the credentials
	ReasonUnavailable  = "unavailable"  // the source cannot be reached
	reasonNone         = ""             // served
)

// Stats counts since the start.
type Stats struct {
	// Added counts layers added to the Backend and committed; Lazy those of them
	// that are fetched as they are read.
	Added, Lazy uint64
	// Existing counts Prepares answered from a remote snapshot that was there.
	Existing uint64
	// Failed counts Prepares of layers that failed with an error.
	Failed uint64
	// HandedBack counts layers left to containerd, by reason.
	HandedBack map[string]uint64
}

type counters struct {
	mu sync.Mutex
	s  Stats
}

func (c *counters) update(fn func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s.HandedBack == nil {
		c.s.HandedBack = make(map[string]uint64)
	}
	fn(&c.s)
}

// Stats gives the counters.
func (s *Snapshotter) Stats() Stats {
	s.counters.mu.Lock()
	defer s.counters.mu.Unlock()
	out := s.counters.s
	out.HandedBack = maps.Clone(out.HandedBack)
	if out.HandedBack == nil {
		out.HandedBack = map[string]uint64{}
	}
	return out
}
