package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/testreg"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// sociData reads what the parser's tests have of SOCI's own builder.
func sociData(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "soci", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func gunzip(t testing.TB, data []byte) []byte {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// bodies lists the regular files of a tar.
func bodies(t testing.TB, tarball []byte) map[string]string {
	t.Helper()
	want := map[string]string{}
	tr := tar.NewReader(bytes.NewReader(tarball))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return want
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if len(body) > 0 {
			want[h.Name] = string(body)
		}
	}
}

// sociImage is an image of one layer with a SOCI index.
type sociImage struct {
	*testreg.Registry
	layer    ocispec.Descriptor
	manifest ocispec.Descriptor
	index    ocispec.Descriptor // SOCI's
	want     map[string]string
}

// addSOCI adds an image of a layer that needs no conversion, its zTOC, and the SOCI
// index of either version.
func addSOCI(t testing.TB, version string, layer testreg.Layer, ztoc []byte, files map[string]string) *sociImage {
	t.Helper()
	reg := testreg.New(t)
	added := reg.AddImage("app", "", testreg.Image{Layers: []testreg.Layer{layer}})
	s := &sociImage{Registry: reg, layer: added.Layers[0], manifest: added.Descriptor, want: files}
	z := reg.AddBlobTo("app", ztoc)
	z.Annotations = map[string]string{"com.amazon.soci.image-layer-digest": s.layer.Digest.String()}
	config := reg.AddBlobTo("app", []byte("{}"))
	config.MediaType = "application/vnd.amazon.soci.index." + version + "+json"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{z}}
	if version == "v1" {
		m.Subject, m.ArtifactType = &added.Descriptor, config.MediaType
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	s.index = reg.AddManifest("app", "", ocispec.MediaTypeImageManifest, data)
	if version == "v2" {
		added.Descriptor.Annotations = map[string]string{"com.amazon.soci.index-digest": s.index.Digest.String()}
	}
	s.index.ArtifactType = config.MediaType
	reg.AddIndex("app", "v1", added.Descriptor, s.index)
	return s
}

func goldenSOCI(t testing.TB, version, layer, ztoc string) *sociImage {
	t.Helper()
	tarball := gunzip(t, sociData(t, "layer.tar.gz"))
	l := testreg.Layer{Data: tarball, MediaType: ocispec.MediaTypeImageLayer, DiffID: digest.FromBytes(tarball)}
	if layer != "" {
		l = testreg.Layer{Data: sociData(t, layer), DiffID: digest.FromBytes(tarball)}
	}
	return addSOCI(t, version, l, gunzip(t, sociData(t, ztoc)), bodies(t, tarball))
}

func (s *sociImage) ref() string { return "image/" + s.Ref("app", "v1") }

// format is how the only layer was opened.
func (n *node) format(t testing.TB) string {
	t.Helper()
	layers := n.Layers()
	if len(layers) != 1 {
		t.Fatalf("%d layers are open", len(layers))
	}
	return layers[0].Format
}

func TestSOCI(t *testing.T) {
	for _, tt := range []struct{ name, layer, ztoc string }{
		{"gzip", "layer.tar.gz", "layer.ztoc.gz"},
		{"members", "members.tar.gz", "members.ztoc.gz"},
		{"uncompressed", "", "plain.ztoc.gz"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := goldenSOCI(t, "v2", tt.layer, tt.ztoc)
			dir := t.TempDir()
			n, stop := start(t, dir, 0)
			tr, release, err := n.Open(t.Context(), s.ref())
			if err != nil {
				t.Fatal(err)
			}
			if f := n.format(t); f != "soci" {
				t.Fatalf("opened as %s: %+v", f, n.Layers())
			}
			check(t, tr, map[string]string{"usr/last": s.want["usr/last"]})
			if got := s.Count(testreg.Match{Digest: s.layer.Digest}); got.Bytes >= s.layer.Size {
				t.Errorf("%d of %d bytes fetched for a tiny file", got.Bytes, s.layer.Size)
			}
			check(t, tr, s.want)
			release()
			stop()

			// What was learned of the chunks is known in the next run.
			s.Always(testreg.Match{}, testreg.Status(503))
			n, _ = start(t, dir, 0)
			check(t, n.tree(t, s.ref()), s.want)
		})
	}
}

// TestSOCILearnsAgain: a file of learned digests that is damaged costs a decoding.
func TestSOCILearnsAgain(t *testing.T) {
	s := goldenSOCI(t, "v2", "layer.tar.gz", "layer.ztoc.gz")
	for _, tt := range []struct {
		name   string
		damage func(path string, data []byte) error
	}{
		{"lost", func(path string, _ []byte) error { return os.Remove(path) }},
		{"cut", func(path string, data []byte) error { return os.WriteFile(path, data[:150], 0o600) }},
		{"changed", func(path string, data []byte) error {
			for i := 130; i < len(data); i += 36 {
				data[i] ^= 1
			}
			return os.WriteFile(path, data, 0o600)
		}},
		{"of another", func(path string, data []byte) error { data[20] ^= 1; return os.WriteFile(path, data, 0o600) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			n, stop := start(t, dir, 0)
			n.visit(t, s.ref(), s.want)
			stop()
			paths, err := filepath.Glob(filepath.Join(dir, "index", "layers", "*.learned"))
			if err != nil || len(paths) != 1 {
				t.Fatalf("%v, %v", paths, err)
			}
			data, err := os.ReadFile(paths[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.damage(paths[0], data); err != nil {
				t.Fatal(err)
			}
			n, _ = start(t, dir, 0)
			check(t, n.tree(t, s.ref()), s.want)
		})
	}
}

// TestSOCIBytesAreVerified: a registry that changes the layer is found out by the
// digests of the spans, and the layer read whole by who opens it next.
func TestSOCIBytesAreVerified(t *testing.T) {
	s := goldenSOCI(t, "v2", "layer.tar.gz", "layer.ztoc.gz")
	wrong := func(x testreg.Exchange) {
		rec := &replacing{ResponseWriter: x.W}
		x.Serve(rec, x.R)
	}
	s.Always(testreg.Match{Digest: s.layer.Digest}, wrong)
	n, _ := start(t, t.TempDir(), 0)
	tr, release, err := n.Open(t.Context(), s.ref())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readFile(t.Context(), tr, "usr/last"); fserr.KindOf(err) != fserr.Corrupt {
		t.Fatalf("wrong bytes: %v", err)
	}
	release()
	s.Heal()
	for n.refused(t) == "" { // it is given up in the background
		runtime.Gosched()
	}
	check(t, n.tree(t, s.ref()), s.want)
	if f := n.format(t); f != "gzip+index" {
		t.Errorf("opened as %s, want one that was read whole", f)
	}
}

// refused gives why an index is not used any more.
func (n *node) refused(t testing.TB) string {
	t.Helper()
	list, err := n.Indexes(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range list {
		if x.Refused != "" {
			return x.Refused
		}
	}
	return ""
}

// TestSOCIThatCannotBeUsed: the layer is read whole then, and the reason told.
func TestSOCIThatCannotBeUsed(t *testing.T) {
	raw := gunzip(t, sociData(t, "layer.ztoc.gz"))
	tarball := gunzip(t, sociData(t, "layer.tar.gz"))
	layer := testreg.Layer{Data: sociData(t, "layer.tar.gz"), DiffID: digest.FromBytes(tarball)}
	cut := bytes.Clone(raw[:len(raw)/2])
	noise := bytes.Repeat([]byte{0xff}, 100)
	for name, ztoc := range map[string][]byte{"cut": cut, "noise": noise, "of another layer": gunzip(t, sociData(t, "members.ztoc.gz"))} {
		t.Run(name, func(t *testing.T) {
			s := addSOCI(t, "v2", layer, ztoc, bodies(t, tarball))
			n, _ := start(t, t.TempDir(), 0)
			check(t, n.tree(t, s.ref()), s.want)
			if l := n.Layers()[0]; l.Format != "gzip+index" || l.Reason == "" {
				t.Errorf("%+v", l)
			}
		})
	}
}

// TestSOCIOfAnotherImage: what one image says of a layer does not reach another
// that has the same layer.
func TestSOCIOfAnotherImage(t *testing.T) {
	// The index of the first image has the names of the files changed.
	forged := bytes.ReplaceAll(gunzip(t, sociData(t, "layer.ztoc.gz")), []byte("usr/last"), []byte("usr/evil"))
	tarball := gunzip(t, sociData(t, "layer.tar.gz"))
	layer := testreg.Layer{Data: sociData(t, "layer.tar.gz"), DiffID: digest.FromBytes(tarball)}
	s := addSOCI(t, "v2", layer, forged, bodies(t, tarball))
	s.AddImage("other", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	n, _ := start(t, t.TempDir(), 0)
	check(t, n.tree(t, s.ref()), map[string]string{"usr/evil": s.want["usr/last"], "usr/last": ""})
	check(t, n.tree(t, "image/"+s.Ref("other", "v1")), s.want)
}

func TestSOCIv1(t *testing.T) {
	for _, tt := range []struct {
		name  string
		trust func(s *sociImage) image.Trust
		want  string
	}{
		{"not allowed", func(*sociImage) image.Trust { return image.Trust{SOCI: true, Referrers: true} }, "gzip+index"},
		{"allowed", func(*sociImage) image.Trust { return image.Trust{SOCIv1: true} }, "soci"},
		{"pinned", func(s *sociImage) image.Trust { return image.Trust{Pins: []digest.Digest{s.index.Digest}} }, "soci"},
		{"another pinned", func(s *sociImage) image.Trust { return image.Trust{Pins: []digest.Digest{s.layer.Digest}} }, "gzip+index"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := goldenSOCI(t, "v1", "layer.tar.gz", "layer.ztoc.gz")
			n, _ := startTrusting(t, t.TempDir(), 0, tt.trust(s))
			check(t, n.tree(t, s.ref()), s.want)
			if f := n.format(t); f != tt.want {
				t.Errorf("opened as %s, want %s: %+v", f, tt.want, n.Layers())
			}
		})
	}
}

// replacing changes a byte in each answer.
type replacing struct{ http.ResponseWriter }

func (r *replacing) Write(p []byte) (int, error) {
	q := bytes.Clone(p)
	if len(q) > 0 {
		q[len(q)/2] ^= 1
	}
	return r.ResponseWriter.Write(q)
}

// TestSOCIOfChain: a container engine names the manifest by its digest, and the index
// that names the SOCI index is found by the image's tag.
func TestSOCIOfChain(t *testing.T) {
	s := goldenSOCI(t, "v2", "layer.tar.gz", "layer.ztoc.gz")
	dir := t.TempDir()
	n, stop := start(t, dir, 0)
	chain := addChain(t, n, s.Ref("app", "v1"), testreg.Added{Descriptor: s.manifest, Layers: []ocispec.Descriptor{s.layer}})
	tr, release, err := n.Open(t.Context(), "chain/"+chain)
	if err != nil {
		t.Fatal(err)
	}
	if f := n.format(t); f != "soci" {
		t.Errorf("opened as %s: %+v", f, n.Layers())
	}
	check(t, tr, s.want)
	release()
	stop()
	s.Always(testreg.Match{}, testreg.Status(503))
	n, _ = start(t, dir, 0)
	check(t, n.tree(t, "chain/"+chain), s.want)
	check(t, n.tree(t, "image/"+s.manifest.Digest.String()), s.want)
}
