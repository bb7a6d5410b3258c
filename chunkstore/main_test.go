package chunkstore_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/nineply/nineply/chunkstore"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(childEnv) != "":
		os.Exit(childMain())
	case os.Getenv(damagedEnv) != "":
		os.Exit(damagedMain())
	}
	goleak.VerifyTestMain(m)
}

// chunkOf gives the i-th chunk of a reproducible series: its size and content
// depend on i alone.
func chunkOf(i int, maxSize int) (chunkstore.Digest, []byte) {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(i))
	rng := rand.New(rand.NewChaCha8(seed))
	data := make([]byte, rng.IntN(maxSize+1))
	for j := 0; j+8 <= len(data); j += 8 {
		binary.LittleEndian.PutUint64(data[j:], rng.Uint64())
	}
	if len(data) >= 8 {
		binary.LittleEndian.PutUint64(data, uint64(i))
	}
	return sha256.Sum256(data), data
}

// open opens a store that is closed with the test, unless that was done before.
func open(t testing.TB, opt chunkstore.Options) *chunkstore.Store {
	t.Helper()
	if opt.MinFreeBytes == 0 {
		opt.MinFreeBytes = -1
	}
	s, err := chunkstore.Open(context.Background(), opt)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func closeStore(t testing.TB, s *chunkstore.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func put(t testing.TB, s *chunkstore.Store, d chunkstore.Digest, data []byte) chunkstore.Loc {
	t.Helper()
	loc, err := s.Put(context.Background(), d, data)
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	return loc
}

// readAll reads a whole chunk through Locate.
func readAll(s *chunkstore.Store, d chunkstore.Digest, size int) ([]byte, error) {
	loc, ok := s.Locate(d)
	if !ok {
		return nil, chunkstore.ErrNotFound
	}
	p := make([]byte, size)
	n, err := s.ReadAt(loc, d, p, 0)
	return p[:n], err
}

func sum(p []byte) chunkstore.Digest { return sha256.Sum256(p) }

const createFlags = os.O_RDWR | os.O_CREATE
