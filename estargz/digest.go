package estargz

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/nineply/nineply/internal/fserr"
)

// Digest is a sha256 sum: of a blob, a TOC or a chunk.
type Digest [sha256.Size]byte

const digestPrefix = "sha256:"

// Sum hashes p.
func Sum(p []byte) Digest { return sha256.Sum256(p) }

// ParseDigest reads the OCI text form "sha256:" followed by 64 lower-case hex
// digits. Anything else is an fserr.Invalid error.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	text, ok := strings.CutPrefix(s, digestPrefix)
	if !ok || len(text) != hex.EncodedLen(len(d)) || strings.ToLower(text) != text {
		return Digest{}, fserr.Newf(fserr.Invalid, "parse digest", "", "%.80q is not sha256:<64 hex digits>", s)
	}
	if _, err := hex.Decode(d[:], []byte(text)); err != nil {
		return Digest{}, fserr.New(fserr.Invalid, "parse digest", "", err)
	}
	return d, nil
}

// String gives the OCI text form.
func (d Digest) String() string { return digestPrefix + hex.EncodeToString(d[:]) }

// IsZero reports whether d was never set.
func (d Digest) IsZero() bool { return d == Digest{} }
