package daemon

import (
	"github.com/nineply/nineply/p9server"
	"github.com/prometheus/client_golang/prometheus"
)

// ninepCollector reports what the 9P server counts besides messages.
type ninepCollector struct {
	stats func() p9server.Snapshot

	reads, bytes, timeouts, flushed, violations, rejected, outstanding metric

	atOnce, waited *prometheus.Desc
}

func newNinepCollector(stats func() p9server.Snapshot) *ninepCollector {
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	return &ninepCollector{
		stats:       stats,
		reads:       newMetric("9p_reads_total", "Treads of file content, by whether the bytes were at hand (local) or had to be waited for (missed).", counter, "result"),
		bytes:       newMetric("9p_bytes_total", "Bytes over 9P connections, messages and all.", counter, "direction"),
		timeouts:    newMetric("9p_timeouts_total", "9P requests answered EIO because their time was up.", counter),
		flushed:     newMetric("9p_flushed_total", "9P requests that the client gave up while they waited.", counter),
		violations:  newMetric("9p_violations_total", "9P connections closed for breaking the protocol.", counter),
		rejected:    newMetric("9p_rejected_total", "9P connections closed because there were too many.", counter),
		outstanding: newMetric("9p_outstanding", "9P requests that wait now.", gauge),
		atOnce:      newHistogram("9p_answer_seconds", "How long 9P requests took that were answered at once, by type; one of 64 is timed, and counted.", "type"),
		waited:      newHistogram("9p_wait_seconds", "How long 9P requests took that had to wait, by type: Treads of bytes that were not at hand, and Tattach.", "type"),
	}
}

// Describe implements prometheus.Collector.
func (c *ninepCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range []metric{c.reads, c.bytes, c.timeouts, c.flushed, c.violations, c.rejected, c.outstanding} {
		ch <- m.desc
	}
	ch <- c.atOnce
	ch <- c.waited
}

// Collect implements prometheus.Collector.
func (c *ninepCollector) Collect(ch chan<- prometheus.Metric) {
	send := func(m metric, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
	}
	s := c.stats()
	send(c.reads, float64(s.LocalReads), "local")
	send(c.reads, float64(s.Misses), "missed")
	send(c.bytes, float64(s.BytesRead), "in")
	send(c.bytes, float64(s.BytesWritten), "out")
	send(c.timeouts, float64(s.Timeouts))
	send(c.flushed, float64(s.Flushed))
	send(c.violations, float64(s.Violations))
	send(c.rejected, float64(s.Rejected))
	send(c.outstanding, float64(s.Outstanding))
	for name, h := range s.AtOnce {
		ch <- constHistogram(c.atOnce, &h, name)
	}
	for name, h := range s.Waited {
		ch <- constHistogram(c.waited, &h, name)
	}
}

// constHistogram turns counts by bucket into those of everything up to its end.
func constHistogram(desc *prometheus.Desc, h *p9server.Histogram, labels ...string) prometheus.Metric {
	upTo := make(map[float64]uint64, p9server.LatencyBuckets)
	count := uint64(0)
	for i, n := range h.Buckets {
		count += n
		if i < p9server.LatencyBuckets-1 { // the last one has no end
			upTo[p9server.LatencyBound(i).Seconds()] = count
		}
	}
	return prometheus.MustNewConstHistogram(desc, count, h.Sum.Seconds(), upTo, labels...)
}
