package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/faultfs"
)

func TestLimitHolds(t *testing.T) {
	for _, limit := range []int64{200 << 10, 1 << 20} {
		k := newDisk()
		s := open(t, k.options(limit))
		for i := range 400 {
			putAndRead(t, s, i, "limit")
			if got := k.fs.Allocated(".seg"); got > limit {
				t.Fatalf("%d bytes on disk after %d chunks, limit %d", got, i+1, limit)
			}
		}
		closeStore(t, s)
		st := s.Stats()
		if got := k.fs.Allocated(".seg"); got != st.Bytes || got < limit/2 {
			t.Errorf("%d bytes on disk, limit %d, %+v", got, limit, st)
		}
		s = open(t, k.options(limit))
		if now := s.Stats(); now.Bytes != st.Bytes || now.Chunks != st.Chunks {
			t.Errorf("reopened with %+v, closed with %+v", now, st)
		}
		checkVerify(t, s, st.Chunks)
	}
}

func TestChunkLargerThanLimit(t *testing.T) {
	k := newDisk()
	s := open(t, k.options(100<<10))
	data := make([]byte, 100<<10)
	if _, err := s.Put(context.Background(), sum(data), data); !errors.Is(err, chunkstore.ErrNoSpace) {
		t.Errorf("put: %v", err)
	}
	if got := k.fs.Allocated(".seg"); got != 0 {
		t.Errorf("%d bytes on disk", got)
	}
}

func TestWhatIsReadStays(t *testing.T) {
	k := newDisk()
	s := open(t, k.options(1<<20))
	const hot = 20
	for i := range hot {
		putAndRead(t, s, i, "hot")
	}
	for i := 1000; i < 1300; i++ {
		d, data := chunkOf(i, faultMaxSize)
		put(t, s, d, data)
		for j := range hot {
			d, data := chunkOf(j, faultMaxSize)
			if got, err := readAll(s, d, len(data)); err == nil && !bytes.Equal(got, data) {
				t.Fatalf("chunk %d: wrong bytes", j)
			}
		}
	}
	kept := 0
	for i := range hot {
		if d, _ := chunkOf(i, faultMaxSize); s.Has(d) {
			kept++
		}
	}
	if st := s.Stats(); kept < hot*9/10 || st.EvictedChunks < 100 {
		t.Errorf("%d of %d chunks in constant use kept, %+v", kept, hot, st)
	}
}

func TestHeatSurvivesRestart(t *testing.T) {
	k := newDisk()
	s := open(t, k.options(0))
	const n = 40
	for i := range n {
		d, data := chunkOf(i, faultMaxSize)
		put(t, s, d, data)
	}
	closeStore(t, s)
	s = open(t, k.options(0))
	for i := 0; i < n; i += 4 {
		checkChunk(t, s, i, faultMaxSize)
	}
	closeStore(t, s)
	s = open(t, k.options(0))
	if _, err := s.Evict(context.Background(), s.Stats().Bytes/3); err != nil {
		t.Fatal(err)
	}
	hot, cold := 0, 0
	for i := range n {
		if d, _ := chunkOf(i, faultMaxSize); s.Has(d) && i%4 == 0 {
			hot++
		} else if s.Has(d) {
			cold++
		}
	}
	if hot < n/4-2 || cold == n*3/4 {
		t.Errorf("%d of %d hot and %d of %d cold chunks left", hot, n/4, cold, n*3/4)
	}
}

func TestEvictEverything(t *testing.T) {
	k := newDisk()
	s := open(t, k.options(0))
	for i := range faultChunks {
		d, data := chunkOf(i, faultMaxSize)
		put(t, s, d, data)
	}
	closeStore(t, s)
	s = open(t, k.options(0))
	before := s.Stats().Bytes
	freed, err := s.Evict(context.Background(), 1<<40)
	if err != nil || freed != before {
		t.Errorf("evict: %d of %d bytes, %v", freed, before, err)
	}
	if st := s.Stats(); st.Bytes != 0 || st.Chunks != 0 || st.Segments != 0 || k.fs.Allocated(".seg") != 0 {
		t.Errorf("left: %+v, %d bytes on disk", st, k.fs.Allocated(".seg"))
	}
	for i := range faultChunks {
		putAndRead(t, s, i, "after evicting all")
	}
}

func TestWithoutHoles(t *testing.T) {
	k := newDisk()
	k.fs.Inject(func(c faultfs.Call) error {
		if c.Op == "punch" {
			return errors.Join(errors.ErrUnsupported, syscall.EOPNOTSUPP)
		}
		return nil
	})
	const limit = 1 << 20
	s := open(t, k.options(limit))
	for i := range 400 {
		putAndRead(t, s, i, "no holes")
		if got := k.fs.Allocated(".seg"); got > limit {
			t.Fatalf("%d bytes on disk, limit %d", got, limit)
		}
	}
}

// TestEvictionUnderReaders has readers with old places, writers and an evictor
// at it together: whatever is read is right.
func TestEvictionUnderReaders(t *testing.T) {
	s := open(t, chunkstore.Options{Dir: t.TempDir(), MaxBytes: 4 << 20, SegmentBytes: 256 << 10, MaxOpenSegments: 4})
	ctx := context.Background()
	const n, size = 600, 30000
	var locs [n]atomic.Uint64
	var readers, writers sync.WaitGroup
	var stop atomic.Bool
	var hits atomic.Int64
	for r := range 4 {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(r), 1))
			p := make([]byte, size)
			for !stop.Load() {
				i := rng.IntN(n)
				d, data := chunkOf(i, size)
				off := rng.IntN(len(data) + 1)
				got, err := s.ReadAt(chunkstore.Loc(locs[i].Load()), d, p[:rng.IntN(size)], int64(off))
				if err == nil && !bytes.Equal(p[:got], data[off:off+got]) {
					t.Errorf("chunk %d: wrong bytes", i)
				}
				if err != nil && !errors.Is(err, chunkstore.ErrNotFound) {
					t.Errorf("chunk %d: %v", i, err)
				}
				if err == nil {
					hits.Add(1)
				}
			}
		})
	}
	for w := range 2 {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 2))
			for range 500 {
				i := rng.IntN(n)
				d, data := chunkOf(i, size)
				loc, err := s.Put(ctx, d, data)
				if err != nil {
					t.Errorf("put: %v", err)
				}
				locs[i].Store(uint64(loc))
				if rng.IntN(100) == 0 {
					if _, err := s.Evict(ctx, 300<<10); err != nil {
						t.Errorf("evict: %v", err)
					}
				}
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	readers.Wait()
	if st := s.Stats(); st.Corrupt != 0 || st.EvictedChunks == 0 || hits.Load() == 0 {
		t.Errorf("%+v", st)
	}
}

func TestSparseSegmentsAreMerged(t *testing.T) {
	k := newDisk()
	opt := k.options(3 << 20)
	opt.SegmentBytes = 128 << 10
	s := open(t, opt)
	var hot []chunkstore.Digest
	var locs []chunkstore.Loc
	p := make([]byte, 1000)
	for i := range 600 {
		d, data := chunkOf(5000+i, 20000)
		put(t, s, d, data)
		if i%20 == 0 {
			data := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 500)
			hot = append(hot, sum(data))
			locs = append(locs, put(t, s, sum(data), data))
		}
		for j, d := range hot {
			if n, err := s.ReadAt(locs[j], d, p, 0); err != nil || sum(p[:n]) != d {
				t.Fatalf("after %d chunks, hot chunk %d: %v", i, j, err)
			}
		}
		if i%50 == 0 {
			closeStore(t, s)
			s = open(t, opt)
			checkVerify(t, s, s.Stats().Chunks)
		}
	}
	if st := s.Stats(); st.Segments > 60 || st.Corrupt != 0 {
		t.Errorf("%+v", st)
	}
}
