package fetch_test

import (
	"context"
	"testing"

	"github.com/nineply/nineply/internal/fetch"
)

// TestPrefetchChunks asks for chunks that will be read, and reads them while they
// are on their way and when they are there.
func TestPrefetchChunks(t *testing.T) {
	for _, tt := range []struct {
		name string
		wait bool // until they are there
	}{{"under way", false}, {"there", true}} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, sizes(60, 20_000)...)
			f.blob.gate = make(chan struct{})
			s, _ := open(t, fetch.Options{})
			l := s.NewLayer("layer", f.blob, f.chunks)
			first, second := []uint32{3, 4, 5, 9}, []uint32{11, 12, 13, 14}
			l.PrefetchChunks(first)
			l.PrefetchChunks(append([]uint32{4, 9}, second...)) // some of them are on their way
			l.PrefetchChunks(first)                             // all
			l.PrefetchChunks([]uint32{9999})
			if tt.wait {
				close(f.blob.gate)
				until(func() bool { return l.Has(9) && l.Has(14) })
			}
			done := make(chan error, 8)
			for _, i := range append(first, second...) {
				go func() { done <- f.read(t.Context(), l, int(i)) }()
			}
			if !tt.wait {
				until(func() bool { return len(f.blob.requests()) == 2 })
				close(f.blob.gate)
			}
			for range 8 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			f.checkRequests(t, [][2]uint32{{3, 9}, {11, 14}})
			if l.Has(7) || l.Has(10) || l.Has(15) || l.Has(9999) {
				t.Error("chunks that nobody asked for are local")
			}
		})
	}
}

// checkRequests compares the requests with those from the first chunk to the last
// of each pair.
func (f *fixture) checkRequests(t *testing.T, want [][2]uint32) {
	t.Helper()
	got := map[[2]int64]bool{}
	for _, r := range f.blob.requests() {
		got[r] = true
	}
	for _, w := range want {
		first, last := f.chunks[w[0]], f.chunks[w[1]]
		r := [2]int64{first.Member, last.Member + last.MemberSize - first.Member}
		if !got[r] {
			t.Errorf("no request for chunks %d to %d", w[0], w[1])
		}
		delete(got, r)
	}
	if len(got) > 0 {
		t.Errorf("%d more requests: %v", len(got), got)
	}
}

// unread is a layer that nobody may read.
type unread struct{ *testing.T }

func (u unread) StreamChunks(context.Context, func(uint32, []byte) error) error {
	u.Error("the layer is read")
	return nil
}

// TestPrefetchChunksOfStream has a layer that can only be read whole.
func TestPrefetchChunksOfStream(t *testing.T) {
	f := newFixture(t, sizes(3, 20_000)...)
	s, _ := open(t, fetch.Options{})
	l := s.NewStreamLayer("layer", unread{t}, f.chunks)
	l.PrefetchChunks([]uint32{0, 1})
	if l.Ranged() || !s.NewLayer("layer", f.blob, f.chunks).Ranged() {
		t.Error("Ranged is wrong")
	}
	if st := s.Stats(); st.Queued+st.Active > 0 {
		t.Errorf("%d requests", st.Queued+st.Active)
	}
}
