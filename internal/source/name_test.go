package source_test

import (
	"testing"

	digest "github.com/opencontainers/go-digest"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

func TestNames(t *testing.T) {
	d := digest.FromString("x")
	for _, tt := range []struct{ ref, tag, withDigest, withTag string }{
		{"alpine", "latest", "docker.io/library/alpine@" + d.String(), "docker.io/library/alpine:new"},
		{"a.example:5000/b:v1", "v1", "a.example:5000/b@" + d.String(), "a.example:5000/b:new"},
		{"a.example/b@" + d.String(), "", "a.example/b@" + d.String(), "a.example/b:new"},
		{"oci:/a/b:v1", "v1", "oci:/a/b@" + d.String(), "oci:/a/b:new"},
		{"oci:/a/b", "latest", "oci:/a/b@" + d.String(), "oci:/a/b:new"},
		{"oci:/a/b:c/", "latest", "oci:/a/b:c/@" + d.String(), "oci:/a/b:c/:new"},
		{"oci:/a/b@" + d.String(), "", "oci:/a/b@" + d.String(), "oci:/a/b:new"},
		{"oci:/a/b@c:v1", "v1", "oci:/a/b@c@" + d.String(), "oci:/a/b@c:new"},
		{"oci:dir:v1", "v1", "oci:dir@" + d.String(), "oci:dir:new"},
		{"oci-archive:/a/b.tar:v1", "v1", "oci-archive:/a/b.tar@" + d.String(), "oci-archive:/a/b.tar:new"},
		{"containerd:a.example:5000/b:v1", "v1", "containerd:a.example:5000/b@" + d.String(), "containerd:a.example:5000/b:new"},
		{"containerd://k8s.io/a.example/b", "latest", "containerd://k8s.io/a.example/b@" + d.String(), "containerd://k8s.io/a.example/b:new"},
	} {
		tag, err := source.TagOf(tt.ref)
		if err != nil || tag != tt.tag {
			t.Errorf("tag of %s: %q, %v", tt.ref, tag, err)
		}
		if got, err := source.WithDigest(tt.ref, d); err != nil || got != tt.withDigest {
			t.Errorf("%s with digest: %q, %v", tt.ref, got, err)
		}
		if got, err := source.WithTag(tt.ref, "new"); err != nil || got != tt.withTag {
			t.Errorf("%s with tag: %q, %v", tt.ref, got, err)
		}
	}
	for _, ref := range []string{"", "oci:", "containerd:", "a/B", "a b"} {
		if _, err := source.TagOf(ref); !fserr.Is(err, fserr.Invalid) {
			t.Errorf("%q: %v", ref, err)
		}
	}
}
