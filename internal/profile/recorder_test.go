package profile_test

import (
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/internal/profile"
)

// clock is moved by hand.
type clock struct{ at time.Time }

func (c *clock) now() time.Time          { return c.at }
func (c *clock) advance(d time.Duration) { c.at = c.at.Add(d) }

func TestRecorderNotesFirstReads(t *testing.T) {
	c := &clock{at: time.Unix(1000, 0)}
	r := profile.NewRecorderAt([]int{70, 0, 3}, profile.Limits{}, c.now)
	if got := r.Left(); got != 10*time.Second {
		t.Errorf("before the first read: %v left", got)
	}
	c.advance(time.Hour) // time counts from the first read on
	r.Touch(2, 1)
	c.advance(2 * time.Millisecond)
	r.Touch(0, 69)
	r.Touch(2, 1)
	for _, outside := range []struct {
		layer int
		chunk uint32
	}{{-1, 0}, {3, 0}, {1, 0}, {0, 128}} {
		r.Touch(outside.layer, outside.chunk)
	}
	want := []profile.Touch{{Layer: 2, Chunk: 1}, {Layer: 0, Chunk: 69, At: 2 * time.Millisecond}}
	if diff := cmp.Diff(want, r.Stop()); diff != "" {
		t.Errorf("touches (-want +got):\n%s", diff)
	}
	if !r.Touched(0, 69) || r.Touched(0, 68) || r.Touched(9, 0) {
		t.Error("Touched is wrong")
	}
	r.Touch(0, 1)
	if got := len(r.Stop()); got != 2 {
		t.Errorf("%d touches after the end, want 2", got)
	}
}

func TestRecorderEnds(t *testing.T) {
	tests := []struct {
		name   string
		limits profile.Limits
		steps  []time.Duration // before each read
		want   int             // reads noted
		left   time.Duration   // after the last
	}{
		{"idle", profile.Limits{Idle: time.Second}, []time.Duration{0, 900e6, 900e6, 1e9, 0}, 3, 0},
		{"total", profile.Limits{Idle: time.Hour, Total: 3 * time.Second}, []time.Duration{0, 1e9, 1e9, 1e9, 0}, 3, 0},
		{"entries", profile.Limits{Entries: 2}, []time.Duration{0, 0, 0}, 2, 0},
		{"goes on", profile.Limits{Idle: 2 * time.Second, Total: 3 * time.Second}, []time.Duration{0, 15e8}, 2, 1500 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &clock{at: time.Unix(1000, 0)}
			r := profile.NewRecorderAt([]int{100}, tt.limits, c.now)
			for i, d := range tt.steps {
				c.advance(d)
				r.Touch(0, uint32(i))
			}
			if got := r.Left(); got != tt.left {
				t.Errorf("%v left, want %v", got, tt.left)
			}
			if got := len(r.Stop()); got != tt.want {
				t.Errorf("%d reads noted, want %d", got, tt.want)
			}
		})
	}
}

func TestRecorderInParallel(t *testing.T) {
	const n = 5000
	r := profile.NewRecorder([]int{n}, profile.Limits{})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range uint32(n) {
				r.Touch(0, (i*7+uint32(g))%n)
			}
		})
	}
	wg.Wait()
	seen := map[uint32]bool{}
	for _, tch := range r.Stop() {
		if seen[tch.Chunk] {
			t.Fatalf("chunk %d noted twice", tch.Chunk)
		}
		seen[tch.Chunk] = true
	}
	if len(seen) != n {
		t.Errorf("%d chunks noted, want %d", len(seen), n)
	}
}

func TestTouchDoesNotAllocate(t *testing.T) {
	r := profile.NewRecorder([]int{1000}, profile.Limits{})
	r.Touch(0, 7)
	if got := testing.AllocsPerRun(100, func() { r.Touch(0, 7) }); got != 0 {
		t.Errorf("%v allocations for a chunk that was read before", got)
	}
}

// BenchmarkTouch is what recording costs a read of a chunk that was read before.
func BenchmarkTouch(b *testing.B) {
	r := profile.NewRecorder([]int{1 << 20}, profile.Limits{})
	for i := range uint32(1 << 10) {
		r.Touch(0, i)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := uint32(0); pb.Next(); i++ {
			r.Touch(0, i&(1<<10-1))
		}
	})
}

// BenchmarkFirstTouch is what recording costs the first read of a chunk.
func BenchmarkFirstTouch(b *testing.B) {
	b.ReportAllocs()
	var r *profile.Recorder
	for i := 0; b.Loop(); i++ {
		if i%profile.MaxEntries == 0 {
			r = profile.NewRecorder([]int{profile.MaxEntries}, profile.Limits{})
		}
		r.Touch(0, uint32(i%profile.MaxEntries))
	}
}
