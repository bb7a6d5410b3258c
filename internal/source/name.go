package source

import (
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/nineply/nineply/internal/fserr"
)

// ContainerdPrefix begins the references that name an image in the store of a
// containerd on this host: "containerd:IMAGE" in the namespace that the store
// was opened with, or "containerd://NAMESPACE/IMAGE".
const ContainerdPrefix = "containerd:"

// IsContainerd reports whether ref names an image in the store of a containerd.
func IsContainerd(ref string) bool { return strings.HasPrefix(ref, ContainerdPrefix) }

// WithDigest is ref with d in place of its tag or its digest: the same
// repository, another object of it.
func WithDigest(ref string, d digest.Digest) (string, error) {
	name, _, err := splitName(ref)
	if err != nil {
		return "", err
	}
	return name + "@" + d.String(), nil
}

// WithTag is ref with tag in place of its tag or its digest.
func WithTag(ref, tag string) (string, error) {
	name, _, err := splitName(ref)
	if err != nil {
		return "", err
	}
	return name + ":" + tag, nil
}

// TagOf is the tag that ref names: "latest" if it says nothing, and empty if it
// has a digest.
func TagOf(ref string) (string, error) {
	_, tag, err := splitName(ref)
	return tag, err
}

// splitName cuts a reference of any kind into what names the repository and the
// tag; the tag is empty if there was a digest.
func splitName(ref string) (name, tag string, err error) {
	if !IsLayout(ref) && !IsContainerd(ref) {
		parsed, err := ParseReference(ref)
		return parsed.Name(), parsed.Tag, err
	}
	kind, rest, _ := strings.Cut(ref, ":")
	if rest == "" {
		return "", "", fserr.Newf(fserr.Invalid, "parse reference", clip(ref, 64), "nothing is named")
	}
	last := strings.LastIndexByte(rest, '/') + 1
	if i := strings.LastIndexByte(rest, '@'); i >= last {
		if _, derr := digest.Parse(rest[i+1:]); derr == nil {
			return kind + ":" + rest[:i], "", nil
		}
	}
	if i := strings.LastIndexByte(rest, ':'); i >= last {
		return kind + ":" + rest[:i], rest[i+1:], nil
	}
	return kind + ":" + rest, "latest", nil
}
