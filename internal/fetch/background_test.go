package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
)

func TestReadRaw(t *testing.T) {
	f := newFixture(t, sizes(8, 64<<10)...)
	s, _ := open(t, fetch.Options{})
	l := s.NewLayer("image", f.blob, f.chunks)
	p := make([]byte, 100_000)
	n, err := l.ReadRaw(t.Context(), p, 1000)
	if err != nil || n != len(p) || !bytes.Equal(p, f.blob.data[1000:1000+n]) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	st := s.Stats()
	if st.Requests["background"] != 1 || st.Bytes["background"] != int64(n) || st.Requests["demand"] != 0 || l.Fetched() != int64(n) {
		t.Errorf("%+v", st)
	}
	if _, err := s.NewStreamLayer("image", nil, f.chunks).ReadRaw(t.Context(), p, 0); !fserr.Is(err, fserr.Unsupported) {
		t.Errorf("a layer without ranges: %v", err)
	}
}

// stuck is a body that gives its bytes and then nothing, until it is closed or its
// request ends.
type stuck struct {
	io.Reader
	ctx context.Context
}

func (s *stuck) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		<-s.ctx.Done()
		return n, s.ctx.Err()
	}
	return n, err
}

func (s *stuck) Close() error { return nil }

// stuckBlob has the request that comes first stuck after some bytes.
type stuckBlob struct {
	*blob
	bytes int64
	began chan struct{}
}

func (b *stuckBlob) OpenRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	rc, err := b.blob.OpenRange(ctx, off, n)
	if len(b.requests()) > 1 || err != nil {
		return rc, err
	}
	close(b.began)
	return &stuck{io.LimitReader(rc, b.bytes), ctx}, nil
}

// TestDemandStopsBackground: a reader does not share the connection, not even where
// there is but one slot.
func TestDemandStopsBackground(t *testing.T) {
	f := newFixture(t, sizes(8, 64<<10)...)
	s, _ := open(t, fetch.Options{Concurrency: 1, ReadAhead: -1})
	b := &stuckBlob{f.blob, 5000, make(chan struct{})}
	l := s.NewLayer("image", b, f.chunks)
	type result struct {
		n   int
		err error
	}
	done := make(chan result)
	p := make([]byte, 100_000)
	go func() {
		n, err := l.ReadRaw(t.Context(), p, 0)
		done <- result{n, err}
	}()
	<-b.began
	if err := f.read(t.Context(), l, 3); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.err != nil || r.n > 5000 || !bytes.Equal(p[:r.n], f.blob.data[:r.n]) {
		t.Errorf("%+v", r)
	}
	if err := s.Idle(t.Context(), time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if n, err := l.ReadRaw(t.Context(), p, 0); err != nil || n != len(p) {
		t.Errorf("afterwards: %d bytes, %v", n, err)
	}
}

func TestIdleWaitsForReaders(t *testing.T) {
	f := newFixture(t, sizes(4, 1000)...)
	f.blob.gate = make(chan struct{})
	s, _ := open(t, fetch.Options{ReadAhead: -1})
	l := s.NewLayer("image", f.blob, f.chunks)
	if err := s.Idle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() { read <- f.read(t.Context(), l, 0) }()
	until(func() bool { return s.Stats().Active == 1 })
	idle := make(chan error)
	go func() { idle <- s.Idle(t.Context(), 0) }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Idle(ctx, 0); !fserr.Is(err, fserr.Canceled) {
		t.Errorf("given up: %v", err)
	}
	select {
	case err := <-idle:
		t.Fatalf("idle while a reader waits: %v", err)
	default:
	}
	close(f.blob.gate)
	if err := errors.Join(<-read, <-idle); err != nil {
		t.Error(err)
	}
}

func TestReadRawEnds(t *testing.T) {
	f := newFixture(t, sizes(4, 1000)...)
	s, _ := open(t, fetch.Options{})
	b := &stuckBlob{f.blob, 10, make(chan struct{})}
	l := s.NewLayer("image", b, f.chunks)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := l.ReadRaw(ctx, make([]byte, 1000), 0); done <- err }()
	<-b.began
	cancel()
	if err := <-done; !fserr.Is(err, fserr.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	f.blob.hook = func(int, int64, int64) (io.ReadCloser, error) {
		return nil, fserr.New(fserr.Unavailable, "read", "blob", nil)
	}
	if _, err := l.ReadRaw(t.Context(), make([]byte, 1000), 0); !fserr.Is(err, fserr.Unavailable) {
		t.Errorf("no source: %v", err)
	}
	f.blob.hook = func(int, int64, int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(nil)), nil }
	if _, err := l.ReadRaw(t.Context(), make([]byte, 1000), 0); !fserr.Is(err, fserr.Unavailable) {
		t.Errorf("short body: %v", err)
	}
	s.Close()
	if _, err := l.ReadRaw(t.Context(), make([]byte, 1000), 0); !fserr.Is(err, fserr.Closed) {
		t.Errorf("closed: %v", err)
	}
	if err := s.Idle(t.Context(), time.Hour); !fserr.Is(err, fserr.Closed) {
		t.Errorf("closed: %v", err)
	}
}

// TestKeep: what the background found need not be fetched.
func TestKeep(t *testing.T) {
	f := newFixture(t, sizes(2, 1000)...)
	s, _ := open(t, fetch.Options{})
	l := s.NewLayer("image", f.blob, f.chunks)
	for range 2 {
		if err := l.Keep(t.Context(), 1, chunkstore.Hash(f.want[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Keep(t.Context(), 0, chunkstore.Hash(f.want[1])); err == nil {
		t.Error("kept other bytes")
	}
	if err := l.Keep(t.Context(), 9, chunkstore.Hash(f.want[0])); err == nil {
		t.Error("kept a chunk that is not there")
	}
	if err := f.read(t.Context(), l, 1); err != nil {
		t.Error(err)
	}
	if r := f.blob.requests(); len(r) > 0 {
		t.Errorf("requests %v", r)
	}
}
