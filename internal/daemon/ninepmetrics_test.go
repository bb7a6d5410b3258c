package daemon

import (
	"testing"
	"time"

	"github.com/nineply/nineply/p9server"
	"github.com/prometheus/client_golang/prometheus"
)

func TestNinepCollector(t *testing.T) {
	snap := p9server.Snapshot{
		LocalReads: 5, Misses: 2, BytesRead: 10, BytesWritten: 20, Timeouts: 1, Flushed: 3, Violations: 4, Rejected: 6, Outstanding: 7,
		Waited: map[string]p9server.Histogram{"read": {Sum: 3 * time.Second}},
	}
	h := snap.Waited["read"]
	h.Buckets[0], h.Buckets[2], h.Buckets[p9server.LatencyBuckets-1] = 1, 2, 4
	snap.Waited["read"] = h
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(newNinepCollector(func() p9server.Snapshot { return snap }))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, f := range families {
		names[f.GetName()] = true
		switch f.GetName() {
		case "nineply_9p_reads_total":
			for _, m := range f.GetMetric() {
				want := map[string]float64{"local": 5, "missed": 2}[m.GetLabel()[0].GetValue()]
				if got := m.GetCounter().GetValue(); got != want {
					t.Errorf("%v: %g reads, want %g", m.GetLabel(), got, want)
				}
			}
		case "nineply_9p_wait_seconds":
			got := f.GetMetric()[0].GetHistogram()
			if got.GetSampleCount() != 7 || got.GetSampleSum() != 3 || len(got.GetBucket()) != p9server.LatencyBuckets-1 {
				t.Errorf("histogram: %v", got)
			}
			for _, b := range got.GetBucket() {
				want := uint64(3)
				if b.GetUpperBound() < 1e-6 {
					want = 1
				}
				if b.GetCumulativeCount() != want {
					t.Errorf("up to %g: %d, want %d", b.GetUpperBound(), b.GetCumulativeCount(), want)
				}
			}
		}
	}
	if len(names) != 8 || !names["nineply_9p_wait_seconds"] || !names["nineply_9p_reads_total"] {
		t.Errorf("metrics: %v", names)
	}
}
