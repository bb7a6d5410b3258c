package sourcetest

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

func testResolve(t *testing.T, r *repo) {
	want := r.image("v1", linux("amd64"), Bytes(1, 1000), Bytes(2, 2000))
	for _, target := range []string{"v1", want.Digest.String()} {
		img, err := r.Backend.Resolve(t.Context(), r.Ref(target), linux("amd64"))
		if err != nil {
			t.Fatalf("Resolve(%s): %v", target, err)
		}
		if img.Digest != want.Digest || img.Descriptor.Digest != want.Digest || img.Top.Digest != want.Digest {
			t.Errorf("resolved %s, want %s", img.Digest, want.Digest)
		}
		if digest.FromBytes(img.ManifestBytes) != want.Digest || int64(len(img.ManifestBytes)) != img.Descriptor.Size {
			t.Error("ManifestBytes are not those of the digest")
		}
		if digest.FromBytes(img.ConfigBytes) != img.Manifest.Config.Digest {
			t.Error("ConfigBytes are not those of the manifest")
		}
		if len(img.Manifest.Layers) != 2 || len(img.Config.RootFS.DiffIDs) != 2 {
			t.Errorf("%d layers, %d diff IDs", len(img.Manifest.Layers), len(img.Config.RootFS.DiffIDs))
		}
		again, err := r.Backend.Resolve(t.Context(), img.Ref, linux("amd64"))
		if err != nil {
			t.Fatalf("Resolve of the normalised reference %s: %v", img.Ref, err)
		}
		if !reflect.DeepEqual(img, again) {
			t.Errorf("the normalised reference gives another image: %+v, not %+v", again, img)
		}
	}
	desc, data, err := r.Backend.FetchManifest(t.Context(), r.Ref("v1"))
	if err != nil || desc.Digest != want.Digest || digest.FromBytes(data) != want.Digest {
		t.Errorf("FetchManifest = %v, %v, want %s", desc, err, want.Digest)
	}
}

func testPlatforms(t *testing.T, r *repo) {
	amd := r.image("", linux("amd64"), Bytes(1, 100))
	arm := r.image("", ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, Bytes(2, 100))
	v7 := r.image("", ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, Bytes(3, 100))
	v6 := r.image("", ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}, Bytes(4, 100))
	bare := r.image("", linux("riscv64"), Bytes(5, 100))
	bare.Platform = nil
	attestation := r.image("", linux("unknown"), Bytes(6, 100))
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	top := r.pushJSON("multi", ocispec.MediaTypeImageIndex, index(attestation, bare, v6, v7, amd, arm))
	tests := []struct {
		name string
		want ocispec.Platform
		got  digest.Digest
	}{
		{"system left open", ocispec.Platform{Architecture: "arm64"}, arm.Digest},
		{"other spelling", ocispec.Platform{OS: "linux", Architecture: "aarch64"}, arm.Digest},
		{"amd64", linux("amd64"), amd.Digest},
		{"arm64", linux("arm64"), arm.Digest},
		{"best variant", ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, v7.Digest},
		{"lower variant", ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}, v6.Digest},
		{"config tells", linux("riscv64"), bare.Digest},
		{"none", linux("s390x"), ""},
		{"other system", ocispec.Platform{OS: "windows", Architecture: "amd64"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			img, err := r.Backend.Resolve(t.Context(), r.Ref("multi"), tt.want)
			if tt.got == "" {
				wantKind(t, err, fserr.NotExist)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if img.Digest != tt.got || img.Top.Digest != top.Digest {
				t.Errorf("resolved %s of %s, want %s of %s", img.Digest, img.Top.Digest, tt.got, top.Digest)
			}
		})
	}
}

func testNestedIndex(t *testing.T, r *repo) {
	img := r.image("", linux("amd64"), Bytes(1, 100))
	desc := img
	for depth := 1; depth <= source.MaxIndexDepth+1; depth++ {
		desc = r.pushJSON("nested", ocispec.MediaTypeImageIndex, index(desc))
		got, err := r.Backend.Resolve(t.Context(), r.Ref("nested"), linux("amd64"))
		if depth > source.MaxIndexDepth {
			wantKind(t, err, fserr.TooLarge)
			continue
		}
		if err != nil {
			t.Fatalf("%d levels: %v", depth, err)
		}
		if got.Digest != img.Digest {
			t.Errorf("%d levels: resolved %s", depth, got.Digest)
		}
	}
}

func testHostileManifests(t *testing.T, r *repo) {
	good := r.manifest(linux("amd64"), Bytes(1, 100))
	edit := func(change func(*ocispec.Manifest)) ocispec.Manifest {
		m := good
		m.Layers = slices.Clone(good.Layers)
		change(&m)
		return m
	}
	type object = map[string]any
	tests := []struct {
		name, mediaType string
		doc             any
		kind            fserr.Kind
	}{
		{"both index and manifest", ocispec.MediaTypeImageManifest, object{
			"schemaVersion": 2, "config": good.Config, "layers": good.Layers, "manifests": []any{},
		}, fserr.Corrupt},
		{"index called manifest", ocispec.MediaTypeImageManifest, object{"schemaVersion": 2, "manifests": []any{}}, fserr.Corrupt},
		{"schema 1", "application/vnd.docker.distribution.manifest.v1+json", object{"schemaVersion": 1, "fsLayers": []any{}}, fserr.Unsupported},
		{"not the config of an image", ocispec.MediaTypeImageManifest, edit(func(m *ocispec.Manifest) { m.Config.MediaType = "application/x" }), fserr.Unsupported},
		{"not an image at all", "application/json", object{"hello": "world"}, fserr.Unsupported},
		{"layers and diff IDs differ", ocispec.MediaTypeImageManifest, edit(func(m *ocispec.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }), fserr.Corrupt},
		{"config is too large", ocispec.MediaTypeImageManifest, edit(func(m *ocispec.Manifest) { m.Config.Size = source.MaxConfigBytes + 1 }), fserr.TooLarge},
		{"config has another size", ocispec.MediaTypeImageManifest, edit(func(m *ocispec.Manifest) { m.Config.Size-- }), fserr.Corrupt},
		{"negative size", ocispec.MediaTypeImageManifest, edit(func(m *ocispec.Manifest) { m.Layers[0].Size = -1 }), fserr.Invalid},
		{"config is no JSON", ocispec.MediaTypeImageManifest, edit(func(m *ocispec.Manifest) {
			m.Config = r.push(ocispec.MediaTypeImageConfig, []byte("no JSON"))
		}), fserr.Corrupt},
		{"too many layers", ocispec.MediaTypeImageManifest, edit(func(m *ocispec.Manifest) {
			m.Layers = slices.Repeat(m.Layers, source.MaxLayers+1)
		}), fserr.TooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.pusher.PushManifest(t.Context(), "hostile", tt.mediaType, r.encode(tt.doc))
			if err != nil && r.Strict {
				wantKind(t, err, fserr.Invalid)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = r.Backend.Resolve(t.Context(), r.Ref("hostile"), linux("amd64"))
			wantKind(t, err, tt.kind)
		})
	}
}

func testPushManifest(t *testing.T, r *repo) {
	m := r.encode(r.manifest(linux("amd64"), Bytes(1, 100)))
	d := digest.FromBytes(m)
	for _, target := range []string{"", d.String(), "v1", r.Ref("v2"), r.Ref(d.String())} {
		desc, err := r.pusher.PushManifest(t.Context(), target, ocispec.MediaTypeImageManifest, m)
		if err != nil || desc.Digest != d {
			t.Errorf("PushManifest(%q) = %v, %v", target, desc.Digest, err)
		}
	}
	for _, tag := range []string{"v1", "v2"} {
		desc, data, err := r.Backend.FetchManifest(t.Context(), r.Ref(tag))
		if err != nil || desc.Digest != d || !bytes.Equal(data, m) || desc.MediaType != ocispec.MediaTypeImageManifest {
			t.Errorf("FetchManifest(%s) = %v, %v", tag, desc, err)
		}
	}
	other := digest.FromString("other")
	for _, target := range []string{"no tag", r.Ref(other.String()), "elsewhere.example/x/y:v1", "../x"} {
		_, err := r.pusher.PushManifest(t.Context(), target, ocispec.MediaTypeImageManifest, m)
		wantKind(t, err, fserr.Invalid)
	}
	_, err := r.pusher.PushManifest(t.Context(), "big", ocispec.MediaTypeImageManifest, make([]byte, source.MaxManifestBytes+1))
	wantKind(t, err, fserr.TooLarge)
	next := r.image("v1", linux("amd64"), Bytes(2, 100))
	img, err := r.Backend.Resolve(t.Context(), r.Ref("v1"), linux("amd64"))
	if err != nil || img.Digest != next.Digest {
		t.Errorf("a tag that moved: %v, %v", img, err)
	}
}

func testMalformedReferences(t *testing.T, r *repo) {
	for _, ref := range []string{"", r.Ref("a tag"), r.Ref("sha256:short"), "UPPER/Case:x y"} {
		_, err := r.Backend.Resolve(t.Context(), ref, linux("amd64"))
		wantKind(t, err, fserr.Invalid)
		_, err = r.Backend.Blob(t.Context(), ref, ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1})
		wantKind(t, err, fserr.Invalid)
	}
	_, err := r.Backend.Blob(t.Context(), r.Ref("latest"), ocispec.Descriptor{Digest: "sha256:../../etc/passwd", Size: 1})
	wantKind(t, err, fserr.Invalid)
	_, err = r.Backend.Blob(t.Context(), r.Ref("latest"), ocispec.Descriptor{Digest: digest.FromString("x"), Size: -1})
	wantKind(t, err, fserr.Invalid)
}
