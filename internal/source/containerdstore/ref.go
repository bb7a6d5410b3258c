package containerdstore

import (
	"fmt"
	"regexp"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// Reference names an image in a containerd.
type Reference struct {
	// Namespace is empty for the one that the store was opened with.
	Namespace string
	// Name is the image's, with its tag and without a digest.
	Name string
	// Digest, if there is one, names the manifest in the content store.
	Digest digest.Digest
}

// maxReferenceBytes bounds what ParseReference looks at.
const maxReferenceBytes = 1024

// namespacePattern is containerd's rule for identifiers.
var namespacePattern = regexp.MustCompile(`^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$`)

// ParseReference reads "containerd:IMAGE" and "containerd://NAMESPACE/IMAGE".
func ParseReference(s string) (Reference, error) {
	var ref Reference
	rest, ok := strings.CutPrefix(s, source.ContainerdPrefix)
	if !ok || len(s) > maxReferenceBytes {
		return ref, invalid(s, "not of the form %sIMAGE", source.ContainerdPrefix)
	}
	if withSpace, ok := strings.CutPrefix(rest, "//"); ok {
		ref.Namespace, rest, ok = strings.Cut(withSpace, "/")
		if !ok || len(ref.Namespace) > 76 || !namespacePattern.MatchString(ref.Namespace) {
			return ref, invalid(s, "not of the form %s//NAMESPACE/IMAGE", source.ContainerdPrefix)
		}
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		d, err := digest.Parse(rest[i+1:])
		if err != nil {
			return ref, invalid(s, "%w", err)
		}
		ref.Digest, rest = d, rest[:i]
	}
	if rest == "" || strings.HasPrefix(rest, "/") || strings.ContainsAny(rest, " \t\r\n\x00") {
		return ref, invalid(s, "no image is named")
	}
	ref.Name = rest
	return ref, nil
}

func invalid(s, format string, args ...any) error {
	return fserr.Newf(fserr.Invalid, "parse reference", fmt.Sprintf("%.128q", s), format, args...)
}

// String is the reference in full; ParseReference gives it back.
func (r Reference) String() string {
	s := source.ContainerdPrefix
	if r.Namespace != "" {
		s += "//" + r.Namespace + "/"
	}
	s += r.Name
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// names are those under which containerd may have the image, best first.
func (r Reference) names() []string {
	full := r.fullName()
	if full == r.Name {
		return []string{full}
	}
	return []string{r.Name, full}
}

// fullName is the name that an image gets when it is written.
func (r Reference) fullName() string {
	if parsed, err := source.ParseReference(r.Name); err == nil {
		return parsed.String()
	}
	return r.Name
}
