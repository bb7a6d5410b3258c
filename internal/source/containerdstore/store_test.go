package containerdstore_test

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/containerdstore"
	"github.com/nineply/nineply/internal/source/sourcetest"
)

func TestMain(m *testing.M) {
	log.L.Logger.SetOutput(io.Discard) // of containerd's own store
	goleak.VerifyTestMain(m)
}

type contentInfo = content.Info

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, c *containerd) *containerdstore.Store {
	t.Helper()
	s := containerdstore.New(containerdstore.Options{Address: c.address})
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func ref(target string) string {
	if strings.Contains(target, ":") {
		return "containerd:example.com/some/app@" + target
	}
	return "containerd:example.com/some/app:" + target
}

func TestSuite(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Harness {
		return sourcetest.Harness{Backend: open(t, startContainerd(t)), Ref: ref}
	})
}

func TestParseReference(t *testing.T) {
	d := digest.FromString("x")
	for in, want := range map[string]containerdstore.Reference{
		"containerd:alpine":                         {Name: "alpine"},
		"containerd:a.example:5000/b/c:v1":          {Name: "a.example:5000/b/c:v1"},
		"containerd:a.example/b@" + d.String():      {Name: "a.example/b", Digest: d},
		"containerd://k8s.io/a.example/b:v1":        {Namespace: "k8s.io", Name: "a.example/b:v1"},
		"containerd://ns/a.example/b@" + d.String(): {Namespace: "ns", Name: "a.example/b", Digest: d},
	} {
		got, err := containerdstore.ParseReference(in)
		if err != nil || got != want || got.String() != in {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "alpine", "oci:/a", "containerd:", "containerd:/a", "containerd://ns", "containerd:///a", "containerd://n s/a",
		"containerd://ns/", "containerd:a@sha256:1", "containerd:a b", "containerd:" + strings.Repeat("a", 2000)} {
		if got, err := containerdstore.ParseReference(in); !fserr.Is(err, fserr.Invalid) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

// push writes an image of one layer and gives its parts.
func push(t *testing.T, s *containerdstore.Store, ref, target string) (p source.Pusher, parts []digest.Digest) {
	t.Helper()
	p, err := s.Pusher(t.Context(), ref)
	must(t, err)
	blob := func(text string) ocispec.Descriptor {
		desc := ocispec.Descriptor{Digest: digest.FromString(text), Size: int64(len(text))}
		must(t, p.PushBlob(t.Context(), desc, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }))
		parts = append(parts, desc.Digest)
		return desc
	}
	config, layer := blob(`{"architecture":"amd64","os":"linux"}`), blob("layer")
	manifest := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":{"mediaType":"` + ocispec.MediaTypeImageConfig +
		`","digest":"` + config.Digest.String() + `","size":37},"layers":[{"mediaType":"x","digest":"` + layer.Digest.String() + `","size":5}]}`
	desc, err := p.PushManifest(t.Context(), "", ocispec.MediaTypeImageManifest, []byte(manifest))
	must(t, err)
	index, err := p.PushManifest(t.Context(), target, ocispec.MediaTypeImageIndex,
		[]byte(`{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageIndex+`","manifests":[{"mediaType":"`+ocispec.MediaTypeImageManifest+`","digest":"`+desc.Digest.String()+`","size":1}]}`))
	must(t, err)
	return p, append(parts, desc.Digest, index.Digest)
}

func set(parts []digest.Digest) map[digest.Digest]bool {
	m := map[digest.Digest]bool{}
	for _, d := range parts {
		m[d] = true
	}
	return m
}

// TestGarbage: the collector takes nothing of what is being written, nothing of
// what has a name, and everything else.
func TestGarbage(t *testing.T) {
	c := startContainerd(t)
	s := open(t, c)
	p, parts := push(t, s, ref("v1"), "")
	if diff := cmp.Diff(set(parts), c.collect(t, "default")); diff != "" {
		t.Errorf("before Close (-want +left):\n%s", diff)
	}
	must(t, p.(source.Unpinner).Close())
	if left := c.collect(t, "default"); len(left) != 0 {
		t.Errorf("without a name %d blobs stay", len(left))
	}
	p, parts = push(t, s, ref("v1"), "v1")
	must(t, p.(source.Unpinner).Close())
	if diff := cmp.Diff(set(parts), c.collect(t, "default")); diff != "" {
		t.Errorf("with a name (-want +left):\n%s", diff)
	}
	must(t, p.(source.Untagger).Untag(t.Context(), ref("v1")))
	must(t, p.(source.Untagger).Untag(t.Context(), ref("v1")))
	if left := c.collect(t, "default"); len(left) != 0 {
		t.Errorf("untagged, %d blobs stay", len(left))
	}
}

// TestLabelsComeLater: a manifest that was stored without labels gets them.
func TestLabelsComeLater(t *testing.T) {
	c := startContainerd(t)
	s := open(t, c)
	p, _ := push(t, s, ref("v1"), "v1")
	ctx := namespaces.WithNamespace(t.Context(), "default")
	_, err := c.db.ContentStore().Update(ctx, content.Info{Digest: manifestOf(t, s)}, "labels")
	must(t, err)
	p2, parts := push(t, s, ref("v1"), "v1")
	must(t, p.(source.Unpinner).Close())
	must(t, p2.(source.Unpinner).Close())
	if diff := cmp.Diff(set(parts), c.collect(t, "default")); diff != "" {
		t.Errorf("(-want +left):\n%s", diff)
	}
}

func manifestOf(t *testing.T, s *containerdstore.Store) digest.Digest {
	t.Helper()
	desc, _, err := s.FetchManifest(t.Context(), ref("v1"))
	must(t, err)
	return desc.Digest
}

func TestNamespacesAndNames(t *testing.T) {
	c := startContainerd(t)
	s := open(t, c)
	p, _ := push(t, s, "containerd://k8s.io/alpine", "containerd://k8s.io/alpine")
	must(t, p.(source.Unpinner).Close())
	if _, _, err := s.FetchManifest(t.Context(), "containerd:alpine"); !fserr.Is(err, fserr.NotExist) {
		t.Errorf("in another namespace: %v", err)
	}
	for _, name := range []string{"alpine", "alpine:latest", "docker.io/library/alpine:latest"} {
		if _, _, err := s.FetchManifest(t.Context(), "containerd://k8s.io/"+name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := containerdstore.New(containerdstore.Options{Address: c.address, Namespace: "k8s.io"})
	defer func() { must(t, other.Close()) }()
	if _, _, err := other.FetchManifest(t.Context(), "containerd:alpine"); err != nil {
		t.Error(err)
	}
	for _, target := range []string{"containerd:alpine:v1", "containerd://k8s.io/debian:v1", "b ad", "containerd://k8s.io/alpine@" + digest.FromString("other").String()} {
		if _, err := p.PushManifest(t.Context(), target, ocispec.MediaTypeImageManifest, []byte("{}")); !fserr.Is(err, fserr.Invalid) {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	s := containerdstore.New(containerdstore.Options{Address: filepath.Join(t.TempDir(), "none.sock")})
	defer func() { must(t, s.Close()) }()
	_, _, err := s.FetchManifest(t.Context(), "containerd:a")
	if !fserr.Is(err, fserr.Unavailable) {
		t.Errorf("%v: %v", fserr.KindOf(err), err)
	}
}
