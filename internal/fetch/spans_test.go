package fetch_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/zran"
)

// spanIndex is a fetch.Spans made of a checkpoint file.
type spanIndex struct{ *zran.Index }

func (s spanIndex) Start(body io.Reader, lo int64) (fetch.SpanReader, int64, error) {
	return s.Index.Start(body, lo)
}

// spanFixture is a layer of chunks of 10 to 90 kB in one gzip member, with
// checkpoints about every 64 KiB.
func spanFixture(t testing.TB, n int) (*fixture, spanIndex) {
	t.Helper()
	f := &fixture{}
	rnd := rand.New(rand.NewPCG(4, 5))
	raw := make([]byte, 512)
	for range n {
		body := make([]byte, 10_000+rnd.IntN(80_000))
		for k := range body {
			body[k] = byte(rnd.Uint32() & 0x3f)
		}
		f.chunks = append(f.chunks, estargz.Chunk{Digest: estargz.Sum(body), Member: int64(len(raw)), Size: int64(len(body))})
		f.want = append(f.want, body)
		raw = append(append(raw, body...), make([]byte, 512+rnd.IntN(3000))...)
	}
	var blob bytes.Buffer
	zw := gzip.NewWriter(&blob)
	_, err := zw.Write(raw)
	if err = errors.Join(err, zw.Close()); err != nil {
		t.Fatal(err)
	}
	return f.with(blob.Bytes()), spanIndex{checkpoints(t, blob.Bytes())}
}

func (f *fixture) with(data []byte) *fixture {
	f.blob = &blob{data: data}
	return f
}

func checkpoints(t testing.TB, data []byte) *zran.Index {
	t.Helper()
	r := zran.NewRecorder(1) // the shortest span there is
	if err := r.Start(bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(io.Discard, r)
	var file bytes.Buffer
	if err = errors.Join(err, r.WriteTo(&file, sha256.Sum256(data)), r.Close()); err != nil {
		t.Fatal(err)
	}
	x, err := zran.Open(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestSpans(t *testing.T) {
	f, x := spanFixture(t, 60)
	s, _ := open(t, fetch.Options{ReadAhead: -1, MinRun: 1})
	l := s.NewSpanLayer("layer", f.blob, x, f.chunks)
	if err := f.read(t.Context(), l, 30); err != nil {
		t.Fatal(err)
	}
	lo, hi := x.Extent(f.chunks[30].Member, f.chunks[30].Size)
	got := f.blob.requests()
	if len(got) != 1 || got[0][0] != lo || got[0][0]+got[0][1] < hi || got[0][1] > f.blob.Size()/4 {
		t.Errorf("asked for %v, the chunk lies in [%d,%d) of %d", got, lo, hi, f.blob.Size())
	}
	for _, i := range rnd(60) {
		if err := f.read(t.Context(), l, i); err != nil {
			t.Fatal(err)
		}
	}
	before := len(f.blob.requests())
	until(func() bool { st := s.Stats(); return st.Queued+st.Active == 0 })
	for i := range f.chunks {
		if err := f.read(t.Context(), l, i); err != nil {
			t.Fatal(err)
		}
	}
	if after := len(f.blob.requests()); after != before {
		t.Errorf("%d more requests for what was cached", after-before)
	}
}

func rnd(n int) []int { return rand.New(rand.NewPCG(8, 9)).Perm(n) }

func TestSpansInOrderAreReadAhead(t *testing.T) {
	f, x := spanFixture(t, 60)
	s, _ := open(t, fetch.Options{})
	l := s.NewSpanLayer("layer", f.blob, x, f.chunks)
	for i := range f.chunks {
		if err := f.read(t.Context(), l, i); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(f.blob.requests()); n > len(f.chunks)/3 {
		t.Errorf("%d requests for %d chunks in order", n, len(f.chunks))
	}
	if total := l.Fetched(); total > f.blob.Size()*2 {
		t.Errorf("fetched %d bytes of a blob of %d", total, f.blob.Size())
	}
}

func TestSpansManyReaders(t *testing.T) {
	f, x := spanFixture(t, 40)
	s, _ := open(t, fetch.Options{Concurrency: 4, JoinAhead: 1})
	l := s.NewSpanLayer("layer", f.blob, x, f.chunks)
	var wg sync.WaitGroup
	errs := make(chan error, 8*len(f.chunks))
	for k := range 8 {
		wg.Go(func() {
			for _, i := range rand.New(rand.NewPCG(uint64(k), 1)).Perm(len(f.chunks)) {
				ctx, cancel := context.WithCancel(t.Context())
				if k == 7 { // one that always leaves
					cancel()
					_ = f.read(ctx, l, i) // it may have been served
					continue
				}
				errs <- f.read(ctx, l, i)
				cancel()
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestSpansDamaged(t *testing.T) {
	t.Run("once: asked again", func(t *testing.T) {
		f, x := spanFixture(t, 20)
		f.blob.hook = func(call int, off, n int64) (io.ReadCloser, error) {
			if call > 0 {
				return nil, nil
			}
			wrong := bytes.Clone(f.blob.data[off : off+n])
			wrong[len(wrong)/2] ^= 0x10
			return io.NopCloser(bytes.NewReader(wrong)), nil
		}
		s, _ := open(t, fetch.Options{ReadAhead: -1})
		l := s.NewSpanLayer("layer", f.blob, x, f.chunks)
		for i := range f.chunks {
			if err := f.read(t.Context(), l, i); err != nil {
				t.Error(err)
			}
		}
		if s.Stats().Corrupt == 0 {
			t.Error("not counted")
		}
	})
	t.Run("always: what can be right is served", func(t *testing.T) {
		f, x := spanFixture(t, 30)
		lo, hi := x.Extent(f.chunks[15].Member, f.chunks[15].Size)
		f.blob.data = bytes.Clone(f.blob.data)
		f.blob.data[(lo+hi)/2] ^= 1
		s, store := open(t, fetch.Options{})
		l := s.NewSpanLayer("the layer", f.blob, x, f.chunks)
		bad := 0
		for i, c := range f.chunks {
			clo, chi := x.Extent(c.Member, c.Size)
			err := f.read(t.Context(), l, i)
			if err == nil {
				continue
			}
			bad++
			if !fserr.Is(err, fserr.Corrupt) || !bytes.Contains([]byte(err.Error()), []byte("the layer")) || chi <= (lo+hi)/2 || clo > (lo+hi)/2 || store.Has([32]byte(c.Digest)) {
				t.Errorf("chunk %d in [%d,%d), damage at %d: %v", i, clo, chi, (lo+hi)/2, err)
			}
		}
		if bad == 0 {
			t.Error("nothing failed")
		}
	})
	t.Run("cut off: unavailable", func(t *testing.T) {
		f, x := spanFixture(t, 5)
		f.blob.hook = func(_ int, off, n int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(f.blob.data[off : off+n/9])), nil
		}
		s, _ := open(t, fetch.Options{})
		err := f.read(t.Context(), s.NewSpanLayer("layer", f.blob, x, f.chunks), 1)
		if !fserr.Is(err, fserr.Unavailable) && !fserr.Is(err, fserr.Corrupt) || errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
	})
}

func TestPlainTar(t *testing.T) {
	f, _ := spanFixture(t, 20)
	raw := make([]byte, f.chunks[19].Member+f.chunks[19].Size+1024)
	for i, c := range f.chunks {
		copy(raw[c.Member:], f.want[i])
	}
	f.with(raw)
	s, _ := open(t, fetch.Options{ReadAhead: -1, MinRun: 1, Gap: 1})
	l := s.NewSpanLayer("layer", f.blob, fetch.Plain{}, f.chunks)
	for i := range f.chunks {
		if err := f.read(t.Context(), l, i); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range f.blob.requests() {
		if c := f.chunks[i]; r[0] != c.Member || r[1] != c.Size {
			t.Errorf("request %d: %v, the chunk is at %d, %d bytes", i, r, c.Member, c.Size)
		}
	}
}

// learner is a chunk list whose digests become known.
type learner struct {
	chunkList
	mu     sync.Mutex
	digest map[uint32]estargz.Digest
}

func (l *learner) Chunk(i uint32) (estargz.Chunk, bool) {
	c, ok := l.chunkList.Chunk(i)
	l.mu.Lock()
	defer l.mu.Unlock()
	if d, known := l.digest[i]; known {
		c.Digest = d
	} else {
		c.Digest = estargz.Digest{1, 2, byte(i)}
	}
	return c, ok
}

func (l *learner) Learn(i uint32, d estargz.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.digest[i] = d
}

func TestDigestsAreLearned(t *testing.T) {
	f, x := spanFixture(t, 20)
	known := &learner{chunkList: f.chunks, digest: map[uint32]estargz.Digest{}}
	s, _ := open(t, fetch.Options{})
	l := s.NewLearnedLayer("layer", f.blob, x, known)
	for _, i := range rnd(20) {
		if err := f.read(t.Context(), l, i); err != nil {
			t.Fatal(err)
		}
	}
	until(func() bool { st := s.Stats(); return st.Queued+st.Active == 0 })
	before := len(f.blob.requests())
	for i, c := range f.chunks {
		if known.digest[uint32(i)] != c.Digest {
			t.Errorf("chunk %d has digest %s, learned %s", i, c.Digest, known.digest[uint32(i)])
		}
		if err := f.read(t.Context(), l, i); err != nil {
			t.Fatal(err)
		}
	}
	if after := len(f.blob.requests()); after != before {
		t.Errorf("%d more requests for what was cached", after-before)
	}
}
