package image_test

import (
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/registry"
)

// TestInspectSOCI: a layer is lazy by the SOCI index that the image index names,
// not by one that nothing vouches for, and not when it was rewritten.
func TestInspectSOCI(t *testing.T) {
	r := registry.New(registry.Options{Attempts: 1})
	defer r.Close() //nolint:errcheck // idle connections
	src := source.Mux{Registry: r}
	all := source.Selection{All: true}
	for version, want := range map[string]bool{"v1": false, "v2": true} {
		s := goldenSOCI(t, version, "layer.tar.gz", "layer.ztoc.gz")
		for _, sel := range []source.Selection{{}, all} {
			reports, err := image.InspectAll(t.Context(), src, s.Ref("app", "v1"), sel)
			if err != nil || len(reports) != 1 {
				t.Fatalf("%v, %v", reports, err)
			}
			l := reports[0].Layers[0]
			if l.Lazy != want || (l.Format == "soci") != want || want && (l.TOCSize == 0 || l.ColdRequests != 1) {
				t.Errorf("%s: %+v", version, l)
			}
		}
		if !want {
			continue
		}
		res, err := convert.Convert(t.Context(), src, s.Ref("app", "v1"), src, s.Ref("app", "lazy"), convert.Options{Select: all})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(res.Notes, "\n"), "left out: "+s.index.Digest.String()) {
			t.Errorf("%v", res.Notes)
		}
		reports, err := image.InspectAll(t.Context(), src, s.Ref("app", "lazy"), all)
		if err != nil || reports[0].Layers[0].Format != "estargz" {
			t.Errorf("%+v, %v", reports, err)
		}
		s.RemoveBlob(s.layer.Digest)
	}
}
