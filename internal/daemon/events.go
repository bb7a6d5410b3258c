package daemon

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/image"
	"github.com/prometheus/client_golang/prometheus"
)

// maxEvents is how many events are remembered.
const maxEvents = 1000

// fillUpTo is how full the cache may become by what nobody has asked for, in percent
// of its limit.
const fillUpTo = 80

// fill says how layers are filled in the background, as configured.
func fill(c config.Fetch, store *chunkstore.Store, events *eventLog) image.Fill {
	return image.Fill{
		Enabled: c.Background, Delay: time.Duration(c.BackgroundDelay), Share: c.BackgroundShare, Rate: int64(c.BackgroundRate),
		Room: func(bytes int64) bool {
			st := store.Stats()
			return st.MaxBytes == 0 || st.Bytes+bytes <= st.MaxBytes/100*fillUpTo
		},
		Event: func(e image.Event) {
			events.add(control.Event{Time: e.Time, Kind: e.Kind, Layer: e.Layer, Text: e.Text})
		},
	}
}

// eventLog remembers the last events. It is safe for concurrent use.
type eventLog struct {
	mu    sync.Mutex
	list  []control.Event
	last  uint64
	added chan struct{} // closed with the next event
}

func newEventLog() *eventLog { return &eventLog{added: make(chan struct{})} }

func (l *eventLog) add(e control.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	e.Number = l.last
	if len(l.list) == maxEvents {
		l.list = slices.Delete(l.list, 0, maxEvents/10) // not one by one
	}
	l.list = append(l.list, e)
	close(l.added)
	l.added = make(chan struct{})
}

// after gives the events behind a number, and what is closed with the next one.
func (l *eventLog) after(number uint64) ([]control.Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := len(l.list)
	for i > 0 && l.list[i-1].Number > number {
		i--
	}
	return slices.Clone(l.list[i:]), l.added
}

// Events implements control.Service.
func (s *service) Events(ctx context.Context, after uint64, wait time.Duration) ([]control.Event, error) {
	list, added := s.events.after(after)
	if len(list) > 0 || wait <= 0 {
		return list, nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-added:
		list, _ = s.events.after(after)
	case <-timer.C:
	case <-ctx.Done():
	}
	return list, nil
}

// fillCollector reports what the background does.
type fillCollector struct {
	stats                           func() image.FillStats
	bytes, kept, verified, poisoned metric
}

func newFillCollector(stats func() image.FillStats) *fillCollector {
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	return &fillCollector{
		stats:    stats,
		bytes:    newMetric("background_bytes_total", "Blob bytes read in the background, to fill the cache and to verify layers.", counter),
		kept:     newMetric("background_kept_bytes_total", "Bytes of chunks that the cache got from the background.", counter),
		verified: newMetric("verified_layers_total", "Layers that were read to their end and are what was claimed.", counter),
		poisoned: newMetric("poisoned_layers", "Layers that are known not to be what was claimed, and are not served.", gauge),
	}
}

// Describe implements prometheus.Collector.
func (c *fillCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c *fillCollector) Collect(ch chan<- prometheus.Metric) {
	st := c.stats()
	for m, v := range map[*metric]int64{&c.bytes: st.Bytes, &c.kept: st.Kept, &c.verified: st.Verified, &c.poisoned: st.Poisoned} {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(v))
	}
}
