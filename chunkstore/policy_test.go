package chunkstore_test

import (
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/fserr"
)

// tracePayload makes a record take 64 KiB.
const tracePayload = 64<<10 - 64 - 4*16

// trace is a series of reads of keys with a Zipf distribution. Every sweepEvery
// reads, sweep keys are put that nobody reads, as when an image is filled in the
// background.
type trace struct {
	keys, reads       int
	sweep, sweepEvery int
}

// cacheOfKeys is what a trace runs against.
type cacheOfKeys interface {
	read(key int) bool
	fill(key int)
}

// outcomeOf runs a trace: the part of the reads that hit, of all and of those soon
// after a sweep and just before it.
func (tr trace) outcomeOf(c cacheOfKeys) (all, before, after float64) {
	rng := rand.New(rand.NewPCG(11, 3))
	cdf := zipf(tr.keys, 1.05)
	window := tr.keys / 20
	var hits, hitsBefore, hitsAfter, sweeps int
	next := tr.keys
	for i := range tr.reads {
		at := -1 // in the trace since the last sweep
		if tr.sweep > 0 {
			if at = i % tr.sweepEvery; at == 0 && i > 0 {
				for range tr.sweep {
					c.fill(next)
					next++
				}
				sweeps++
			}
		}
		hit := 0
		if key := sort.SearchFloat64s(cdf, rng.Float64()); c.read(key) {
			hit = 1
		} else {
			c.fill(key)
		}
		hits += hit
		switch {
		case at >= 0 && at < window && sweeps > 0:
			hitsAfter += hit
		case at >= tr.sweepEvery-window && i+window < tr.reads:
			hitsBefore += hit
		}
	}
	if n := float64(sweeps * window); n > 0 {
		before, after = float64(hitsBefore)/n, float64(hitsAfter)/n
	}
	return float64(hits) / float64(tr.reads), before, after
}

func zipf(n int, s float64) []float64 {
	cdf := make([]float64, n)
	sum := 0.0
	for i := range cdf {
		sum += math.Pow(float64(i+1), -s)
		cdf[i] = sum
	}
	for i := range cdf {
		cdf[i] /= sum
	}
	return cdf
}

// storeOfKeys has a key's chunk in a store.
type storeOfKeys struct {
	t    testing.TB
	s    *chunkstore.Store
	data [tracePayload]byte
}

func newStoreOfKeys(t testing.TB, capacity int) *storeOfKeys {
	k := newDisk()
	return &storeOfKeys{t: t, s: open(t, k.options(int64(capacity)*64<<10))}
}

func (c *storeOfKeys) chunk(key int) (chunkstore.Digest, []byte) {
	binary.LittleEndian.PutUint64(c.data[:], uint64(key))
	return sum(c.data[:]), c.data[:]
}

func (c *storeOfKeys) read(key int) bool {
	d, _ := c.chunk(key)
	loc, ok := c.s.Locate(d)
	if !ok {
		return false
	}
	var p [8]byte
	_, err := c.s.ReadAt(loc, d, p[:], 0)
	if err != nil && !errors.Is(err, chunkstore.ErrNotFound) {
		c.t.Fatal(err)
	}
	if err == nil && binary.LittleEndian.Uint64(p[:]) != uint64(key) {
		c.t.Fatalf("key %d: wrong bytes", key)
	}
	return err == nil
}

func (c *storeOfKeys) fill(key int) {
	d, data := c.chunk(key)
	put(c.t, c.s, d, data)
}

// lru is what the store is compared with.
type lru struct {
	capacity int
	order    *list.List
	at       map[int]*list.Element
}

func newLRU(capacity int) *lru {
	return &lru{capacity: capacity, order: list.New(), at: map[int]*list.Element{}}
}

func (c *lru) read(key int) bool {
	e, ok := c.at[key]
	if ok {
		c.order.MoveToFront(e)
	}
	return ok
}

func (c *lru) fill(key int) {
	c.at[key] = c.order.PushFront(key)
	if c.order.Len() > c.capacity {
		delete(c.at, c.order.Remove(c.order.Back()).(int))
	}
}

// twoQueues is the 2Q algorithm with the shares its authors propose: a quarter of
// the capacity for what is new, and half of it in names of what has left that.
type twoQueues struct {
	recent, gone, main *lru
}

func newTwoQueues(capacity int) *twoQueues {
	return &twoQueues{recent: newLRU(capacity / 4), gone: newLRU(capacity / 2), main: newLRU(capacity - capacity/4)}
}

func (c *twoQueues) read(key int) bool {
	if c.main.read(key) {
		return true
	}
	_, ok := c.recent.at[key] // and stays where it is
	return ok
}

func (c *twoQueues) fill(key int) {
	if e, ok := c.gone.at[key]; ok {
		delete(c.gone.at, c.gone.order.Remove(e).(int))
		c.main.fill(key)
		return
	}
	if c.recent.order.Len() == c.recent.capacity {
		c.gone.fill(c.recent.order.Back().Value.(int))
	}
	c.recent.fill(key)
}

// TestHitRatio runs traces against a store and against a plain LRU that holds as
// many chunks as the store's limit has room for at all.
func TestHitRatio(t *testing.T) {
	keys, reads := 2000, 24000
	if testing.Short() || raceEnabled {
		keys, reads = 1000, 12000
	}
	for name, part := range map[string]int{"10 percent": 10, "4 percent": 25} {
		t.Run(name, func(t *testing.T) {
			if raceEnabled && part != 10 {
				t.Skip("slow under the race detector")
			}
			capacity := keys / part
			plain := trace{keys: keys, reads: reads}
			got, _, _ := plain.outcomeOf(newStoreOfKeys(t, capacity))
			want, _, _ := plain.outcomeOf(newLRU(capacity))
			if got < want {
				t.Errorf("%.1f %% hits, LRU has %.1f %%", 100*got, 100*want)
			}
			swept := trace{keys: keys, reads: reads, sweep: keys / 5, sweepEvery: 2 * keys}
			all, before, after := swept.outcomeOf(newStoreOfKeys(t, capacity))
			lruAll, lruBefore, lruAfter := swept.outcomeOf(newLRU(capacity))
			twoQ, _, _ := plain.outcomeOf(newTwoQueues(capacity))
			t.Logf("hits: store %.1f %%, LRU %.1f %%, 2Q %.1f %%; with sweeps %.1f %% (before one %.1f %%, after it %.1f %%), LRU %.1f %% (%.1f %%, %.1f %%)",
				100*got, 100*want, 100*twoQ, 100*all, 100*before, 100*after, 100*lruAll, 100*lruBefore, 100*lruAfter)
			chance := 4 * math.Sqrt(0.25/float64(reads/swept.sweepEvery*keys/20))
			if all < lruAll || all < got-0.02 || after < before-chance || after < lruAfter {
				t.Errorf("sweeps lower the hits from %.1f %% to %.1f %%, around one from %.1f %% to %.1f %%; LRU has %.1f %%",
					100*got, 100*all, 100*before, 100*after, 100*lruAll)
			}
		})
	}
}

// TestSweepSparesWhatIsProven fills a store many times over with chunks that are
// read at most once, in pieces: what was in use before is there afterwards.
func TestSweepSparesWhatIsProven(t *testing.T) {
	const hot, limit = 40, 1 << 20
	k := newDisk()
	s := open(t, k.options(limit))
	for i := range hot {
		d, data := chunkOf(i, faultMaxSize)
		put(t, s, d, data)
	}
	fillWith(t, s, 1000, 60) // so that their segments are closed
	for range 2 {
		for i := range hot {
			checkChunk(t, s, i, faultMaxSize)
		}
		fillWith(t, s, 2000, 60)
	}
	fillWith(t, s, 10000, 10*limit/(faultMaxSize/2))
	kept := 0
	for i := range hot {
		if d, _ := chunkOf(i, faultMaxSize); s.Has(d) {
			kept++
		}
	}
	if st := s.Stats(); kept < hot*9/10 || st.EvictedBytes < 8*limit || st.ProvenBytes == 0 {
		t.Errorf("%d of %d chunks in use are left, %+v", kept, hot, st)
	}
}

// fillWith puts n chunks and reads each at once, in two pieces.
func fillWith(t *testing.T, s *chunkstore.Store, first, n int) {
	t.Helper()
	p := make([]byte, faultMaxSize)
	for i := first; i < first+n; i++ {
		d, data := chunkOf(i, faultMaxSize)
		loc := put(t, s, d, data)
		for _, off := range []int{0, len(data) / 2} {
			if _, err := s.ReadAt(loc, d, p[:len(data)/2+1], int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestPinnedStay(t *testing.T) {
	const limit, kept = 1 << 20, 30
	k := newDisk()
	s := open(t, k.options(limit))
	var keys []uint64
	for i := range kept {
		d, data := chunkOf(i, faultMaxSize)
		if i%2 == 0 {
			put(t, s, d, data) // the others are pinned before they come
		}
		keys = append(keys, chunkstore.PinKey(d), chunkstore.PinKey(d))
	}
	pin := func() {
		if err := s.SetPinned(chunkstore.NewKeys(slices.Clone(keys))); err != nil {
			t.Fatal(err)
		}
	}
	pin()
	for i := range kept {
		d, data := chunkOf(i, faultMaxSize)
		put(t, s, d, data)
	}
	fillWith(t, s, 1000, 3*limit/(faultMaxSize/2))
	checkKept := func(what string) {
		t.Helper()
		for i := range kept {
			checkChunk(t, s, i, faultMaxSize)
		}
		if st := s.Stats(); st.Pinned != kept {
			t.Errorf("%s: %d pinned", what, st.Pinned)
		}
	}
	checkKept("filled")
	closeStore(t, s)
	s = open(t, k.options(limit))
	pin()
	if _, err := s.Evict(context.Background(), 1<<40); err != nil {
		t.Fatal(err)
	}
	checkKept("all evicted")
	if st := s.Stats(); st.Chunks != kept {
		t.Errorf("others are left: %+v", st)
	}
	if err := s.SetPinned(chunkstore.Keys{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Evict(context.Background(), 1<<40); err != nil || s.Stats().Chunks != 0 {
		t.Errorf("after unpinning: %v, %+v", err, s.Stats())
	}
}

// TestPinsFillTheStore pins more than fits: the limit holds, what is there can be
// read, and the error says why nothing more can be put.
func TestPinsFillTheStore(t *testing.T) {
	const limit = 512 << 10
	k := newDisk()
	s := open(t, k.options(limit))
	var keys []uint64
	for i := range 200 {
		d, _ := chunkOf(i, faultMaxSize)
		keys = append(keys, chunkstore.PinKey(d))
	}
	if err := s.SetPinned(chunkstore.NewKeys(slices.Clone(keys))); err != nil {
		t.Fatal(err)
	}
	var there []int
	refused := 0
	for i := range 200 {
		d, data := chunkOf(i, faultMaxSize)
		_, err := s.Put(context.Background(), d, data)
		switch {
		case err == nil:
			there = append(there, i)
		case !errors.Is(err, chunkstore.ErrNoSpace):
			t.Fatal(err)
		case refused == 0:
			t.Log(err)
			fallthrough
		default:
			refused++
		}
		if got := k.fs.Allocated(".seg"); got > limit {
			t.Fatalf("%d bytes on disk, limit %d", got, limit)
		}
	}
	if len(there) < 40 || refused < 40 {
		t.Errorf("%d put, %d refused", len(there), refused)
	}
	for _, i := range there {
		checkChunk(t, s, i, faultMaxSize)
	}
}

func TestTooManyPins(t *testing.T) {
	s := open(t, newDisk().options(0))
	many := make([]uint64, chunkstore.MaxPinned+1)
	for i := range many {
		many[i] = uint64(i)
	}
	if err := s.SetPinned(chunkstore.NewKeys(many)); !fserr.Is(err, fserr.TooLarge) || s.Stats().Pinned != 0 {
		t.Errorf("%v, %d pinned", err, s.Stats().Pinned)
	}
}

// TestTrim evicts by what is wanted, not by need.
func TestTrim(t *testing.T) {
	k := newDisk()
	s := open(t, k.options(0))
	ctx := context.Background()
	const n = 60
	var pins, wanted []uint64
	for i := range n {
		d, data := chunkOf(i, faultMaxSize)
		put(t, s, d, data)
		if i%10 == 0 {
			pins = append(pins, chunkstore.PinKey(d))
		}
		if i%3 == 0 {
			wanted = append(wanted, chunkstore.PinKey(d))
		}
	}
	keep := chunkstore.DecodeKeys(chunkstore.NewKeys(wanted).Encode())
	if keep.Len() != n/3 {
		t.Errorf("%d keys", keep.Len())
	}
	if err := s.SetPinned(chunkstore.NewKeys(pins)); err != nil {
		t.Fatal(err)
	}
	before := s.Stats().Bytes
	freed, err := s.Retain(ctx, keep.Has)
	if err != nil || freed < before/3 || freed != before-s.Stats().Bytes {
		t.Errorf("freed %d of %d bytes, %v", freed, before, err)
	}
	listed := map[chunkstore.Digest]bool{}
	if err := s.EachChunk(ctx, func(d chunkstore.Digest) error { listed[d] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		d, _ := chunkOf(i, faultMaxSize)
		if want := i%3 == 0 || i%10 == 0; s.Has(d) != want || listed[d] != want {
			t.Errorf("chunk %d: there %v, listed %v", i, s.Has(d), listed[d])
		}
	}
	target := s.Stats().Bytes / 2
	if _, err := s.EvictTo(ctx, target); err != nil || s.Stats().Bytes > target || s.Stats().Chunks < 6 {
		t.Errorf("target %d: %+v, %v", target, s.Stats(), err)
	}
	if freed, err := s.EvictTo(ctx, target); err != nil || freed != 0 {
		t.Errorf("again: %d freed, %v", freed, err)
	}
	checkVerify(t, s, s.Stats().Chunks)
}
