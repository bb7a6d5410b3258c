package histogram_test

import (
	"sync"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/histogram"
)

func TestObserve(t *testing.T) {
	for _, test := range []struct {
		d     time.Duration
		bound float64 // the first that holds it; 0: none does
	}{
		{0, 1e-6}, {time.Microsecond, 1e-6}, {time.Microsecond + 1, 2e-6}, {-time.Second, 1e-6},
		{20 * time.Millisecond, 0.025}, {30 * time.Second, 30}, {time.Hour, 0},
	} {
		var h histogram.Histogram
		h.Observe(test.d, 3)
		s := h.Snapshot()
		if s.Count != 3 || s.Seconds != 3*test.d.Seconds() {
			t.Errorf("%v three times: %d, %v s", test.d, s.Count, s.Seconds)
		}
		for bound, n := range s.Buckets {
			want := uint64(0)
			if test.bound != 0 && bound >= test.bound {
				want = 3
			}
			if n != want {
				t.Errorf("%v three times: %d of at most %v s, want %d", test.d, n, bound, want)
			}
		}
	}
}

func TestObserveAtOnce(t *testing.T) {
	var h histogram.Histogram
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				h.Observe(time.Millisecond, 1)
			}
		})
	}
	wg.Wait()
	if s := h.Snapshot(); s.Count != 4000 || s.Buckets[0.001] != 4000 || s.Seconds < 3.99 || s.Seconds > 4.01 {
		t.Errorf("4000 milliseconds: %+v", s)
	}
}

func BenchmarkObserve(b *testing.B) {
	var h histogram.Histogram
	b.ReportAllocs()
	for b.Loop() {
		h.Observe(time.Millisecond, 1)
	}
}
