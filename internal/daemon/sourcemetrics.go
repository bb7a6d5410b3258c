package daemon

import (
	"github.com/nineply/nineply/internal/source"
	"github.com/prometheus/client_golang/prometheus"
)

// sourceCollector reports the traffic with hosts that blobs come from. Hosts are
// few: those beyond a bound are counted together.
type sourceCollector struct {
	traffic func() map[string]source.HostStats

	requests, bytes, sent, failures, retries, hedges, roundTrip, rate metric
}

func newSourceCollector(traffic func() map[string]source.HostStats) *sourceCollector {
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	return &sourceCollector{
		traffic:   traffic,
		requests:  newMetric("source_requests_total", "Requests to a host, of every kind, redirects followed included.", counter, "host"),
		bytes:     newMetric("source_bytes_total", "Bytes of bodies received from a host.", counter, "host"),
		sent:      newMetric("source_sent_bytes_total", "Bytes of bodies sent to a host.", counter, "host"),
		failures:  newMetric("source_failures_total", "Requests to a host that gave no usable answer.", counter, "host"),
		retries:   newMetric("source_retries_total", "Requests to a host made again after a failure.", counter, "host"),
		hedges:    newMetric("source_second_requests_total", "Requests to a host made because the first took long.", counter, "host"),
		roundTrip: newMetric("source_round_trip_seconds", "How long answers of a host take to begin, at the shortest.", gauge, "host"),
		rate:      newMetric("source_bytes_per_second", "How fast bytes come from a host.", gauge, "host"),
	}
}

// Describe implements prometheus.Collector.
func (c *sourceCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range []metric{c.requests, c.bytes, c.sent, c.failures, c.retries, c.hedges, c.roundTrip, c.rate} {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *sourceCollector) Collect(ch chan<- prometheus.Metric) {
	for host, st := range c.traffic() {
		send := func(m metric, v float64) {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, host)
		}
		send(c.requests, float64(st.Requests))
		send(c.bytes, float64(st.Bytes))
		send(c.sent, float64(st.BytesSent))
		send(c.failures, float64(st.Failures))
		send(c.retries, float64(st.Retries))
		send(c.hedges, float64(st.Hedges))
		if st.Cost != (source.Cost{}) {
			send(c.roundTrip, st.Cost.RoundTrip.Seconds())
			send(c.rate, st.Cost.BytesPerSecond)
		}
	}
}
