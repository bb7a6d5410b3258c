package fetch_test

import (
	"testing"
	"time"

	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/source"
)

// costly is a blob whose source knows what a request costs.
type costly struct {
	*blob
	cost source.Cost
}

func (c costly) Cost() (source.Cost, bool) { return c.cost, c.cost != source.Cost{} }

// The dearer a request, the more of its neighbours come with what is demanded, up
// to a bound.
func TestDemandIsExtendedByWhatARequestCosts(t *testing.T) {
	f := newFixture(t, sizes(160, 20_000)...) // compressed to three quarters
	for _, test := range []struct {
		name     string
		cost     source.Cost
		min, max int64
	}{
		{"not known", source.Cost{}, 100 << 10, 128 << 10},
		{"a loopback interface", source.Cost{RoundTrip: 200 * time.Microsecond, BytesPerSecond: 1e9}, 100 << 10, 128 << 10},
		{"far", source.Cost{RoundTrip: 20 * time.Millisecond, BytesPerSecond: 50e6}, 220_000, 250_000},
		{"very far", source.Cost{RoundTrip: 300 * time.Millisecond, BytesPerSecond: 1e9}, 1000 << 10, 1 << 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := &blob{data: f.blob.data}
			s, _ := open(t, fetch.Options{})
			l := s.NewLayer("layer", costly{b, test.cost}, f.chunks)
			if err := f.read(t.Context(), l, 0); err != nil {
				t.Fatal(err)
			}
			if n := b.requests()[0][1]; n < test.min || n > test.max {
				t.Errorf("asked for %d bytes, want %d to %d", n, test.min, test.max)
			}
		})
	}
}
