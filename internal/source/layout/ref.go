package layout

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// Reference names an image in a layout. At most one of Tag and Digest is set.
type Reference struct {
	// Archive: Path is a tar file, not a directory.
	Archive bool
	// Path is absolute and clean.
	Path   string
	Tag    string
	Digest digest.Digest
}

// maxReferenceBytes bounds what ParseReference looks at.
const maxReferenceBytes = 8192

// ParseReference reads "oci:path", "oci:path:tag" and "oci:path@digest", and the
// same with "oci-archive:". A part after the last colon is a tag if it has no
// slash, so a path with a colon in its last element needs a tag or a digest.
func ParseReference(s string) (Reference, error) {
	var ref Reference
	rest, ok := strings.CutPrefix(s, source.LayoutPrefix)
	if !ok {
		if rest, ok = strings.CutPrefix(s, source.ArchivePrefix); !ok {
			return ref, invalid(s, "does not begin with %q or %q", source.LayoutPrefix, source.ArchivePrefix)
		}
		ref.Archive = true
	}
	if len(s) > maxReferenceBytes || strings.IndexByte(s, 0) >= 0 {
		return ref, invalid(s[:min(len(s), 64)], "not a usable path")
	}
	if i := digestAt(rest); i >= 0 {
		d, err := digest.Parse(rest[i+1:])
		if err != nil {
			return ref, invalid(s, "%w", err)
		}
		ref.Digest, rest = d, rest[:i]
	} else if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[i:], "/") {
		ref.Tag, rest = rest[i+1:], rest[:i]
		if !tagPattern().MatchString(ref.Tag) {
			return ref, invalid(s, "%q is not a tag", ref.Tag)
		}
	}
	if rest == "" {
		return ref, invalid(s, "no path")
	}
	path, err := filepath.Abs(rest)
	if err != nil {
		return ref, invalid(s, "%w", err)
	}
	ref.Path = path
	return ref, nil
}

// digestAt is where a digest at the end of a reference begins; -1 if none does.
func digestAt(s string) int {
	for _, a := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		if i := strings.LastIndex(s, "@"+a.String()+":"); i >= 0 && !strings.Contains(s[i:], "/") {
			return i
		}
	}
	return -1
}

// tagPattern is a tag as the distribution specification has it.
func tagPattern() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`) }

func invalid(s, format string, args ...any) error {
	return fserr.Newf(fserr.Invalid, "parse reference", fmt.Sprintf("%q", s), format, args...)
}

// String is the reference in full; ParseReference gives it back.
func (r Reference) String() string {
	s := source.LayoutPrefix + r.Path
	if r.Archive {
		s = source.ArchivePrefix + r.Path
	}
	// A slash ends a path that would be read as one with a tag or a digest.
	last := filepath.Base(r.Path)
	if digestAt(last) >= 0 || strings.Contains(last, ":") && r.Tag == "" && r.Digest == "" {
		s += "/"
	}
	switch {
	case r.Digest != "":
		return s + "@" + r.Digest.String()
	case r.Tag != "":
		return s + ":" + r.Tag
	}
	return s
}
