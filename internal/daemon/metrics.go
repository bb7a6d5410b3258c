package daemon

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"
)

// metric describes one family of counters that the parts keep for themselves.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func newMetric(name, help string, kind prometheus.ValueType, labels ...string) metric {
	return metric{prometheus.NewDesc("nineply_"+name, help, labels, nil), kind}
}

// collector reads the parts' counters when it is asked, so that nothing on the
// way of a read knows of Prometheus. No metric is labelled by layer or image:
// those are unbounded, and "nineply status --json" has them.
type collector struct {
	s *service

	fetchRequests, fetchBytes, tocBytes, wholeBytes  metric
	chunkReads, unverified, notStored                metric
	cacheBytes, cacheLimit, cacheChunks, evicted     metric
	cacheProven, cachePinned                         metric
	messages, errors, payload, sessions, fids, trees metric

	profileRuns, profileStarts, profileInherited, profileRequests, profileBytes, profileUnread, profileMisses metric
}

func newCollector(s *service) *collector {
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	return &collector{
		s:             s,
		fetchRequests: newMetric("fetch_requests_total", "Range requests for chunks.", counter, "priority"),
		fetchBytes:    newMetric("fetch_bytes_total", "Blob bytes fetched for chunks.", counter, "priority"),
		tocBytes:      newMetric("toc_bytes_total", "Blob bytes fetched for footers and tables of contents.", counter),
		wholeBytes:    newMetric("whole_layer_bytes_total", "Blob bytes of layers that were read whole.", counter),
		chunkReads:    newMetric("chunk_reads_total", "Chunk reads, by whether the cache had the chunk.", counter, "result"),
		unverified:    newMetric("verify_failures_total", "Bytes that failed verification: when they were fetched (source), or when they were read from the cache (cache).", counter, "kind"),
		notStored:     newMetric("chunks_not_stored_total", "Chunks that were served but could not be cached.", counter),
		cacheBytes:    newMetric("cache_bytes", "Bytes that the cache occupies.", gauge),
		cacheLimit:    newMetric("cache_limit_bytes", "Most bytes that the cache may occupy; 0 for no limit.", gauge),
		cacheChunks:   newMetric("cache_chunks", "Chunks in the cache.", gauge),
		cacheProven:   newMetric("cache_proven_bytes", "Bytes of chunks that were read again after they were cached, about.", gauge),
		cachePinned:   newMetric("cache_pinned_chunks", "Chunks of pinned images, whether they are in the cache or not.", gauge),
		evicted:       newMetric("cache_evicted_bytes_total", "Bytes evicted from the cache.", counter),
		messages:      newMetric("9p_messages_total", "9P requests, by type.", counter, "type"),
		errors:        newMetric("9p_errors_total", "9P requests answered with an error, by errno.", counter, "errno"),
		payload:       newMetric("9p_payload_bytes_total", "File bytes sent over 9P.", counter),
		sessions:      newMetric("9p_sessions", "9P connections now.", gauge),
		fids:          newMetric("9p_fids", "9P fids now.", gauge),
		trees:         newMetric("trees", "Merged trees open now.", gauge),

		profileRuns:      newMetric("profile_runs_total", "Starts of images that were recorded.", counter),
		profileStarts:    newMetric("profile_applied_total", "Attaches for which a profile had something fetched.", counter),
		profileInherited: newMetric("profile_inherited_total", "Those of nineply_profile_applied_total whose profile was that of another version of the image.", counter),
		profileRequests:  newMetric("profile_requests_total", "Range requests that profiles asked for.", counter),
		profileBytes:     newMetric("profile_bytes_total", "Blob bytes that profiles asked for.", counter),
		profileUnread:    newMetric("profile_unread_bytes_total", "Blob bytes that profiles asked for and that the start did not read.", counter),
		profileMisses:    newMetric("profile_misses_total", "Reads that had to wait although a profile was applied: for chunks that were still on their way (late), or that it had not asked for (unknown).", counter, "chunk"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	send := func(m metric, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
	}
	f := c.s.fetchStatus()
	for prio, n := range f.Requests {
		send(c.fetchRequests, float64(n), prio)
	}
	for prio, n := range f.Bytes {
		send(c.fetchBytes, float64(n), prio)
	}
	send(c.tocBytes, float64(f.TOC))
	send(c.wholeBytes, float64(f.Whole))
	send(c.chunkReads, float64(f.Hits), "hit")
	send(c.chunkReads, float64(f.Misses), "miss")
	send(c.unverified, float64(f.Corrupt), "source")
	send(c.notStored, float64(c.s.sched.Stats().NotStored))
	cache := c.s.cacheStatus()
	send(c.unverified, float64(cache.Corrupt), "cache")
	send(c.cacheBytes, float64(cache.Bytes))
	send(c.cacheLimit, float64(cache.MaxBytes))
	send(c.cacheChunks, float64(cache.Chunks))
	send(c.evicted, float64(cache.Evicted))
	store := c.s.store.Stats()
	send(c.cacheProven, float64(store.ProvenBytes))
	send(c.cachePinned, float64(store.Pinned))
	p := c.s.server.Stats()
	for name, n := range p.Messages {
		send(c.messages, float64(n), name)
	}
	for errno, n := range p.Errors {
		send(c.errors, float64(n), unix.ErrnoName(errno))
	}
	send(c.payload, float64(p.Payload))
	send(c.sessions, float64(p.Conns))
	send(c.fids, float64(p.FIDs))
	send(c.trees, float64(len(c.s.catalog.Trees())))
	prof := c.s.catalog.ProfileStats()
	send(c.profileRuns, float64(prof.Runs))
	send(c.profileStarts, float64(prof.Applied))
	send(c.profileInherited, float64(prof.Inherited))
	send(c.profileRequests, float64(prof.Requests))
	send(c.profileBytes, float64(prof.Bytes))
	send(c.profileUnread, float64(prof.Unread))
	send(c.profileMisses, float64(prof.Late), "late")
	send(c.profileMisses, float64(prof.Missed), "unknown")
}

// metricsHandler serves the metrics of s.
func metricsHandler(s *service) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(newCollector(s), newReadCollector(s), newNinepCollector(s.server.Stats))
	reg.MustRegister(newFillCollector(s.catalog.FillStats))
	if s.traffic != nil {
		reg.MustRegister(newSourceCollector(s.traffic))
	}
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}
