package daemon

import (
	"strings"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/source"
	"github.com/prometheus/client_golang/prometheus"
)

func TestSourceMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(newSourceCollector(func() map[string]source.HostStats {
		return map[string]source.HostStats{
			"near.example":     {Requests: 7, Bytes: 1000, Hedges: 2, Cost: source.Cost{RoundTrip: 20 * time.Millisecond, BytesPerSecond: 5e7}},
			"far.example:5000": {Requests: 1, Failures: 1},
		}
	}))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			got[strings.TrimPrefix(f.GetName(), "nineply_source_")+" "+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"requests_total near.example": 7, "requests_total far.example:5000": 1, "bytes_total near.example": 1000,
		"second_requests_total near.example": 2, "failures_total far.example:5000": 1,
		"round_trip_seconds near.example": 0.02, "bytes_per_second near.example": 5e7,
	} {
		if got[name] != want {
			t.Errorf("%s: %v, want %v", name, got[name], want)
		}
	}
	if _, ok := got["round_trip_seconds far.example:5000"]; ok {
		t.Error("a round trip that nobody knows")
	}
}
