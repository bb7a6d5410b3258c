package convert_test

import (
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/testreg"
)

// TestOrderOfEachLayer gives each layer its own files to come first. The landmark
// is behind them, and says where there are none that nothing is to be fetched.
// Converted again, layers that have their order are kept.
func TestOrderOfEachLayer(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<16)
	for format, writer := range map[string]estargz.WriterOptions{
		"estargz":    {},
		"zstd":       {Format: estargz.FormatZstdChunked},
		"containers": {Format: estargz.FormatZstdChunked, Dialect: estargz.DialectContainers},
	} {
		t.Run(format, func(t *testing.T) {
			reg := testreg.New(t)
			reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{
				layer(t, [2]string{"a", big}, [2]string{"b", "below"}, [2]string{"c", "c"}),
				layer(t, [2]string{"b", "above"}, [2]string{"d", big}),
				layer(t, [2]string{"e", "e"}),
			}})
			src := sources(t)
			lists := [][]string{{"c", "/a/../a", "c"}, {"b", "none"}, nil}
			opts := convert.Options{
				Writer: writer,
				Order:  func(_ *source.Image, i int) []string { return lists[i] },
			}
			first, err := convert.Convert(t.Context(), src, reg.Ref("app", "v1"), src, reg.Ref("app", "first"), opts)
			must(t, err)
			layers := first.Images[0].Layers
			if !slices.Equal(first.NotFound, []string{"none"}) || layers[1].First != 1 || layers[2].First != 0 {
				t.Errorf("%+v", first)
			}
			if layers[0].First != 2 || layers[0].Prefetch <= layers[1].Prefetch || layers[1].Prefetch == 0 || layers[2].Prefetch != 0 {
				t.Errorf("%+v", layers)
			}
			verified(t, src, reg.Ref("app", "first"))
			report, err := image.Inspect(t.Context(), src, reg.Ref("app", "first"), ocispec.Platform{})
			must(t, err)
			none := "none"
			if writer.Dialect == estargz.DialectContainers {
				none = "" // what is not reordered stays to the byte
			}
			for i, want := range []string{"prefetch", "prefetch", none} {
				if l := report.Layers[i]; l.Landmark != want || l.Prefetch != layers[i].Prefetch {
					t.Errorf("layer %d: landmark %q, %d bytes, want %q, %d", i, l.Landmark, l.Prefetch, want, layers[i].Prefetch)
				}
			}
			wanted := image.Wanted{Zstd: writer.Format == estargz.FormatZstdChunked, Containers: writer.Dialect == estargz.DialectContainers}
			opts.Reusable = wanted.Check(src)
			lists = [][]string{{"c", "a"}, nil, {"missing"}}
			again, err := convert.Convert(t.Context(), src, reg.Ref("app", "first"), src, reg.Ref("app", "again"), opts)
			must(t, err)
			for i, want := range []bool{true, false, true} {
				l := again.Images[0].Layers[i]
				if l.Reused != want || want && l.Prefetch != layers[i].Prefetch {
					t.Errorf("layer %d: %+v, reused %v", i, l, want)
				}
			}
			if l := again.Images[0].Layers; l[0].First != 2 || l[1].First+l[2].First != 0 || l[1].Prefetch+l[2].Prefetch != 0 {
				t.Errorf("%+v", again.Images[0].Layers)
			}
		})
	}
}

// TestOrderOfSharedLayers: a layer of two images has the files of both first.
func TestOrderOfSharedLayers(t *testing.T) {
	reg := testreg.New(t)
	multi(t, reg)
	src := sources(t)
	asked := map[digest.Digest]bool{}
	res, err := convert.Convert(t.Context(), src, reg.Ref("app", "multi"), src, reg.Ref("app", "ordered"), convert.Options{
		Select: source.Selection{All: true},
		Order: func(img *source.Image, _ int) []string {
			asked[img.Digest] = true
			return []string{"shared", "arch", "nowhere-" + img.Config.Architecture, "shared"}
		},
	})
	must(t, err)
	slices.Sort(res.NotFound)
	if len(asked) != 2 || !slices.Equal(res.NotFound, []string{"nowhere-amd64", "nowhere-arm64"}) {
		t.Errorf("%d images asked, %+v", len(asked), res)
	}
	for _, img := range res.Images {
		if img.Layers[0].First != 1 || img.Layers[1].First != 1 {
			t.Errorf("%+v", img)
		}
	}
	verified(t, src, reg.Ref("app", "ordered"))
}
