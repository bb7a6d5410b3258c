package daemon

import (
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/histogram"
	"github.com/nineply/nineply/internal/image"
	"github.com/prometheus/client_golang/prometheus"
)

// newHistogram describes a family of histograms. What counts them is a
// [histogram.Histogram].
func newHistogram(name, help string, labels ...string) *prometheus.Desc {
	return newMetric(name, help, prometheus.UntypedValue, labels...).desc
}

// readCollector reports how long reads and fetches take, how reads fail, and what
// is under way.
type readCollector struct {
	reads func() image.ReadStats
	fetch func() fetch.Stats

	readSeconds, fetchSeconds  *prometheus.Desc
	errors, inflight, queuedBy metric
}

func newReadCollector(s *service) *readCollector {
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	return &readCollector{
		reads: s.catalog.ReadStats, fetch: s.sched.Stats,
		readSeconds:  newHistogram("read_seconds", "How long reads of files took, by result: hit, answered by the cache (one of 64 is timed, and counts for all of them); miss, something had to be fetched or waited for; error.", "result"),
		fetchSeconds: newHistogram("fetch_seconds", "How long a request for chunks took, from being sent to the end of what it brought, by priority.", "priority"),
		errors:       newMetric("errors_total", "Reads that failed, by the kind of error.", counter, "kind"),
		inflight:     newMetric("inflight", "Requests for chunks that are running now, by priority.", gauge, "priority"),
		queuedBy:     newMetric("queued", "Requests for chunks that wait for their turn now, by priority.", gauge, "priority"),
	}
}

// Describe implements prometheus.Collector.
func (c *readCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.readSeconds, c.fetchSeconds, c.errors.desc, c.inflight.desc, c.queuedBy.desc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *readCollector) Collect(ch chan<- prometheus.Metric) {
	times := func(d *prometheus.Desc, s histogram.Snapshot, label string) {
		ch <- prometheus.MustNewConstHistogram(d, s.Count, s.Seconds, s.Buckets, label)
	}
	value := func(m metric, v float64, label string) {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, label)
	}
	r, f := c.reads(), c.fetch()
	times(c.readSeconds, r.Hit, "hit")
	times(c.readSeconds, r.Miss, "miss")
	times(c.readSeconds, r.Error, "error")
	for kind, n := range r.Errors {
		value(c.errors, float64(n), kind)
	}
	for priority, s := range f.Took {
		times(c.fetchSeconds, s, priority)
		value(c.inflight, float64(f.ActiveBy[priority]), priority)
		value(c.queuedBy, float64(f.QueuedBy[priority]), priority)
	}
}
