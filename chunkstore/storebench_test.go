package chunkstore_test

import "testing"

// The benchmarks here are of the store as a whole. They say how it fares, not how
// fast it is, and fail if it does not hold what it promises.

// BenchmarkStorePowerCuts cuts the power at every change of the histories of
// TestPowerCutInHistory.
func BenchmarkStorePowerCuts(b *testing.B) {
	var n tally
	for b.Loop() {
		n = tally{}
		for _, limit := range []int64{0, 300 << 10} {
			one := cutHistory(b, limit, 1<<30)
			n.points += one.points
			n.outcomes += one.outcomes
			n.right += one.right
		}
	}
	b.ReportMetric(float64(n.points), "points")
	b.ReportMetric(1000, "points-min")
	b.ReportMetric(float64(n.outcomes), "outcomes")
	b.ReportMetric(float64(n.right), "chunks-right")
	b.ReportMetric(0, "chunks-lost-or-wrong") // else it has failed
	b.ReportMetric(0, "chunks-lost-or-wrong-max")
}

// BenchmarkStoreKills kills a process that puts chunks and demands that all it has
// acknowledged is there.
func BenchmarkStoreKills(b *testing.B) {
	const bar = 500
	kills := 0
	for b.Loop() {
		kills = killWhilePutting(b, b.TempDir(), bar)
	}
	b.ReportMetric(float64(kills), "kills")
	b.ReportMetric(bar, "kills-min")
	b.ReportMetric(0, "chunks-lost-or-wrong") // else it has failed
	b.ReportMetric(0, "chunks-lost-or-wrong-max")
}

// BenchmarkStoreHits runs the traces of TestHitRatio at full length. The bar is the
// plain LRU's.
func BenchmarkStoreHits(b *testing.B) {
	const keys, reads = 5000, 60000
	for name, part := range map[string]int{"capacity=10pct": 10, "capacity=4pct": 25} {
		for sweeps, tr := range map[string]trace{
			"none":  {keys: keys, reads: reads},
			"swept": {keys: keys, reads: reads, sweep: keys / 5, sweepEvery: 2 * keys},
		} {
			b.Run(name+"/sweeps="+sweeps, func(b *testing.B) {
				var all, before, after float64
				for b.Loop() {
					all, before, after = tr.outcomeOf(newStoreOfKeys(b, keys/part))
				}
				lru, lruBefore, lruAfter := tr.outcomeOf(newLRU(keys / part))
				two, twoBefore, twoAfter := tr.outcomeOf(newTwoQueues(keys / part))
				b.ReportMetric(100*all, "%-hits")
				b.ReportMetric(100*lru, "%-hits-min")
				b.ReportMetric(100*lru, "%-hits-LRU")
				b.ReportMetric(100*two, "%-hits-2Q")
				if tr.sweep > 0 {
					b.ReportMetric(100*before, "%-before-sweep")
					b.ReportMetric(100*after, "%-after-sweep")
					b.ReportMetric(100*lruBefore, "%-before-sweep-LRU")
					b.ReportMetric(100*lruAfter, "%-after-sweep-LRU")
					b.ReportMetric(100*twoBefore, "%-before-sweep-2Q")
					b.ReportMetric(100*twoAfter, "%-after-sweep-2Q")
				}
			})
		}
	}
}
