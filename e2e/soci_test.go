package e2e_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/demoimage"
	"github.com/nineply/nineply/internal/demoimage/treesum"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/layout"
)

// parts are what a layout is made of.
type parts struct {
	t      *testing.T
	pusher source.Pusher
}

func (p parts) blob(mediaType string, data []byte) ocispec.Descriptor {
	p.t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	must(p.t, p.pusher.PushBlob(p.t.Context(), d, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }))
	return d
}

func (p parts) manifest(tag, mediaType string, v any) ocispec.Descriptor {
	p.t.Helper()
	data, err := json.Marshal(v)
	must(p.t, err)
	d, err := p.pusher.PushManifest(p.t.Context(), tag, mediaType, data)
	must(p.t, err)
	return d
}

func sociFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../internal/soci/testdata", name))
	must(t, err)
	return data
}

func unzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(data))
	must(t, err)
	out, err := io.ReadAll(zr)
	must(t, err)
	return out
}

// TestSOCIImage mounts an image that has a SOCI index in its image index, made of a zTOC
// that SOCI's own builder wrote.
func TestSOCIImage(t *testing.T) {
	start(t)
	ref := source.LayoutPrefix + t.TempDir() + ":v1"
	pusher, err := layout.New().Pusher(t.Context(), ref)
	must(t, err)
	p := parts{t, pusher}
	versioned := specs.Versioned{SchemaVersion: 2}

	blob := sociFile(t, "layer.tar.gz")
	layer := p.blob(ocispec.MediaTypeImageLayerGzip, blob)
	platform := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	config, err := json.Marshal(ocispec.Image{Platform: platform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(unzipped(t, blob))}}})
	must(t, err)
	image := p.manifest("", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: versioned, MediaType: ocispec.MediaTypeImageManifest,
		Config: p.blob(ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{layer},
	})
	ztoc := p.blob("application/octet-stream", unzipped(t, sociFile(t, "layer.ztoc.gz")))
	ztoc.Annotations = map[string]string{"com.amazon.soci.image-layer-digest": layer.Digest.String()}
	index := p.manifest("", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: versioned, MediaType: ocispec.MediaTypeImageManifest,
		Config: p.blob("application/vnd.amazon.soci.index.v2+json", []byte("{}")), Layers: []ocispec.Descriptor{ztoc},
	})
	image.Platform, image.Annotations = &platform, map[string]string{"com.amazon.soci.index-digest": index.Digest.String()}
	p.manifest("v1", ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{image, index},
	})

	path, err := filepath.Abs("../internal/soci/testdata/layer.tar.gz")
	must(t, err)
	want := reference(t, &demoimage.Image{Layers: []demoimage.Layer{{Path: path}}})
	d := harness.StartDaemon(t, programs, harness.DaemonOptions{})
	dir := d.Mount(t, ref)
	for _, l := range layers(t, d) {
		if l.Format != "soci" || !l.Lazy {
			t.Errorf("%+v", l)
		}
	}
	got, err := treesum.Walk(dir, treesum.Options{})
	must(t, err)
	same(t, want, got, treesum.Compare{})
	if whole := status(t, d).Fetch.Whole; whole != 0 {
		t.Errorf("%d bytes were read whole", whole)
	}
}
