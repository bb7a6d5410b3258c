package convert_test

import (
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/testreg"
)

// TestReuseOfWhatIsWanted converts an image, adds a plain layer, and converts it
// again: only what is not as wanted is written anew.
func TestReuseOfWhatIsWanted(t *testing.T) {
	reg := testreg.New(t)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer(t, [2]string{"a", strings.Repeat("a", 300_000)})}})
	src := sources(t)
	_, err := convert.Convert(t.Context(), src, reg.Ref("app", "v1"), src, reg.Ref("app", "v1-lazy"), convert.Options{})
	must(t, err)
	base, err := src.Resolve(t.Context(), reg.Ref("app", "v1-lazy"), ocispec.Platform{})
	must(t, err)
	desc := base.Manifest.Layers[0]
	data, _ := reg.Blob("app", desc.Digest)
	reg.AddImage("app", "v2", testreg.Image{Layers: []testreg.Layer{
		{Data: data, DiffID: base.Config.RootFS.DiffIDs[0], MediaType: desc.MediaType, Annotations: desc.Annotations},
		layer(t, [2]string{"b", "b"}),
	}})
	for name, tt := range map[string]struct {
		writer estargz.WriterOptions
		wanted image.Wanted
		reused bool
	}{
		"the same":        {estargz.WriterOptions{}, image.Wanted{}, true},
		"larger chunks":   {estargz.WriterOptions{ChunkSize: 2 << 20}, image.Wanted{ChunkSize: 2 << 20}, true},
		"smaller chunks":  {estargz.WriterOptions{ChunkSize: 4096}, image.Wanted{ChunkSize: 4096}, false},
		"another format":  {estargz.WriterOptions{Format: estargz.FormatZstdChunked}, image.Wanted{Zstd: true}, false},
		"another dialect": {estargz.WriterOptions{Format: estargz.FormatZstdChunked, Dialect: estargz.DialectContainers}, image.Wanted{Zstd: true, Containers: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			ref := reg.Ref("app", "out")
			res, err := convert.Convert(t.Context(), src, reg.Ref("app", "v2"), src, ref, convert.Options{Writer: tt.writer, Reusable: tt.wanted.Check(src)})
			must(t, err)
			l := res.Images[0].Layers
			if l[0].Reused != tt.reused || l[1].Reused || l[0].Reused != (l[0].Digest == desc.Digest) {
				t.Errorf("%+v", l)
			}
			verified(t, src, ref)
		})
	}
}

// verified fails the test unless everything about an image is right and lazy.
func verified(t *testing.T, src source.Mux, ref string) {
	t.Helper()
	verdicts, err := image.Verify(t.Context(), src, ref, source.Selection{All: true}, nil)
	must(t, err)
	for _, v := range verdicts {
		for _, l := range v.Layers {
			if !l.OK || !l.TOC {
				t.Errorf("%s, %s: %+v", ref, v.Platform, l)
			}
		}
	}
}

// TestEveryFormatEverywhere converts an index from each kind of place to each, and
// between the formats.
func TestEveryFormatEverywhere(t *testing.T) {
	reg := testreg.New(t)
	multi(t, reg)
	src := sources(t)
	dir := t.TempDir()
	last := reg.Ref("app", "multi")
	for _, step := range []struct {
		to     string
		writer estargz.WriterOptions
		tocRef string
	}{
		{to: "oci-archive:" + filepath.Join(dir, "a.tar") + ":v1", writer: estargz.WriterOptions{Format: estargz.FormatZstdChunked, Dialect: estargz.DialectContainers}},
		{to: "oci-archive:" + filepath.Join(dir, "a.tar") + ":v2", writer: estargz.WriterOptions{KeepDiffID: true}, tocRef: "oci-archive:" + filepath.Join(dir, "a.tar") + ":v2-esgztoc"},
		{to: "oci:" + filepath.Join(dir, "layout"), writer: estargz.WriterOptions{KeepDiffID: true}, tocRef: "oci:" + filepath.Join(dir, "layout") + ":latest-esgztoc"},
		{to: reg.Ref("other/app", "v1"), writer: estargz.WriterOptions{Format: estargz.FormatZstdChunked}},
		{to: "oci-archive:" + filepath.Join(dir, "b.tar"), writer: estargz.WriterOptions{}},
	} {
		res, err := convert.Convert(t.Context(), src, last, src, step.to, convert.Options{Select: source.Selection{All: true}, Writer: step.writer})
		if err != nil {
			t.Fatalf("%s: %v", step.to, err)
		}
		if res.TOCRef != step.tocRef || len(res.Images) != 2 {
			t.Errorf("%s: %+v", step.to, res)
		}
		verified(t, src, step.to)
		keys := 0
		img, err := src.Resolve(t.Context(), step.to, linux("arm64"))
		must(t, err)
		for key := range img.Manifest.Layers[0].Annotations {
			if strings.Contains(key, "chunked.manifest-checksum") || key == estargz.AnnotationTOCDigest && step.writer.Format == estargz.FormatEStargz {
				keys++
			}
		}
		if keys != 1 {
			t.Errorf("%s: annotations of %d formats: %v", step.to, keys, img.Manifest.Layers[0].Annotations)
		}
		last = step.to
	}
}
