package fetch_test

import (
	"testing"

	"github.com/nineply/nineply/internal/fetch"
)

// TestReaderJoinsStreamAhead reads a little ahead of a stream that runs, and far ahead.
func TestReaderJoinsStreamAhead(t *testing.T) {
	f := newFixture(t, sizes(60, 20_000)...)
	f.blob.gate = make(chan struct{})
	s, _ := open(t, fetch.Options{JoinAhead: 100_000, MinRun: 1, Gap: 1})
	l := s.NewLayer("layer", f.blob, f.chunks)
	l.Prefetch(f.chunks[58].Member)
	until(func() bool { return len(f.blob.requests()) == 1 })
	done := make(chan error, 3)
	for n, i := range []int{1, 3, 50} {
		go func() { done <- f.read(t.Context(), l, i) }()
		until(func() bool { return s.Stats().Misses == int64(n)+1 })
	}
	until(func() bool { return len(f.blob.requests()) == 2 })
	close(f.blob.gate)
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	until(func() bool { st := s.Stats(); return st.Queued+st.Active == 0 })
	f.checkRequests(t, [][2]uint32{{0, 57}, {50, 50}})
	if st := s.Stats(); st.Requests["demand"] != 1 || st.Requests["prefetch"] != 1 {
		t.Errorf("requests %v", st.Requests)
	}
}

// TestReadAheadGrows reads a file from its start to its end, each part when nothing is
// on its way any more.
func TestReadAheadGrows(t *testing.T) {
	const limit = 2 << 20
	f := newFixture(t, 12<<20)
	s, _ := open(t, fetch.Options{ReadAhead: limit})
	l := s.NewLayer("layer", f.blob, f.chunks)
	longest, grown := int64(0), 0
	seen := 0
	for i := range f.chunks {
		if err := f.read(t.Context(), l, i); err != nil {
			t.Fatal(err)
		}
		until(func() bool { st := s.Stats(); return st.Queued+st.Active == 0 })
		for _, r := range f.blob.requests()[seen:] {
			seen++
			if r[1] > longest {
				longest = r[1]
				grown++
			}
		}
	}
	member := f.chunks[0].MemberSize
	if longest < limit-2*member || longest > limit+2*member || grown < 4 {
		t.Errorf("%d bytes at a time at most, %d times more than before; %d may be", longest, grown, limit)
	}
}

// TestTrafficOfLayers has the traffic counted for the layer that it is for.
func TestTrafficOfLayers(t *testing.T) {
	f, g := newFixture(t, sizes(4, 50_000)...), newFixture(t, sizes(3, 30_000)...)
	s, _ := open(t, fetch.Options{ReadAhead: -1, MinRun: 1, Gap: 1})
	one, other := s.NewLayer("one", f.blob, f.chunks), s.NewLayer("other", g.blob, g.chunks)
	for i := range 2 {
		if err := f.read(t.Context(), one, i); err != nil {
			t.Fatal(err)
		}
	}
	other.PrefetchChunks([]uint32{1})
	until(func() bool { return other.Has(1) })
	until(func() bool { st := s.Stats(); return st.Queued+st.Active == 0 })
	want := f.chunks[0].MemberSize + f.chunks[1].MemberSize
	if tr := one.Traffic(); tr.Requests["demand"] != 2 || tr.Requests["prefetch"] != 0 || tr.Bytes["demand"] != want || one.Fetched() != want {
		t.Errorf("one: %+v, want %d bytes", tr, want)
	}
	if tr := other.Traffic(); tr.Requests["demand"] != 0 || tr.Requests["prefetch"] != 1 || tr.Bytes["prefetch"] != g.chunks[1].MemberSize {
		t.Errorf("other: %+v", tr)
	}
	st := s.Stats()
	if st.Took["demand"].Count != 2 || st.Took["prefetch"].Count != 1 || st.ActiveBy["demand"] != 0 || st.QueuedBy["prefetch"] != 0 {
		t.Errorf("all: %+v", st)
	}
}
