package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/layout"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testreg"
)

const artifact = "application/vnd.example.thing.v1+json"

// noReferrers makes a registry one of before there were referrers.
func noReferrers(r *testreg.Registry) {
	r.Always(testreg.Match{Path: "/referrers/"}, func(x testreg.Exchange) { x.W.WriteHeader(http.StatusNotFound) })
}

// pushReferrer pushes an artifact that refers to subject.
func pushReferrer(t *testing.T, src source.Backend, ref string, subject digest.Digest, artifactType, note string) ocispec.Descriptor {
	t.Helper()
	p, err := src.Pusher(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	empty := ocispec.DescriptorEmptyJSON
	err = p.PushBlob(t.Context(), empty, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(empty.Data)), nil })
	if err != nil {
		t.Fatal(err)
	}
	empty.Data = nil
	data, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: empty, Layers: []ocispec.Descriptor{empty}, Annotations: map[string]string{"note": note},
		Subject: &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject, Size: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	desc, err := p.PushManifest(t.Context(), "", ocispec.MediaTypeImageManifest, data)
	if err != nil {
		t.Fatal(err)
	}
	desc.ArtifactType = artifactType
	if err := source.AddReferrer(t.Context(), src, p, ref, subject, desc); err != nil {
		t.Fatal(err)
	}
	return desc
}

func find(t *testing.T, src source.Fetcher, ref string, subject digest.Digest) map[digest.Digest]bool {
	t.Helper()
	list, err := source.FindReferrers(t.Context(), src, ref, subject, artifact)
	if err != nil {
		t.Fatal(err)
	}
	got := map[digest.Digest]bool{}
	for _, d := range list {
		got[d.Digest] = true
	}
	return got
}

func TestReferrers(t *testing.T) {
	subject, other := digest.FromString("subject"), digest.FromString("other")
	for _, tt := range []struct {
		name string
		kept bool
		make func(t *testing.T) (source.Backend, string)
	}{
		{"API", true, func(t *testing.T) (source.Backend, string) {
			return open(t, registry.Options{}), testreg.New(t).Ref("demo", "v1")
		}},
		{"tag", false, func(t *testing.T) (source.Backend, string) {
			reg := testreg.New(t)
			noReferrers(reg)
			return open(t, registry.Options{}), reg.Ref("demo", "v1")
		}},
		{"layout", false, func(t *testing.T) (source.Backend, string) {
			return layout.New(), source.LayoutPrefix + t.TempDir() + ":v1"
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src, ref := tt.make(t)
			if got := find(t, src, ref, subject); len(got) != 0 {
				t.Fatalf("before any was pushed: %v", got)
			}
			a := pushReferrer(t, src, ref, subject, artifact, "a")
			b := pushReferrer(t, src, ref, subject, artifact, "b")
			pushReferrer(t, src, ref, subject, "application/vnd.example.other", "c")
			pushReferrer(t, src, ref, other, artifact, "d")
			if again := pushReferrer(t, src, ref, subject, artifact, "a"); again.Digest != a.Digest {
				t.Fatalf("pushed again: %v", again.Digest)
			}
			if got := find(t, src, ref, subject); len(got) != 2 || !got[a.Digest] || !got[b.Digest] {
				t.Fatalf("%v, want %v and %v", got, a.Digest, b.Digest)
			}
			p, err := src.Pusher(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			if err := source.DropReferrer(t.Context(), src, p, ref, subject, a.Digest); err != nil {
				t.Fatal(err)
			}
			if got := find(t, src, ref, subject); got[a.Digest] != tt.kept || !got[b.Digest] {
				t.Errorf("after one was dropped: %v", got)
			}
		})
	}
}

// TestReferrersPages follows a list over pages, and not to another host.
func TestReferrersPages(t *testing.T) {
	reg := testreg.New(t)
	page := func(next string, n int) testreg.Fault {
		return func(x testreg.Exchange) {
			if next != "" {
				x.W.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, next))
			}
			x.W.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			_ = json.NewEncoder(x.W).Encode(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
				{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(n)), Size: 3, ArtifactType: artifact},
			}})
		}
	}
	subject := digest.FromString("subject")
	path := "/v2/demo/referrers/" + subject.String()
	reg.On(testreg.Match{Path: "/referrers/"}, page(path+"?n=1", 1), page("http://elsewhere.invalid"+path, 2))
	if got := find(t, open(t, registry.Options{}), reg.Ref("demo", "v1"), subject); len(got) != 2 {
		t.Errorf("%d referrers, want 2", len(got))
	}
}

func TestReferrersRefused(t *testing.T) {
	subject := digest.FromString("subject")
	for _, tt := range []struct {
		name  string
		fault testreg.Fault
		want  fserr.Kind
	}{
		{"forbidden", func(x testreg.Exchange) { x.W.WriteHeader(http.StatusForbidden) }, fserr.Unauthorized},
		{"endless", func(x testreg.Exchange) {
			x.W.Header().Set("Link", `<`+x.R.URL.Path+`>; rel="next"`)
			x.W.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			_, _ = io.WriteString(x.W, `{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
		}, fserr.TooLarge},
		{"no JSON", func(x testreg.Exchange) {
			x.W.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			_, _ = io.WriteString(x.W, "{")
		}, fserr.Corrupt},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg := testreg.New(t)
			reg.Always(testreg.Match{Path: "/referrers/"}, tt.fault)
			_, err := source.FindReferrers(t.Context(), open(t, registry.Options{}), reg.Ref("demo", "v1"), subject, "")
			if fserr.KindOf(err) != tt.want {
				t.Errorf("%v is of kind %v, want %v", err, fserr.KindOf(err), tt.want)
			}
		})
	}
}
