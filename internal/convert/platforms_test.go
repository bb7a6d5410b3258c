package convert_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/testreg"
)

func linux(arch string) ocispec.Platform { return ocispec.Platform{OS: "linux", Architecture: arch} }

// multi is an index of two platforms that share a layer, with an attestation of
// the first and something else.
func multi(t *testing.T, reg *testreg.Registry) (index ocispec.Descriptor, amd, arm testreg.Added) {
	t.Helper()
	shared := layer(t, [2]string{"shared", strings.Repeat("s", 50_000)})
	image := func(arch string) testreg.Added {
		return reg.AddImage("app", "", testreg.Image{Platform: linux(arch), Layers: []testreg.Layer{shared, layer(t, [2]string{"arch", arch})}})
	}
	amd, arm = image("amd64"), image("arm64")
	statement := reg.AddBlob([]byte(`{"statement":1}`))
	statement.MediaType = "application/vnd.in-toto+json"
	config := reg.AddBlob([]byte(`{"architecture":"unknown","os":"unknown"}`))
	config.MediaType = ocispec.MediaTypeImageConfig
	text, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": config, "layers": []any{statement}})
	must(t, err)
	attestation := reg.AddManifest("app", "", ocispec.MediaTypeImageManifest, text)
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": amd.Descriptor.Digest.String()}
	text, err = json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": map[string]any{"mediaType": "application/x", "digest": config.Digest, "size": config.Size}, "layers": []any{}})
	must(t, err)
	other := reg.AddManifest("app", "", ocispec.MediaTypeImageManifest, text)
	amd.Descriptor.Annotations = map[string]string{"kept": "yes"}
	return reg.AddIndex("app", "multi", amd.Descriptor, arm.Descriptor, attestation, other), amd, arm
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// indexAt reads the index that a tag names.
func indexAt(t *testing.T, src source.Mux, ref string) ocispec.Index {
	t.Helper()
	desc, data, err := src.FetchManifest(t.Context(), ref)
	must(t, err)
	var index ocispec.Index
	must(t, json.Unmarshal(data, &index))
	if desc.MediaType != ocispec.MediaTypeImageIndex || index.MediaType != desc.MediaType {
		t.Fatalf("%s is %s", ref, desc.MediaType)
	}
	return index
}

func TestAllPlatforms(t *testing.T) {
	reg := testreg.New(t)
	top, _, _ := multi(t, reg)
	src := sources(t)
	reg.ResetCounts()
	res, err := convert.Convert(t.Context(), src, reg.Ref("app", "multi"), src, reg.Ref("app", "lazy"), convert.Options{Select: source.Selection{All: true}})
	must(t, err)
	if n := len(reg.Requests(testreg.Match{Method: "POST"})); n != 5 {
		t.Errorf("%d uploads, want the 3 different layers and 2 configs", n)
	}
	index := indexAt(t, src, reg.Ref("app", "lazy"))
	if len(index.Manifests) != 2 || index.Manifests[0].Annotations["kept"] != "yes" || index.Manifests[1].Platform.Architecture != "arm64" {
		t.Errorf("%+v", index.Manifests)
	}
	if res.SourceDigest != top.Digest || len(res.Images) != 2 || res.Images[0].Layers[0].Digest != res.Images[1].Layers[0].Digest {
		t.Errorf("%+v", res)
	}
	notes := strings.Join(res.Notes, "\n")
	for _, want := range []string{"1 attestations", "no image of a container", "signatures of " + top.Digest.String()} {
		if !strings.Contains(notes, want) {
			t.Errorf("no note of %q in\n%s", want, notes)
		}
	}
	for _, arch := range []string{"amd64", "arm64"} {
		img, err := src.Resolve(t.Context(), reg.Ref("app", "lazy"), linux(arch))
		must(t, err)
		blob, _ := reg.Blob("app", img.Manifest.Layers[1].Digest)
		if got := files(t, blob); got["arch"] != arch {
			t.Errorf("%s: %v", arch, got)
		}
	}
}

func TestAttestationsCanBeKept(t *testing.T) {
	reg := testreg.New(t)
	_, _, _ = multi(t, reg)
	src := sources(t)
	ref := "oci:" + filepath.Join(t.TempDir(), "l") + ":lazy"
	_, err := convert.Convert(t.Context(), src, reg.Ref("app", "multi"), src, ref, convert.Options{Select: source.Selection{All: true}, KeepAttestations: true})
	must(t, err)
	index := indexAt(t, src, ref)
	if len(index.Manifests) != 3 || index.Manifests[2].Annotations["vnd.docker.reference.digest"] != index.Manifests[0].Digest.String() {
		t.Fatalf("%+v", index.Manifests)
	}
	pinned, err := source.WithDigest(ref, index.Manifests[2].Digest)
	must(t, err)
	_, data, err := src.FetchManifest(t.Context(), pinned)
	must(t, err)
	var m ocispec.Manifest
	must(t, json.Unmarshal(data, &m))
	b, err := src.Blob(t.Context(), ref, m.Layers[0])
	must(t, err)
	got := make([]byte, b.Size())
	must(t, b.ReadRange(t.Context(), 0, got))
	if !bytes.Equal(got, []byte(`{"statement":1}`)) {
		t.Errorf("%s", got)
	}
}

func TestChosenPlatforms(t *testing.T) {
	reg := testreg.New(t)
	_, amd, arm := multi(t, reg)
	src := sources(t)
	choose := func(archs ...string) source.Selection {
		var sel source.Selection
		for _, a := range archs {
			sel.Platforms = append(sel.Platforms, linux(a))
		}
		return sel
	}
	res, err := convert.Convert(t.Context(), src, reg.Ref("app", "multi"), src, reg.Ref("app", "one"), convert.Options{Select: choose("arm64")})
	must(t, err)
	if res.MediaType != ocispec.MediaTypeImageManifest || res.SourceDigest != arm.Descriptor.Digest {
		t.Errorf("%+v", res)
	}
	res, err = convert.Convert(t.Context(), src, reg.Ref("app", "multi"), src, reg.Ref("app", "two"), convert.Options{Select: choose("arm64", "amd64", "arm64")})
	must(t, err)
	if res.MediaType != ocispec.MediaTypeImageIndex || len(res.Images) != 2 || res.Images[1].SourceDigest != amd.Descriptor.Digest {
		t.Errorf("%+v", res)
	}
	if _, err = convert.Convert(t.Context(), src, reg.Ref("app", "multi"), src, reg.Ref("app", "none"), convert.Options{Select: choose("arm64", "s390x")}); !fserr.Is(err, fserr.NotExist) {
		t.Errorf("missing platform: %v", err)
	}
	if _, err = convert.Convert(t.Context(), src, reg.Ref("app", "one"), src, reg.Ref("app", "none"), convert.Options{Select: choose("arm64", "amd64")}); !fserr.Is(err, fserr.Invalid) {
		t.Errorf("no index: %v", err)
	}
	res, err = convert.Convert(t.Context(), src, reg.Ref("app", "one"), src, reg.Ref("app", "all"), convert.Options{Select: source.Selection{All: true}})
	if err != nil || res.MediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("all of one: %+v, %v", res, err)
	}
}

func TestDockerBecomesOCI(t *testing.T) {
	reg := testreg.New(t)
	var list []ocispec.Descriptor
	for _, arch := range []string{"amd64", "arm64"} {
		list = append(list, reg.AddImage("app", "", testreg.Image{Docker: true, Platform: linux(arch), Layers: []testreg.Layer{layer(t, [2]string{"a", arch})}}).Descriptor)
	}
	reg.AddIndex("app", "v1", list...)
	src := sources(t)
	_, err := convert.Convert(t.Context(), src, reg.Ref("app", "v1"), src, reg.Ref("app", "lazy"), convert.Options{Select: source.Selection{All: true}})
	must(t, err)
	for _, m := range indexAt(t, src, reg.Ref("app", "lazy")).Manifests {
		_, data, ok := reg.Manifest("app", m.Digest.String())
		if !ok || bytes.Contains(data, []byte("docker")) || m.MediaType != ocispec.MediaTypeImageManifest {
			t.Errorf("%s", data)
		}
	}
}
