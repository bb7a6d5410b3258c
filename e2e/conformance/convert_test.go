package conformance_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	upstream "github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/metadata"
	"github.com/containerd/stargz-snapshotter/metadata/memory"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/e2e/conformance/corpus"
)

// TestConvertedImagesAreRead: upstream's library reads the layers of an image
// that the nineply command converted, going by what the manifest says of them.
func TestConvertedImagesAreRead(t *testing.T) {
	im, err := smallImage()
	must(t, err)
	dir := t.TempDir()
	program := filepath.Join(dir, "nineply")
	run(t, "go", "-C", "../..", "build", "-o", program, "./cmd/nineply")
	layout := filepath.Join(dir, "layout")
	for name, flags := range map[string][]string{
		"estargz":     nil,
		"lossless":    {"--keep-diff-id"},
		"zstdchunked": {"--format", "zstd:chunked"},
		"containers":  {"--format", "zstd:chunked", "--dialect", "containers"},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, append([]string{program, "convert", "oci:" + im.Dir + ":" + im.Tag, "oci:" + layout + ":" + name}, flags...)...)
			converted(t, layout, name)
		})
	}
}

// converted compares the layers of an image in a layout with the sources.
func converted(t *testing.T, dir, tag string) {
	t.Helper()
	l, err := corpus.OpenLayout(dir)
	must(t, err)
	manifest, config, err := l.Image(tag)
	must(t, err)
	tocs, _, err := l.Image(tag + corpus.TOCTag)
	outside := err == nil
	for i, text := range sources(t) {
		desc := manifest.Layers[i]
		packed, err := os.ReadFile(l.BlobPath(desc.Digest))
		must(t, err)
		b := &blob{bytes: packed}
		if outside {
			at := slices.IndexFunc(tocs.Layers, func(toc ocispec.Descriptor) bool {
				return toc.Annotations[corpus.LayerDigest] == desc.Digest.String()
			})
			if at < 0 {
				t.Fatalf("the TOC image has none for %s", desc.Digest)
			}
			b.ExternalTOC, err = os.ReadFile(l.BlobPath(tocs.Layers[at].Digest))
			must(t, err)
		}
		r, err := memory.NewReader(b.section(), metadata.WithDecompressors(decompressors(b.ExternalTOC)...))
		must(t, err)
		if want, ok := desc.Annotations[upstream.TOCJSONDigestAnnotation]; ok && r.TOCDigest().String() != want {
			t.Errorf("layer %d has the TOC %s, the manifest says %s", i, r.TOCDigest(), want)
		}
		same(t, treeOfTar(t, bytes.NewReader(text)), treeOf(t, r))
	}
	if len(config.RootFS.DiffIDs) != len(manifest.Layers) {
		t.Errorf("%d layers have %d DiffIDs", len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
}
