package soci_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/soci"
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	digestC = "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
)

// manifest is a SOCI index of a version.
func manifest(version, extra string, layers ...string) string {
	return `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
		`"config":{"mediaType":"application/vnd.amazon.soci.index.v` + version + `+json","digest":"` + digestC + `","size":2},` +
		extra + `"layers":[` + strings.Join(layers, ",") + `]}`
}

func layer(mediaType, digest, size, of string) string {
	return `{"mediaType":"` + mediaType + `","digest":"` + digest + `","size":` + size +
		`,"annotations":{"com.amazon.soci.image-layer-digest":"` + of + `","com.amazon.soci.span-size":"4194304"}}`
}

const octets = "application/octet-stream"

func TestParseIndex(t *testing.T) {
	prefetch := layer("application/vnd.amazon.soci.prefetch.v1+json", digestC, "5", digestA)
	x, err := soci.ParseIndex([]byte(manifest("2", "", layer(octets, digestB, "1000", digestA), prefetch)), soci.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	d, ok := x.ZTOC(digestA)
	if !ok || d.Digest != digestB || d.Size != 1000 || x.Version != 2 || x.Len() != 1 {
		t.Errorf("%+v, %v", d, x)
	}
	if _, ok := x.ZTOC(digestB); ok {
		t.Error("a layer that is not in the index has a zTOC")
	}
	subject := `"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + digestA + `","size":3},`
	if x, err = soci.ParseIndex([]byte(manifest("1", subject)), soci.Limits{}); err != nil || x.Version != 1 || x.Subject != digestA {
		t.Errorf("version 1: %+v, %v", x, err)
	}
}

func TestParseIndexRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, data string
		want       error
	}{
		{"no JSON", "{", soci.ErrIndex},
		{"layers of another type", `{"layers":{}}`, soci.ErrIndex},
		{"an image", strings.ReplaceAll(manifest("2", ""), "amazon", "oci"), soci.ErrNotIndex},
		{"version 3", manifest("3", ""), soci.ErrNotIndex},
		{"an image index", strings.ReplaceAll(manifest("2", ""), "image.manifest", "image.index"), soci.ErrNotIndex},
		{"no layer", manifest("2", "", layer(octets, digestB, "1", "")), soci.ErrIndex},
		{"no digest", manifest("2", "", layer(octets, "sha256:b", "1", digestA)), soci.ErrIndex},
		{"negative size", manifest("2", "", layer(octets, digestB, "-1", digestA)), soci.ErrSize},
		{"huge size", manifest("2", "", layer(octets, digestB, "99999999999", digestA)), soci.ErrSize},
		{"two zTOCs for a layer", manifest("2", "", layer(octets, digestB, "1", digestA), layer(octets, digestC, "1", digestA)), soci.ErrIndex},
		{"too long", strings.Repeat(" ", 5<<20), soci.ErrIndexSize},
		{"too many", manifest("2", "", strings.Split(strings.Repeat(layer(octets, digestB, "1", digestA)+"|", 4100), "|")[:4100]...), soci.ErrIndexSize},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := soci.ParseIndex([]byte(tt.data), soci.Limits{}); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}
