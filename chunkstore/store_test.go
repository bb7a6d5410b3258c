package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/fserr"
)

func TestReadRanges(t *testing.T) {
	s := open(t, chunkstore.Options{Dir: t.TempDir()})
	sizes := []int{0, 1, 63, 64, 4095, 4096, 4097, 8192, 16384, 16385, 20000, 65536, 131072, 131073, 1 << 20, 5<<20 + 17, 17 << 20}
	for i, size := range sizes {
		data := bytes.Repeat([]byte{byte(i + 1)}, size)
		for j := range data {
			data[j] += byte(j >> 3)
		}
		d := sum(data)
		loc := put(t, s, d, data)
		for _, r := range ranges(size) {
			for range 3 { // unknown, met before, remembered
				checkRange(t, s, loc, d, data, r[0], r[1])
			}
		}
	}
}

// ranges gives offsets and lengths that begin and end at and around blocks.
func ranges(size int) [][2]int {
	var out [][2]int
	for _, off := range []int{0, 1, 4095, 4096, 5000, size / 2, size - 1, size, size + 1} {
		for _, n := range []int{0, 1, 100, 4095, 4096, 4097, 12288, 65536, size, size + 10} {
			if off >= 0 {
				out = append(out, [2]int{off, n})
			}
		}
	}
	return out
}

func checkRange(t *testing.T, s *chunkstore.Store, loc chunkstore.Loc, d chunkstore.Digest, data []byte, off, n int) {
	t.Helper()
	p := make([]byte, n)
	got, err := s.ReadAt(loc, d, p, int64(off))
	if err != nil {
		t.Fatalf("size %d: read %d at %d: %v", len(data), n, off, err)
	}
	want := data[min(off, len(data)):min(off+n, len(data))]
	if !bytes.Equal(p[:got], want) {
		t.Fatalf("size %d: read %d at %d: wrong bytes (%d read, want %d)", len(data), n, off, got, len(want))
	}
}

func TestPutRefuses(t *testing.T) {
	s := open(t, chunkstore.Options{Dir: t.TempDir()})
	d, data := chunkOf(1, 5000)
	other, _ := chunkOf(2, 5000)
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	big := make([]byte, chunkstore.MaxChunk+1)
	tests := []struct {
		name string
		ctx  context.Context
		d    chunkstore.Digest
		data []byte
		kind fserr.Kind
	}{
		{"wrong digest", context.Background(), other, data, fserr.Corrupt},
		{"too large", context.Background(), sum(big), big, fserr.TooLarge},
	}
	for _, tt := range tests {
		if _, err := s.Put(tt.ctx, tt.d, tt.data); fserr.KindOf(err) != tt.kind {
			t.Errorf("%s: %v, want kind %v", tt.name, err, tt.kind)
		}
		if s.Has(tt.d) {
			t.Errorf("%s: stored", tt.name)
		}
	}
	if _, err := s.Put(context.Background(), other, data); !errors.Is(err, chunkstore.ErrDigest) {
		t.Errorf("wrong digest: %v", err)
	}
	if _, err := s.Put(canceled, d, data); err != nil && fserr.KindOf(err) != fserr.Canceled {
		t.Errorf("canceled: %v", err)
	}
}

func TestDedup(t *testing.T) {
	s := open(t, chunkstore.Options{Dir: t.TempDir()})
	d, data := chunkOf(1, 100000)
	first := put(t, s, d, data)
	bytesBefore := s.Stats().Bytes
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if loc, err := s.Put(context.Background(), d, data); err != nil || loc != first {
				t.Errorf("put again: %v, %v; want %v", loc, err, first)
			}
		})
	}
	wg.Wait()
	st := s.Stats()
	if st.Bytes != bytesBefore || st.Puts != 1 || st.Dedups != 8 || st.Chunks != 1 {
		t.Errorf("stats after putting again: %+v", st)
	}
}

func TestRestart(t *testing.T) {
	opt := chunkstore.Options{Dir: t.TempDir(), SegmentBytes: 256 << 10}
	const n = 200
	for round := range 4 {
		s := open(t, opt)
		for i := range n * round {
			checkChunk(t, s, i, 9000)
		}
		for i := n * round; i < n*(round+1); i++ {
			d, data := chunkOf(i, 9000)
			put(t, s, d, data)
		}
		st := s.Stats()
		if st.Chunks < int64(n*(round+1)-5) || st.Chunks > int64(n*(round+1)) { // empty chunks may repeat
			t.Fatalf("round %d: %d chunks", round, st.Chunks)
		}
		closeStore(t, s)
		closed := s.Stats()
		s = open(t, opt)
		if now := s.Stats(); now.Bytes != closed.Bytes || now.Chunks != closed.Chunks || now.Segments != closed.Segments {
			t.Fatalf("round %d: reopened with %+v, closed with %+v", round, now, closed)
		}
		closeStore(t, s)
	}
}

func checkChunk(t testing.TB, s *chunkstore.Store, i, maxSize int) {
	t.Helper()
	d, data := chunkOf(i, maxSize)
	got, err := readAll(s, d, len(data)+1)
	if err != nil {
		t.Fatalf("chunk %d: %v", i, err)
	}
	if !bytes.Equal(got, data) {
		t.Fatalf("chunk %d: wrong bytes", i)
	}
}

func TestRestartsDoNotLeaveSmallSegments(t *testing.T) {
	opt := chunkstore.Options{Dir: t.TempDir()}
	for i := range 20 {
		s := open(t, opt)
		d, data := chunkOf(i, 9000)
		put(t, s, d, data)
		closeStore(t, s)
	}
	s := open(t, opt)
	for i := range 20 {
		checkChunk(t, s, i, 9000)
	}
	if st := s.Stats(); st.Segments != 1 || st.Chunks != 20 {
		t.Errorf("after 20 restarts: %+v", st)
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, chunkstore.Options{Dir: dir})
	_, err := chunkstore.Open(context.Background(), chunkstore.Options{Dir: dir})
	if !fserr.Is(err, fserr.Busy) || !bytes.Contains([]byte(err.Error()), []byte(dir)) {
		t.Errorf("second open: %v", err)
	}
}

func TestClosed(t *testing.T) {
	s := open(t, chunkstore.Options{Dir: t.TempDir()})
	d, data := chunkOf(1, 5000)
	loc := put(t, s, d, data)
	closeStore(t, s)
	ctx := context.Background()
	_, putErr := s.Put(ctx, d, data)
	_, readErr := s.ReadAt(loc, d, data, 0)
	_, evictErr := s.Evict(ctx, 1)
	_, getErr := s.Records().Get(ctx, "k")
	for name, err := range map[string]error{
		"put": putErr, "read": readErr, "evict": evictErr, "get": getErr, "sync": s.Sync(ctx),
		"verify": s.Verify(ctx, nil), "rebuild": s.Rebuild(ctx, nil), "close": s.Close(),
		"put record": s.Records().Put(ctx, "k", nil),
	} {
		if !errors.Is(err, chunkstore.ErrClosed) {
			t.Errorf("%s after close: %v", name, err)
		}
	}
	if _, ok := s.Locate(d); ok || s.Has(d) {
		t.Error("found after close")
	}
}

func TestLostIndexIsRebuilt(t *testing.T) {
	tests := []struct {
		name string
		harm func(t *testing.T, dir string)
	}{
		{"index removed", func(t *testing.T, dir string) { remove(t, dir, "index") }},
		{"state removed", func(t *testing.T, dir string) { remove(t, dir, "STORE") }},
		{"both removed", func(t *testing.T, dir string) { remove(t, dir, "index"); remove(t, dir, "STORE") }},
		{"state damaged", func(t *testing.T, dir string) { flip(t, filepath.Join(dir, "STORE"), 20) }},
		{"manifest damaged", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "index", "MANIFEST"), []byte("nonsense"))
		}},
		{"index is a file", func(t *testing.T, dir string) {
			remove(t, dir, "index")
			write(t, filepath.Join(dir, "index"), []byte("nonsense"))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opt := chunkstore.Options{Dir: t.TempDir(), SegmentBytes: 256 << 10}
			s := open(t, opt)
			const n = 150
			for i := range n {
				d, data := chunkOf(i, 9000)
				put(t, s, d, data)
			}
			closeStore(t, s)
			before := s.Stats()
			tt.harm(t, opt.Dir)
			s = open(t, opt)
			for i := range n {
				checkChunk(t, s, i, 9000)
			}
			if st := s.Stats(); st.Chunks != before.Chunks || st.Bytes != before.Bytes {
				t.Errorf("rebuilt %+v, had %+v", st, before)
			}
			checkVerify(t, s, before.Chunks)
		})
	}
}

// checkVerify demands that all chunks are whole, and that there are so many of them;
// any number if want is negative.
func checkVerify(t testing.TB, s *chunkstore.Store, want int64) {
	t.Helper()
	var n int64
	err := s.Verify(context.Background(), func(c chunkstore.Checked) error {
		n++
		return c.Err
	})
	if err != nil || want >= 0 && n != want {
		t.Errorf("verify: %v, %d chunks, want %d", err, n, want)
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// flip inverts one byte of a file.
func flip(t *testing.T, name string, at int) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= 0xff
	write(t, name, data)
}
