package source

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"

	// The algorithms a digest may name.
	_ "crypto/sha256"
	_ "crypto/sha512"

	"github.com/nineply/nineply/internal/fserr"
)

// maxReferenceBytes bounds what ParseReference looks at: a name of 255 bytes, a
// tag of 128 and the longest digest fit in.
const maxReferenceBytes = 1024

// Reference names something in a registry. Exactly one of Tag and Digest is
// set: a digest given beside a tag wins, as it says more.
type Reference struct {
	// Host is the registry as the name says it: "docker.io", "localhost:5000".
	Host string
	// Repository is the path within the registry: "library/alpine".
	Repository string
	Tag        string
	Digest     digest.Digest
}

// ParseReference understands what docker and containerd do: "alpine" is
// docker.io/library/alpine:latest. A malformed reference is an error of kind
// Invalid.
func ParseReference(s string) (Reference, error) {
	if len(s) > maxReferenceBytes {
		return Reference{}, fserr.Newf(fserr.Invalid, "parse reference", clip(s, 64), "longer than %d bytes", maxReferenceBytes)
	}
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return Reference{}, fserr.New(fserr.Invalid, "parse reference", fmt.Sprintf("%q", s), err)
	}
	ref := Reference{Host: reference.Domain(named), Repository: reference.Path(named)}
	if d, ok := named.(reference.Digested); ok {
		ref.Digest = d.Digest()
	} else if t, ok := named.(reference.Tagged); ok {
		ref.Tag = t.Tag()
	}
	if ref.Host == "" || ref.Repository == "" || (ref.Tag == "") == (ref.Digest == "") {
		return Reference{}, fserr.Newf(fserr.Invalid, "parse reference", fmt.Sprintf("%q", s), "incomplete")
	}
	return ref, nil
}

// Name is host and repository: "docker.io/library/alpine".
func (r Reference) Name() string { return r.Host + "/" + r.Repository }

// Target is the tag or the digest.
func (r Reference) Target() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// String is the normalised reference. ParseReference(r.String()) gives r.
func (r Reference) String() string {
	if r.Digest != "" {
		return r.Name() + "@" + r.Digest.String()
	}
	return r.Name() + ":" + r.Tag
}

// CheckDigest reports a digest that is malformed or of an unknown algorithm.
func CheckDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fserr.New(fserr.Invalid, "check digest", fmt.Sprintf("%q", clip(d.String(), 160)), err)
	}
	return nil
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}

// PushTargetName is the tag or the digest under which a manifest with digest d
// is to be written into the repository of ref. target is what
// [Pusher.PushManifest] was given.
func PushTargetName(ref Reference, target string, d digest.Digest) (string, error) {
	if target == "" || target == d.String() {
		return d.String(), nil
	}
	full := target
	if !strings.Contains(target, "/") {
		full = ref.Name() + ":" + target
	}
	parsed, err := ParseReference(full)
	if err != nil {
		return "", err
	}
	if parsed.Name() != ref.Name() {
		return "", fserr.Newf(fserr.Invalid, "push", full, "not in repository %s", ref.Name())
	}
	if parsed.Digest != "" && parsed.Digest != d {
		return "", fserr.Newf(fserr.Invalid, "push", full, "the manifest's digest is %s", d)
	}
	return parsed.Target(), nil
}
