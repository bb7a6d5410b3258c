package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/faultfs"
	"github.com/nineply/nineply/internal/fserr"
)

const (
	strideEnv    = "CHUNKSTORE_CUT_STRIDE"
	faultMaxSize = 14000
	faultChunks  = 60
)

// disk is a file system and an index database that fail together.
type disk struct {
	fs  *faultfs.FS
	idx *chunkstore.MemIndex
}

func newDisk() disk {
	f := faultfs.New()
	return disk{f, newIndex(f)}
}

func newIndex(f *faultfs.FS) *chunkstore.MemIndex { return chunkstore.NewMemIndex(indexChange(f)) }

func indexChange(f *faultfs.FS) func(op string) error {
	return func(op string) error { return f.Change(op, "index") }
}

func (k disk) afterPowerCut(rng *rand.Rand, odds float64) disk {
	f := k.fs.AfterPowerCut(rng, odds)
	return disk{f, k.idx.AfterPowerCut(rng, odds, indexChange(f))}
}

func (k disk) options(limit int64) chunkstore.Options {
	return k.idx.Use(chunkstore.Options{
		Dir: "/cache", FS: k.fs, SegmentBytes: 64 << 10, MaxBytes: limit,
		MinFreeBytes: -1, SyncInterval: -1,
	})
}

// outcome is what a workload knows when it ends.
type outcome struct {
	acked  int // chunks [0, acked) were put
	synced int // chunks [0, synced) were put before a Sync that succeeded
}

// workload fills a store, with a restart in the middle, until something fails.
func workload(k disk, limit int64) (out outcome) {
	ctx := context.Background()
	for range 2 {
		s, err := chunkstore.Open(ctx, k.options(limit))
		if err != nil {
			return out
		}
		for range faultChunks / 2 {
			d, data := chunkOf(out.acked, faultMaxSize)
			if _, err = s.Put(ctx, d, data); err != nil {
				break
			}
			out.acked++
			if out.acked%11 == 0 {
				if err = s.Sync(ctx); err != nil {
					break
				}
				out.synced = out.acked
			}
		}
		cerr := s.Close()
		if err != nil || cerr != nil {
			return out
		}
		out.synced = out.acked
	}
	return out
}

func TestPowerCutAtEveryChange(t *testing.T) {
	stride := 5
	if testing.Short() {
		stride = 50
	}
	if v, err := strconv.Atoi(os.Getenv(strideEnv)); err == nil {
		stride = v
	}
	for _, limit := range []int64{0, 300 << 10} {
		t.Run(fmt.Sprintf("limit %d", limit), func(t *testing.T) {
			whole := newDisk()
			if out := workload(whole, limit); out.synced != faultChunks {
				t.Fatalf("without a fault: %+v", out)
			}
			rng := rand.New(rand.NewPCG(7, uint64(limit)))
			for cut := 0; cut < whole.fs.Changes(); cut += stride {
				k := newDisk()
				k.fs.CutPower(cut)
				out := workload(k, limit)
				for _, odds := range []float64{0, 0.5, 0.9, 1} {
					checkAfterCut(t, k.afterPowerCut(rng, odds), limit, out, fmt.Sprintf("cut at %d, odds %v", cut, odds))
				}
			}
		})
	}
}

// checkAfterCut opens what is left and demands: every chunk read is right,
// nothing synced is missing, and everything can be put and read again.
func checkAfterCut(t *testing.T, k disk, limit int64, out outcome, what string) {
	t.Helper()
	ctx := context.Background()
	s, err := chunkstore.Open(ctx, k.options(limit))
	if err != nil {
		t.Fatalf("%s: open: %v", what, err)
	}
	for i := range out.acked + 1 {
		d, data := chunkOf(i, faultMaxSize)
		got, err := readAll(s, d, len(data)+1)
		switch {
		case err == nil && !bytes.Equal(got, data):
			t.Fatalf("%s: chunk %d: wrong bytes", what, i)
		case err != nil && !errors.Is(err, chunkstore.ErrNotFound):
			t.Fatalf("%s: chunk %d: %v", what, i, err)
		case err != nil && i < out.synced && limit == 0:
			t.Fatalf("%s: chunk %d of %+v lost", what, i, out)
		}
	}
	for i := range faultChunks {
		putAndRead(t, s, i, what)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("%s: close: %v", what, err)
	}
	st := s.Stats()
	// Pages lost in the cut are holes that are not known of.
	if disk := k.fs.Allocated(".seg"); st.Bytes < disk || limit > 0 && disk > limit {
		t.Fatalf("%s: %d bytes counted, %d on disk, limit %d", what, st.Bytes, disk, limit)
	}
}

// putAndRead puts a chunk and reads it. One that was there already may be
// evicted in between, one that was written may not.
func putAndRead(t *testing.T, s *chunkstore.Store, i int, what string) {
	t.Helper()
	d, data := chunkOf(i, faultMaxSize)
	for {
		writes := s.Stats().Puts
		if _, err := s.Put(context.Background(), d, data); err != nil {
			t.Fatalf("%s: put %d again: %v", what, i, err)
		}
		got, err := readAll(s, d, len(data)+1)
		if errors.Is(err, chunkstore.ErrNotFound) && s.Stats().Puts == writes {
			continue
		}
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%s: chunk %d after putting it again: %v", what, i, err)
		}
		return
	}
}

func TestEveryCallFailsOnce(t *testing.T) {
	whole := newDisk()
	calls := 0
	whole.fs.Inject(func(faultfs.Call) error { calls++; return nil })
	if out := workload(whole, 300<<10); out.synced != faultChunks {
		t.Fatalf("without a fault: %+v", out)
	}
	for _, fault := range []error{syscall.EIO, syscall.ENOSPC, faultfs.Torn{N: 777, Err: syscall.EIO}} {
		for at := 0; at < calls; at += 5 {
			k := newDisk()
			n := 0
			k.fs.Inject(func(c faultfs.Call) error {
				n++
				if n == at+1 {
					return fault
				}
				return nil
			})
			out := workload(k, 300<<10)
			k.fs.Inject(nil)
			what := fmt.Sprintf("call %d fails with %v", at, fault)
			checkAfterFault(t, k, out, what)
		}
	}
}

// checkAfterFault demands right bytes and a store that works on.
func checkAfterFault(t *testing.T, k disk, out outcome, what string) {
	t.Helper()
	ctx := context.Background()
	s, err := chunkstore.Open(ctx, k.options(300<<10))
	if err != nil {
		t.Fatalf("%s: open: %v", what, err)
	}
	for i := range out.acked {
		d, data := chunkOf(i, faultMaxSize)
		got, err := readAll(s, d, len(data)+1)
		if err == nil && !bytes.Equal(got, data) {
			t.Fatalf("%s: chunk %d: wrong bytes", what, i)
		}
		if err != nil && !errors.Is(err, chunkstore.ErrNotFound) {
			t.Fatalf("%s: chunk %d: %v", what, i, err)
		}
	}
	d, data := chunkOf(1000, faultMaxSize)
	if _, err := s.Put(ctx, d, data); err != nil {
		t.Fatalf("%s: put afterwards: %v", what, err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("%s: close: %v", what, err)
	}
}

func TestDiskFull(t *testing.T) {
	k := newDisk()
	opt := k.options(0)
	s := open(t, opt)
	ctx := context.Background()
	k.fs.SetCapacity(400 << 10)
	for i := range 3 * faultChunks { // old chunks make room
		d, data := chunkOf(i, faultMaxSize)
		put(t, s, d, data)
		checkChunk(t, s, i, faultMaxSize)
	}
	if st := s.Stats(); st.EvictedChunks == 0 {
		t.Errorf("nothing evicted: %+v", st)
	}
	d, data := chunkOf(100000, 4<<20)
	if len(data) < 1<<20 {
		t.Fatalf("chunk of %d bytes fits", len(data))
	}
	if _, err := s.Put(ctx, d, data); !errors.Is(err, chunkstore.ErrNoSpace) || !fserr.Is(err, fserr.NoSpace) {
		t.Errorf("put of more than the disk holds: %v", err)
	}
	d, data = chunkOf(100001, faultMaxSize)
	put(t, s, d, data)
	checkChunk(t, s, 100001, faultMaxSize)
}

// TestIndexIsNotWrittenOnAFullDisk has somebody else fill the disk. The index
// database must not be touched then; everything else goes on as far as it can,
// and all is well once there is room again.
func TestIndexIsNotWrittenOnAFullDisk(t *testing.T) {
	const headroom = 200 << 10
	k := newDisk()
	opt := k.options(0)
	opt.MinFreeBytes = headroom
	k.idx.Watch(func() {
		if free, _ := k.fs.Free(""); free < headroom/2 {
			t.Errorf("index written with %d bytes free", free)
		}
	})
	s := open(t, opt)
	for i := range faultChunks {
		putAndRead(t, s, i, "roomy")
	}
	k.fs.SetCapacity(k.fs.Allocated(""))
	var failed, put int
	for i := 1000; i < 1040; i++ {
		d, data := chunkOf(i, faultMaxSize)
		_, err := s.Put(context.Background(), d, data)
		switch {
		case err == nil:
			put++
			checkChunk(t, s, i, faultMaxSize)
		case errors.Is(err, chunkstore.ErrNoSpace):
			failed++
		default:
			t.Errorf("put %d: %v", i, err)
		}
		k.fs.SetCapacity(k.fs.Allocated("")) // what is freed is taken
	}
	if err := s.Records().Put(context.Background(), "k", nil); !fserr.Is(err, fserr.NoSpace) {
		t.Errorf("record put on a full disk: %v", err)
	}
	t.Logf("%d chunks put, %d refused, %+v", put, failed, s.Stats())
	_ = s.Close() // may not find room
	k.fs = k.fs.AfterKill()
	opt.FS = k.fs
	s, err := chunkstore.Open(context.Background(), opt)
	if err == nil {
		_ = s.Close()
	} else if !fserr.Is(err, fserr.NoSpace) {
		t.Errorf("open on a full disk: %v", err)
	}
	k.fs.SetCapacity(1 << 30)
	s = open(t, opt)
	for i := range faultChunks {
		putAndRead(t, s, i, "roomy again")
	}
	checkVerify(t, s, s.Stats().Chunks)
}

func TestFullDiskWithNothingToEvict(t *testing.T) {
	k := newDisk()
	s := open(t, k.options(0))
	k.fs.Inject(func(c faultfs.Call) error {
		if c.Op == "write" {
			return syscall.ENOSPC
		}
		return nil
	})
	d, data := chunkOf(1, faultMaxSize)
	if _, err := s.Put(context.Background(), d, data); !errors.Is(err, chunkstore.ErrNoSpace) {
		t.Errorf("put on a full disk: %v", err)
	}
	k.fs.Inject(nil)
	put(t, s, d, data)
	checkChunk(t, s, 1, faultMaxSize)
}

func TestIndexThatCannotWrite(t *testing.T) {
	k := newDisk()
	s := open(t, k.options(0))
	k.idx.Fail(syscall.EIO)
	for i := range faultChunks {
		d, data := chunkOf(i, faultMaxSize)
		put(t, s, d, data)
	}
	if err := s.Sync(context.Background()); !errors.Is(err, syscall.EIO) {
		t.Errorf("sync: %v", err)
	}
	for i := range faultChunks {
		checkChunk(t, s, i, faultMaxSize)
	}
	k.idx.Fail(nil)
	if err := s.Sync(context.Background()); err != nil {
		t.Errorf("sync: %v", err)
	}
	if st := s.Stats(); st.Pending != 0 {
		t.Errorf("still pending: %+v", st)
	}
}
