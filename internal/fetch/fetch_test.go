package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEveryChunkIsRightAndFetchedOnce(t *testing.T) {
	f := newFixture(t, append(sizes(60, 9000), 300_000, 1, 64<<10)...)
	s, _ := open(t, fetch.Options{})
	l := s.NewLayer("layer", f.blob, f.chunks)
	for _, i := range rand.New(rand.NewPCG(3, 4)).Perm(len(f.chunks)) {
		if err := f.read(t.Context(), l, i); err != nil {
			t.Fatal(err)
		}
	}
	covered := map[int64]int{}
	for _, r := range f.blob.requests() {
		for _, c := range f.chunks {
			if c.Member >= r[0] && c.Member+c.MemberSize <= r[0]+r[1] {
				covered[c.Member]++
			}
		}
	}
	if total := l.Fetched(); total > f.blob.Size()*12/10 {
		t.Errorf("fetched %d bytes of a blob of %d", total, f.blob.Size())
	}
	if len(covered) != len(f.chunks) {
		t.Errorf("%d of %d members were asked for", len(covered), len(f.chunks))
	}
	before := len(f.blob.requests())
	again := s.NewLayer("again", f.blob, f.chunks)
	for i := range f.chunks {
		if err := f.read(t.Context(), again, i); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(f.blob.requests()); got != before {
		t.Errorf("%d more requests for what was cached", got-before)
	}
}

func TestConcurrentReadersShareOneFlight(t *testing.T) {
	f := newFixture(t, sizes(4, 50_000)...)
	f.blob.gate = make(chan struct{})
	s, _ := open(t, fetch.Options{MinRun: 1})
	a, b := s.NewLayer("a", f.blob, f.chunks), s.NewLayer("b", f.blob, f.chunks)
	var wg sync.WaitGroup
	errs := make(chan error, 40)
	for k := range 40 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs <- f.read(t.Context(), []*fetch.Layer{a, b}[k%2], 1)
		}()
	}
	close(f.blob.gate)
	wg.Wait()
	for range 40 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := len(f.blob.requests()); n != 1 {
		t.Errorf("%d requests for one chunk", n)
	}
}

func TestReaderWhoLeavesCancelsOnlyItself(t *testing.T) {
	f := newFixture(t, sizes(2, 50_000)...)
	f.blob.gate = make(chan struct{})
	s, _ := open(t, fetch.Options{MinRun: 1})
	l := s.NewLayer("layer", f.blob, f.chunks)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- f.read(ctx, l, 0) }()
	until(func() bool { return len(f.blob.requests()) > 0 })
	stays := make(chan error, 1)
	go func() { stays <- f.read(t.Context(), l, 0) }()
	until(func() bool { return s.Stats().Misses >= 2 })
	cancel()
	if err := <-left; !fserr.Is(err, fserr.Canceled) {
		t.Errorf("the one who left: %v", err)
	}
	close(f.blob.gate)
	if err := <-stays; err != nil {
		t.Errorf("the one who stayed: %v", err)
	}
	if err := f.read(t.Context(), l, 0); err != nil {
		t.Error(err)
	}
}

func TestAbandonedRequestIsCancelledAndAskedAnew(t *testing.T) {
	f := newFixture(t, sizes(2, 50_000)...)
	f.blob.gate = make(chan struct{})
	s, _ := open(t, fetch.Options{MinRun: 1})
	l := s.NewLayer("layer", f.blob, f.chunks)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- f.read(ctx, l, 0) }()
	until(func() bool { return len(f.blob.requests()) > 0 })
	cancel()
	if err := <-left; err == nil {
		t.Error("the one who left was served")
	}
	close(f.blob.gate)
	if err := f.read(t.Context(), l, 0); err != nil {
		t.Errorf("the next reader: %v", err)
	}
}

func TestCorruptBytes(t *testing.T) {
	flip := func(f *fixture) func(int, int64, int64) (io.ReadCloser, error) {
		return func(_ int, off, n int64) (io.ReadCloser, error) {
			wrong := bytes.Clone(f.blob.data[off : off+n])
			wrong[len(wrong)/2] ^= 0x10
			return io.NopCloser(bytes.NewReader(wrong)), nil
		}
	}
	t.Run("once: asked again", func(t *testing.T) {
		f := newFixture(t, 50_000)
		bad := flip(f)
		f.blob.hook = func(call int, off, n int64) (io.ReadCloser, error) {
			if call > 0 {
				return nil, nil
			}
			return bad(call, off, n)
		}
		s, _ := open(t, fetch.Options{})
		if err := f.read(t.Context(), s.NewLayer("layer", f.blob, f.chunks), 0); err != nil {
			t.Error(err)
		}
		if s.Stats().Corrupt == 0 {
			t.Error("not counted")
		}
	})
	t.Run("always: an error that names the layer, nothing stored", func(t *testing.T) {
		f := newFixture(t, 50_000)
		f.blob.hook = flip(f)
		s, store := open(t, fetch.Options{})
		err := f.read(t.Context(), s.NewLayer("the layer", f.blob, f.chunks), 0)
		if !fserr.Is(err, fserr.Corrupt) || !bytes.Contains([]byte(err.Error()), []byte("the layer")) {
			t.Errorf("%v", err)
		}
		if store.Has(chunkstore.Digest(f.chunks[0].Digest)) {
			t.Error("stored")
		}
	})
	t.Run("one member of a run: its neighbours are served", func(t *testing.T) {
		f := newFixture(t, sizes(5, 20_000)...)
		victim := f.chunks[2]
		f.blob.data = bytes.Clone(f.blob.data)
		f.blob.data[victim.Member+victim.MemberSize/2] ^= 1
		s, _ := open(t, fetch.Options{})
		l := s.NewLayer("layer", f.blob, f.chunks)
		for i := range f.chunks {
			if err := f.read(t.Context(), l, i); (err != nil) != (i == 2) {
				t.Errorf("chunk %d: %v", i, err)
			}
		}
	})
}

func TestSourceFailure(t *testing.T) {
	f := newFixture(t, sizes(3, 50_000)...)
	cause := fserr.New(fserr.Unauthorized, "read", "blob", errors.New("401"))
	failing := true
	f.blob.hook = func(int, int64, int64) (io.ReadCloser, error) {
		if failing {
			return nil, cause
		}
		return nil, nil
	}
	s, _ := open(t, fetch.Options{})
	l := s.NewLayer("layer", f.blob, f.chunks)
	if err := f.read(t.Context(), l, 0); !fserr.Is(err, fserr.Unauthorized) {
		t.Errorf("%v", err)
	}
	failing = false
	if err := f.read(t.Context(), l, 0); err != nil {
		t.Errorf("after the source has recovered: %v", err)
	}
}

func TestShortBodyIsAnErrorNotAnEnd(t *testing.T) {
	f := newFixture(t, 50_000)
	f.blob.hook = func(_ int, off, n int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(f.blob.data[off : off+n/2])), nil
	}
	s, _ := open(t, fetch.Options{})
	err := f.read(t.Context(), s.NewLayer("layer", f.blob, f.chunks), 0)
	if !fserr.Is(err, fserr.Unavailable) || errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}

func TestSequentialReaderIsReadAhead(t *testing.T) {
	f := newFixture(t, 6<<20)
	s, _ := open(t, fetch.Options{})
	l := s.NewLayer("layer", f.blob, f.chunks)
	for i := range f.chunks {
		if err := f.read(t.Context(), l, i); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(f.blob.requests()); n > len(f.chunks)/3 {
		t.Errorf("%d requests for %d chunks in order", n, len(f.chunks))
	}
	if st := s.Stats(); st.Bytes["prefetch"] == 0 {
		t.Errorf("nothing was read ahead: %+v", st)
	}
}

func TestPrefetch(t *testing.T) {
	f := newFixture(t, sizes(100, 10_000)...)
	s, store := open(t, fetch.Options{})
	l := s.NewLayer("layer", f.blob, f.chunks)
	end := f.chunks[50].Member
	l.Prefetch(end)
	until(func() bool { st := s.Stats(); return st.Queued+st.Active == 0 })
	for i, c := range f.chunks {
		if want := i < 50; store.Has(chunkstore.Digest(c.Digest)) != want {
			t.Errorf("chunk %d: stored is %v", i, !want)
		}
	}
	if n := len(f.blob.requests()); n != 1 {
		t.Errorf("%d requests for one range", n)
	}
}

func TestDemandGoesBeforePrefetch(t *testing.T) {
	f := newFixture(t, sizes(40, 200_000)...)
	f.blob.gate = make(chan struct{})
	s, _ := open(t, fetch.Options{Concurrency: 1, MaxRun: 100_000, MinRun: 1, Gap: 1})
	l := s.NewLayer("layer", f.blob, f.chunks)
	l.Prefetch(f.chunks[len(f.chunks)-1].Member)
	last := len(f.chunks) - 2
	got := make(chan error, 1)
	go func() { got <- f.read(t.Context(), l, last) }()
	until(func() bool { return s.Stats().Misses > 0 })
	until(func() bool { return s.Stats().Queued > 0 })
	close(f.blob.gate)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	place := -1
	for i, r := range f.blob.requests() {
		if r[0] <= f.chunks[last].Member && f.chunks[last].Member < r[0]+r[1] {
			place = i
			break
		}
	}
	if place > 2 {
		t.Errorf("the reader was served by request %d", place+1)
	}
}

func TestCloseFailsReadersAndLeavesNothing(t *testing.T) {
	f := newFixture(t, sizes(2, 50_000)...)
	f.blob.gate = make(chan struct{})
	store, err := chunkstore.Open(t.Context(), chunkstore.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := fetch.New(t.Context(), store, fetch.Options{})
	l := s.NewLayer("layer", f.blob, f.chunks)
	got := make(chan error, 1)
	go func() { got <- f.read(t.Context(), l, 0) }()
	until(func() bool { return len(f.blob.requests()) > 0 })
	s.Close()
	if err := <-got; err == nil {
		t.Error("a reader was served after Close")
	}
	if err := f.read(t.Context(), l, 1); !fserr.Is(err, fserr.Closed) {
		t.Errorf("a read after Close: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}

// streamer hands out a fixture's chunks in order, as a layer without members.
type streamer struct {
	f     *fixture
	calls int
	err   error
}

func (s *streamer) StreamChunks(_ context.Context, fn func(uint32, []byte) error) error {
	s.calls++
	for i, body := range s.f.want {
		if err := fn(uint32(i), body); err != nil {
			return err
		}
	}
	return s.err
}

func TestStreamLayerIsReadOnceForAllItsChunks(t *testing.T) {
	f := newFixture(t, sizes(20, 30_000)...)
	s, _ := open(t, fetch.Options{})
	st := &streamer{f: f}
	l := s.NewStreamLayer("layer", st, f.chunks)
	for i := range f.chunks {
		if err := f.read(t.Context(), l, i); err != nil {
			t.Fatal(err)
		}
	}
	if st.calls != 1 {
		t.Errorf("read %d times", st.calls)
	}
}

func TestStreamLayerThatChanged(t *testing.T) {
	f := newFixture(t, sizes(3, 30_000)...)
	s, _ := open(t, fetch.Options{})
	l := s.NewStreamLayer("layer", &streamer{f: f}, f.chunks)
	f.want[1] = bytes.Clone(f.want[1])
	f.want[1][7] ^= 1
	p := make([]byte, 100)
	if _, err := l.Read(t.Context(), 1, p, 0); !fserr.Is(err, fserr.Corrupt) {
		t.Errorf("%v", err)
	}
}

func TestHitDoesNotAllocate(t *testing.T) {
	f := newFixture(t, 64<<10)
	s, _ := open(t, fetch.Options{})
	l := s.NewLayer("layer", f.blob, f.chunks)
	if err := f.read(t.Context(), l, 0); err != nil {
		t.Fatal(err)
	}
	until(func() bool { return s.Stats().Active == 0 })
	p := make([]byte, 4096)
	allocs := testing.AllocsPerRun(200, func() {
		if n, ok := l.TryRead(0, p, 4096); !ok || n != len(p) {
			t.Fatal("a cached chunk was not read")
		}
	})
	if allocs != 0 && !raceEnabled {
		t.Errorf("%v allocations", allocs)
	}
}

func BenchmarkTryRead4K(b *testing.B) {
	f := newFixture(b, 64<<10)
	s, _ := open(b, fetch.Options{})
	l := s.NewLayer("layer", f.blob, f.chunks)
	if err := f.read(b.Context(), l, 0); err != nil {
		b.Fatal(err)
	}
	until(func() bool { return s.Stats().Active == 0 })
	p := make([]byte, 4096)
	b.ReportAllocs()
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if _, ok := l.TryRead(0, p, 4096); !ok {
			b.Fatal("miss")
		}
	}
}
