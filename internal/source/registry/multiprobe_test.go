package registry_test

import (
	"net/http"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testreg"
)

// oneRange answers requests for several ranges as a host does that does not know
// them.
func oneRange(x testreg.Exchange) {
	if strings.Contains(x.R.Header.Get("Range"), ",") {
		x.R.Header.Del("Range")
	}
	x.Serve(x.W, x.R)
}

// TestLearnsRangesFromConfig has an image resolved, whose config tells whether its
// host takes several ranges, and then asks for some.
func TestLearnsRangesFromConfig(t *testing.T) {
	several := func(f testreg.Fault) testreg.Fault {
		return func(x testreg.Exchange) {
			if strings.Contains(x.R.Header.Get("Range"), ",") {
				f(x)
				return
			}
			x.Serve(x.W, x.R)
		}
	}
	for name, tt := range map[string]struct {
		fault   testreg.Fault // of the config
		config  int           // requests
		takes   bool
		storage bool
	}{
		"it does":                    {nil, 1, true, false},
		"its storage does":           {nil, 2, true, true}, // the redirect, and what it leads to
		"it does not":                {oneRange, 1, false, false},
		"it refuses them":            {several(testreg.Status(http.StatusRequestedRangeNotSatisfiable)), 2, false, false},
		"it fails":                   {several(testreg.NotFound()), 2, true, false},
		"it gives the wrong content": {several(multipart(nil, [2]string{"bytes 0-499/1000", "0"})), 2, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			var opts []testreg.Option
			if tt.storage {
				opts = append(opts, testreg.WithRedirects())
			}
			f := newFixture(t, registry.Options{}, opts...)
			added := f.AddImage("demo", "v1", testreg.Image{Layers: []testreg.Layer{{Data: f.data}}})
			config := testreg.Match{Digest: added.Config.Digest}
			if tt.fault != nil {
				f.Always(config, tt.fault)
				f.Always(f.match(), tt.fault)
			}
			if _, err := f.client.Resolve(t.Context(), f.Ref("demo", "v1"), ocispec.Platform{OS: "linux", Architecture: "amd64"}); err != nil {
				t.Fatal(err)
			}
			if n := f.Count(config).Requests; n != tt.config {
				t.Errorf("%d requests for the config, want %d", n, tt.config)
			}
			multi, ok := f.blob.(source.MultiRanger)
			if !ok || multi.TakesRanges() != tt.takes {
				t.Fatalf("takes several ranges: %v", !tt.takes)
			}
			if tt.takes {
				return
			}
			if _, err := f.readRanges(t, threeRanges); !fserr.Is(err, fserr.Unsupported) {
				t.Errorf("several ranges: %v", err)
			}
			if n := f.Count(f.match()).Requests; n != 0 {
				t.Errorf("%d requests for what is known to be in vain", n)
			}
		})
	}
}
