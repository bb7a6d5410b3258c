package daemon

import (
	"cmp"
	"context"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/p9server"
)

// Stat implements control.Service.
func (s *service) Stat(context.Context) (control.Stat, error) {
	return statOf(s.server.Stats(), s.server.Sessions()), nil
}

func statOf(p p9server.Snapshot, sessions []p9server.Session) control.Stat {
	st := control.Stat{
		Messages: []control.MessageStat{}, Errors: map[string]uint64{}, Sessions: []control.SessionStat{},
		BytesIn: p.BytesRead, BytesOut: p.BytesWritten, Payload: p.Payload,
		LocalReads: p.LocalReads, Misses: p.Misses, Timeouts: p.Timeouts, Flushed: p.Flushed,
	}
	for name, n := range p.Messages {
		if n > 0 {
			st.Messages = append(st.Messages, control.MessageStat{
				Type: name, Count: n, AtOnce: latencyOf(p.AtOnce[name]), Waited: latencyOf(p.Waited[name]),
			})
		}
	}
	slices.SortFunc(st.Messages, func(a, b control.MessageStat) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Type, b.Type))
	})
	for errno, n := range p.Errors {
		st.Errors[unix.ErrnoName(errno)] = n
	}
	for _, c := range sessions {
		st.Sessions = append(st.Sessions, control.SessionStat{
			Peer: c.Peer, Aname: c.Aname, Since: c.Since, Messages: c.Messages, Payload: c.Payload,
			LocalReads: c.LocalReads, Misses: c.Misses, FIDs: c.FIDs, Waiting: c.Outstanding,
		})
	}
	return st
}

func latencyOf(h p9server.Histogram) control.Latency {
	l := control.Latency{Count: h.Count()}
	if l.Count == 0 {
		return l
	}
	l.Mean = (h.Sum / time.Duration(l.Count)).Seconds()
	l.P50, l.P99 = quantile(&h, 50), quantile(&h, 99)
	return l
}

// quantile gives the end of the bucket that the given percentage lies in.
func quantile(h *p9server.Histogram, percent uint64) float64 {
	rank := (h.Count()*percent + 99) / 100
	for i, n := range h.Buckets {
		if rank <= n {
			return p9server.LatencyBound(i).Seconds()
		}
		rank -= n
	}
	return p9server.LatencyBound(p9server.LatencyBuckets - 1).Seconds()
}
