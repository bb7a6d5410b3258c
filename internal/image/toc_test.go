package image_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/testreg"
)

const externalFooter = "\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x15\x00SG\x11\x00STARGZEXTERNALTOC\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00"

// detached takes the TOC out of a lazy layer, as a tar.gz of its own.
func detached(t testing.TB, files ...file) (layer testreg.Layer, toc []byte) {
	t.Helper()
	l := lazyLayer(t, files...)
	footer, err := estargz.ParseFooter(l.Data)
	if err != nil {
		t.Fatal(err)
	}
	off, n, err := footer.TOCRange(int64(len(l.Data)), estargz.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	toc = bytes.Clone(l.Data[off : off+n])
	l.Data = append(l.Data[:off:off], externalFooter...)
	zr, err := gzip.NewReader(bytes.NewReader(l.Data))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	l.DiffID = digest.FromBytes(raw)
	return l, toc
}

// addTOCs makes a TOC image: one layer for each TOC, by the digest of its blob,
// and an empty config.
func addTOCs(t testing.TB, reg *testreg.Registry, repo, tag string, tocs map[digest.Digest][]byte) {
	t.Helper()
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	m.Config = reg.AddBlob([]byte("{}"))
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	for d, toc := range tocs {
		desc := reg.AddBlob(toc)
		desc.MediaType = ocispec.MediaTypeImageLayerGzip
		desc.Annotations = map[string]string{estargz.AnnotationLayerDigest: d.String()}
		m.Layers = append(m.Layers, desc)
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	reg.AddManifest(repo, tag, ocispec.MediaTypeImageManifest, text)
}

func TestExternalTOC(t *testing.T) {
	layer, toc := detached(t, file{name: "a", body: big}, file{name: "b", body: "bee"})
	other, otherTOC := detached(t, file{name: "a", body: "other"})
	noClaim := layer
	noClaim.Annotations = nil
	id := digest.FromBytes(layer.Data)
	tests := []struct {
		name     string
		layer    testreg.Layer
		tocs     map[digest.Digest][]byte
		byDigest bool
		reason   string // empty: the layer is lazy
	}{
		{"found", layer, map[digest.Digest][]byte{digest.FromBytes(other.Data): otherTOC, id: toc}, false, ""},
		{"no TOC image", layer, nil, false, "v1-esgztoc"},
		{"none for this layer", layer, map[digest.Digest][]byte{digest.FromBytes(other.Data): otherTOC}, false, "no layer of it belongs"},
		{"another layer's TOC", layer, map[digest.Digest][]byte{id: otherTOC}, false, "the manifest says"},
		{"no TOC at all", layer, map[digest.Digest][]byte{id: []byte("hello, hello, hello")}, false, "gzip"},
		{"not vouched for", noClaim, map[digest.Digest][]byte{id: toc}, false, "no TOC digest in the manifest"},
		{"no tag", layer, map[digest.Digest][]byte{id: toc}, true, "no tag"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg := testreg.New(t)
			added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{tt.layer}})
			if tt.tocs != nil {
				addTOCs(t, reg, "app", "v1-esgztoc", tt.tocs)
			}
			ref := reg.Ref("app", "v1")
			if tt.byDigest {
				ref = reg.Ref("app", added.Descriptor.Digest.String())
			}
			n, _ := start(t, t.TempDir(), 0)
			check(t, n.tree(t, "image/"+ref), map[string]string{"a": big, "b": "bee"})
			l := n.Layers()[0]
			format := "estargz"
			if tt.reason != "" {
				format = "gzip+index" // by an index of our own
			}
			if l.Format != format || !strings.Contains(l.Reason, tt.reason) {
				t.Errorf("format %q, reason %q", l.Format, l.Reason)
			}
		})
	}
}

// TestExternalTOCOfChain adds a layer as containerd does: the image is asked for
// by digest, and its tag is only in the request.
func TestExternalTOCOfChain(t *testing.T) {
	reg := testreg.New(t)
	layer, toc := detached(t, file{name: "a", body: "alpha"})
	added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	id := added.Layers[0].Digest
	addTOCs(t, reg, "app", "v1-esgztoc", map[digest.Digest][]byte{id: toc})
	n, _ := start(t, t.TempDir(), 0)
	info, err := n.AddLayer(t.Context(), image.LayerRequest{
		Ref: reg.Ref("app", "v1"), Manifest: added.Descriptor.Digest.String(), Digest: id.String(),
		ChainID: layer.DiffID.String(), DiffID: layer.DiffID.String(),
	})
	if err != nil || !info.Lazy {
		t.Fatalf("%+v, %v", info, err)
	}
	check(t, n.tree(t, "chain/"+layer.DiffID.String()), map[string]string{"a": "alpha"})
}
