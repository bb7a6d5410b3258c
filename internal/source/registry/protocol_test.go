package registry_test

import (
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testreg"
)

// TestProtocols counts the connections that reads take: with HTTP/2, where a host
// offers it, one for all at once, and elsewhere one for those after each other.
func TestProtocols(t *testing.T) {
	for name, tt := range map[string]struct {
		tls   bool
		proto string
		once  int // reads at a time
	}{
		"plain": {false, "HTTP/1.1", 1},
		"TLS":   {true, "HTTP/2.0", 8},
	} {
		t.Run(name, func(t *testing.T) {
			f := secureFixture(t, registry.Options{}, tt.tls)
			var mu sync.Mutex
			protos, conns := map[string]int{}, map[string]int{}
			f.Always(f.match(), func(x testreg.Exchange) {
				mu.Lock()
				protos[x.R.Proto]++
				conns[x.R.RemoteAddr]++
				mu.Unlock()
				x.Serve(x.W, x.R)
			})
			if err := f.readRange(t.Context(), 0, 10); err != nil { // makes the connection
				t.Fatal(err)
			}
			for round := range 4 {
				var wg sync.WaitGroup
				for i := range tt.once {
					wg.Go(func() {
						if err := f.readRange(t.Context(), 1000*round+100*i, 100); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
			}
			mu.Lock()
			defer mu.Unlock()
			if len(protos) != 1 || protos[tt.proto] != 1+4*tt.once {
				t.Errorf("asked with %v, want %s", protos, tt.proto)
			}
			if len(conns) != 1 {
				t.Errorf("over %v", slices.Collect(maps.Keys(conns)))
			}
		})
	}
}
