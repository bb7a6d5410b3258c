package fetch_test

import (
	"bytes"
	"context"
	"io"
	"sync"
	"testing"

	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
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

// multiBlob can bring several ranges at once, unless fail says otherwise.
type multiBlob struct {
	*blob
	fail    func(body []byte) ([]byte, error)
	refuses bool

	mu    sync.Mutex
	multi [][]source.Span
}

func (b *multiBlob) OpenRanges(ctx context.Context, ranges []source.Span) (io.ReadCloser, error) {
	b.mu.Lock()
	b.multi = append(b.multi, ranges)
	b.mu.Unlock()
	select {
	case <-b.gate:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var body []byte
	for _, r := range ranges {
		body = append(body, b.data[r.Lo:r.Hi]...)
	}
	body, err := b.fail(body)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(body)), nil
}

func (b *multiBlob) TakesRanges() bool { return !b.refuses }

func (b *multiBlob) asked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.multi)
}

// TestPrefetchPieces asks for chunks in several places with one request.
func TestPrefetchPieces(t *testing.T) {
	for name, tt := range map[string]struct {
		fail   func(body []byte) ([]byte, error)
		single [][2]uint32 // requests of one range, from chunk to chunk
	}{
		"at once": {func(b []byte) ([]byte, error) { return b, nil }, nil},
		"unsupported": {func([]byte) ([]byte, error) { return nil, fserr.New(fserr.Unsupported, "", "", nil) },
			[][2]uint32{{3, 5}, {20, 22}, {40, 40}}},
		"breaks off": {func(b []byte) ([]byte, error) { return b[:len(b)*4/7+10], nil },
			[][2]uint32{{21, 22}, {40, 40}}},
		"wrong bytes": {func(b []byte) ([]byte, error) { b[len(b)-5000] ^= 1; return b, nil },
			[][2]uint32{{40, 40}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, sizes(60, 20_000)...)
			f.blob.gate = make(chan struct{})
			b := &multiBlob{blob: f.blob, fail: tt.fail}
			s, _ := open(t, fetch.Options{})
			l := s.NewLayer("layer", b, f.chunks)
			if n := l.PrefetchChunks([]uint32{20, 21, 22}, []uint32{40}, []uint32{3, 4, 5}); n != 1 {
				t.Errorf("%d requests queued", n)
			}
			wanted := []int{40, 3, 4, 5, 20, 21, 22}
			done := make(chan error, len(wanted))
			for _, i := range wanted {
				go func() { done <- f.read(t.Context(), l, i) }()
			}
			until(func() bool { return b.asked() == 1 })
			close(f.blob.gate)
			for range wanted {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			f.checkRequests(t, tt.single)
			if b.asked() != 1 || l.Has(6) || l.Has(30) {
				t.Errorf("%d requests for several ranges; chunks between: %v, %v", b.asked(), l.Has(6), l.Has(30))
			}
		})
	}
}
