package chunkstore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/nineply/nineply/chunkstore"
)

const (
	olderChunks = 160
	olderSize   = 9000
)

// TestOlderIndex puts back a copy of the index database that was taken earlier: an
// open ago, or during the same one. What the segments hold is found all the same.
func TestOlderIndex(t *testing.T) {
	for name, reopened := range map[string]bool{"by an open": true, "of the same open": false} {
		t.Run(name, func(t *testing.T) {
			opt := chunkstore.Options{Dir: t.TempDir(), SegmentBytes: 128 << 10}
			copied := filepath.Join(t.TempDir(), "index")
			there, st := livedOn(t, opt, reopened, func() {
				if err := os.CopyFS(copied, os.DirFS(filepath.Join(opt.Dir, "index"))); err != nil {
					t.Fatal(err)
				}
			})
			remove(t, opt.Dir, "index")
			if err := os.Rename(copied, filepath.Join(opt.Dir, "index")); err != nil {
				t.Fatal(err)
			}
			s := open(t, opt)
			for i := range olderChunks {
				d, data := chunkOf(i, olderSize)
				got, err := readAll(s, d, len(data)+1)
				switch {
				case err == nil && sum(got) != d:
					t.Fatalf("chunk %d: wrong bytes", i)
				case err != nil && (there[i] || !errors.Is(err, chunkstore.ErrNotFound)):
					t.Errorf("chunk %d: %v", i, err)
				}
			}
			if now := s.Stats(); now.Bytes < st.Bytes-64<<10 || now.Corrupt > int64(olderChunks-len(there)) {
				t.Errorf("found %+v, had %+v", now, st)
			}
			for i := range olderChunks {
				d, data := chunkOf(i, olderSize)
				put(t, s, d, data)
				checkChunk(t, s, i, olderSize)
			}
			// A small chunk may be found where it was evicted from, since its block is shared.
			checkVerify(t, s, -1)
		})
	}
}

// TestOlderSegments puts back the segments of an earlier time under a newer index
// database: places that do not hold what they should are given up.
func TestOlderSegments(t *testing.T) {
	opt := chunkstore.Options{Dir: t.TempDir(), SegmentBytes: 128 << 10}
	copied := filepath.Join(t.TempDir(), "segments")
	livedOn(t, opt, true, func() {
		if err := os.CopyFS(copied, os.DirFS(filepath.Join(opt.Dir, "segments"))); err != nil {
			t.Fatal(err)
		}
	})
	remove(t, opt.Dir, "segments")
	if err := os.Rename(copied, filepath.Join(opt.Dir, "segments")); err != nil {
		t.Fatal(err)
	}
	s := open(t, opt)
	for range 2 {
		for i := range olderChunks {
			d, data := chunkOf(i, olderSize)
			got, err := readAll(s, d, len(data)+1)
			if err == nil && sum(got) != d || err != nil && !errors.Is(err, chunkstore.ErrNotFound) {
				t.Fatalf("chunk %d: %v", i, err)
			}
			put(t, s, d, data)
			checkChunk(t, s, i, olderSize)
		}
	}
	checkVerify(t, s, olderChunks)
}

// livedOn fills a store, calls halfway, goes on, evicts, and closes it. It says
// which chunks are there then.
func livedOn(t *testing.T, opt chunkstore.Options, reopened bool, halfway func()) (map[int]bool, chunkstore.Stats) {
	t.Helper()
	ctx := context.Background()
	s := open(t, opt)
	fill := func(first, end int) {
		for i := first; i < end; i++ {
			d, data := chunkOf(i, olderSize)
			put(t, s, d, data)
		}
		if err := s.Sync(ctx); err != nil {
			t.Fatal(err)
		}
	}
	fill(0, olderChunks/2)
	if reopened {
		closeStore(t, s)
	}
	halfway()
	if reopened {
		s = open(t, opt)
	}
	fill(olderChunks/2, olderChunks)
	if _, err := s.Evict(ctx, 100<<10); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Retain(ctx, func(d chunkstore.Digest) bool { return d[0]%8 != 0 }); err != nil {
		t.Fatal(err)
	}
	there := map[int]bool{}
	for i := range olderChunks {
		if d, _ := chunkOf(i, olderSize); s.Has(d) {
			there[i] = true
		}
	}
	closeStore(t, s)
	return there, s.Stats()
}
