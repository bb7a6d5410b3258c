package fetch_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fetch"
)

// chunkList is a fetch.ChunkMap in memory.
type chunkList []estargz.Chunk

func (c chunkList) NumChunks() int { return len(c) }
func (c chunkList) Chunk(i uint32) (estargz.Chunk, bool) {
	if int(i) >= len(c) {
		return estargz.Chunk{}, false
	}
	return c[i], true
}
func (c chunkList) ChunksFrom(member int64) uint32 {
	for i, ch := range c {
		if ch.Member >= member {
			return uint32(i)
		}
	}
	return uint32(len(c))
}

// blob is a source.Blob in memory that counts requests and can be made to fail
// or to wait.
type blob struct {
	data []byte

	mu     sync.Mutex
	ranges [][2]int64
	hook   func(call int, off, n int64) (io.ReadCloser, error) // nil result: serve
	gate   chan struct{}                                       // when not nil, requests wait for it
}

func (b *blob) Size() int64 { return int64(len(b.data)) }

func (b *blob) ReadRange(ctx context.Context, off int64, p []byte) error {
	rc, err := b.OpenRange(ctx, off, int64(len(p)))
	if err != nil {
		return err
	}
	_, err = io.ReadFull(rc, p)
	return errors.Join(err, rc.Close())
}

func (b *blob) Stream(ctx context.Context, off int64) (io.ReadCloser, error) {
	return b.OpenRange(ctx, off, b.Size()-off)
}

func (b *blob) OpenRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	b.mu.Lock()
	call := len(b.ranges)
	b.ranges = append(b.ranges, [2]int64{off, n})
	hook, gate := b.hook, b.gate
	b.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if hook != nil {
		if rc, err := hook(call, off, n); rc != nil || err != nil {
			return rc, err
		}
	}
	return io.NopCloser(bytes.NewReader(b.data[off : off+n])), nil
}

func (b *blob) requests() [][2]int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([][2]int64(nil), b.ranges...)
}

// fixture is one layer with known content.
type fixture struct {
	blob   *blob
	chunks chunkList
	want   [][]byte // content of each chunk
}

// newFixture writes files of the given sizes as an eStargz layer in which every
// file has members of its own.
func newFixture(t testing.TB, sizes ...int) *fixture {
	t.Helper()
	var raw, out bytes.Buffer
	tw := tar.NewWriter(&raw)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i, n := range sizes {
		body := make([]byte, n)
		for k := range body {
			body[k] = byte(rnd.Uint32() & 0x3f)
		}
		if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("f%05d", i), Mode: 0o644, Size: int64(n), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	w := estargz.NewWriter(&out, estargz.WriterOptions{ChunkSize: 64 << 10, MinMemberSize: -1})
	if err := w.AppendTar(t.Context(), &raw); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f := &fixture{blob: &blob{data: out.Bytes()}}
	f.index(t)
	return f
}

func (f *fixture) index(t testing.TB) {
	t.Helper()
	size := f.blob.Size()
	footer, err := estargz.ParseFooter(f.blob.data[size-estargz.FooterSize:])
	if err != nil {
		t.Fatal(err)
	}
	off, n, err := footer.TOCRange(size, estargz.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	_, err = estargz.ReadTOC(f.blob.data[off:off+n], footer, estargz.DefaultLimits(), func(e *estargz.Entry) error {
		if e.HasChunkDigest && e.Name != estargz.NoPrefetchLandmark {
			f.chunks = append(f.chunks, estargz.Chunk{Digest: e.ChunkDigest, Offset: e.ChunkOffset, Size: e.ChunkSize, Member: e.Offset, Inner: e.InnerOffset})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range f.chunks {
		end := footer.TOCOffset
		if i+1 < len(f.chunks) {
			end = f.chunks[i+1].Member
		}
		f.chunks[i].MemberSize = end - f.chunks[i].Member
		body := make([]byte, f.chunks[i].Size)
		err := estargz.DecodeMember(f.blob.data[f.chunks[i].Member:end], f.chunks[i:i+1], func(_ int, p []byte) error {
			copy(body, p)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		f.want = append(f.want, body)
	}
}

func open(t testing.TB, opts fetch.Options) (*fetch.Scheduler, *chunkstore.Store) {
	t.Helper()
	store, err := chunkstore.Open(t.Context(), chunkstore.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := fetch.New(context.WithoutCancel(t.Context()), store, opts)
	t.Cleanup(func() {
		s.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, store
}

// read reads chunk i whole and compares it.
func (f *fixture) read(ctx context.Context, l *fetch.Layer, i int) error {
	p := make([]byte, len(f.want[i]))
	n, err := l.Read(ctx, uint32(i), p, 0)
	if err != nil {
		return err
	}
	if n != len(p) || !bytes.Equal(p, f.want[i]) {
		return fmt.Errorf("chunk %d: wrong bytes", i)
	}
	return nil
}

// until waits for another goroutine to come to a point; the test's own time-out
// ends a wait that never does.
func until(reached func() bool) {
	for !reached() {
		runtime.Gosched()
	}
}

func sizes(n, size int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = size
	}
	return s
}
