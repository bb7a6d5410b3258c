package daemon

import (
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/p9server"
)

func TestStat(t *testing.T) {
	h := p9server.Histogram{Sum: 500 * time.Microsecond}
	h.Buckets[0], h.Buckets[1], h.Buckets[3] = 50, 48, 2 // up to 250 ns, 500 ns, 2 µs
	since := time.Unix(1000, 0)
	got := statOf(p9server.Snapshot{
		Messages: map[string]uint64{"read": 7, "walk": 9, "getattr": 7, "mkdir": 0},
		Errors:   map[syscall.Errno]uint64{syscall.ENOENT: 3},
		AtOnce:   map[string]p9server.Histogram{"walk": h}, Waited: map[string]p9server.Histogram{},
		BytesRead: 1, BytesWritten: 2, Payload: 3, LocalReads: 4, Misses: 5, Timeouts: 6, Flushed: 8,
	}, []p9server.Session{{Aname: "chain/x", Since: since, Messages: 4, FIDs: 2, Outstanding: 1, Misses: 5}})
	want := control.Stat{
		Messages: []control.MessageStat{
			{Type: "walk", Count: 9, AtOnce: control.Latency{Count: 100, Mean: 5e-6, P50: 250e-9, P99: 2e-6}},
			{Type: "getattr", Count: 7},
			{Type: "read", Count: 7},
		},
		Errors:  map[string]uint64{"ENOENT": 3},
		BytesIn: 1, BytesOut: 2, Payload: 3, LocalReads: 4, Misses: 5, Timeouts: 6, Flushed: 8,
		Sessions: []control.SessionStat{{Aname: "chain/x", Since: since, Messages: 4, FIDs: 2, Waiting: 1, Misses: 5}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("statistics (-want +got):\n%s", diff)
	}
}
