package fetch_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/fetch"
)

// slowStore takes chunks only while its gate is open.
type slowStore struct {
	*chunkstore.Store
	gate chan struct{}
}

func (s slowStore) PutVerified(ctx context.Context, v chunkstore.Verified) (chunkstore.Loc, error) {
	<-s.gate
	return s.Store.PutVerified(ctx, v)
}

// Readers get the bytes of a chunk that the store does not have yet, however many
// of them there are and whatever else is decoded meanwhile.
func TestReadersDoNotWaitForTheStore(t *testing.T) {
	f := newFixture(t, sizes(100, 100_000)...)
	_, under := open(t, fetch.Options{})
	store := slowStore{under, make(chan struct{})}
	s := fetch.New(t.Context(), store, fetch.Options{ReadAhead: -1})
	defer s.Close()
	l := s.NewLayer("the layer", f.blob, f.chunks)
	l.Prefetch(f.blob.Size())
	var readers sync.WaitGroup
	for k := range 8 {
		readers.Go(func() {
			rnd := rand.New(rand.NewPCG(7, uint64(k)))
			for range 10 {
				if err := f.read(t.Context(), l, rnd.IntN(4)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	readers.Wait()
	close(store.gate)
	for i := range f.chunks {
		if err := f.read(t.Context(), l, i); err != nil {
			t.Fatal(err)
		}
	}
}
