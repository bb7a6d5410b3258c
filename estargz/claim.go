package estargz

import (
	"fmt"
	"strconv"
	"strings"
)

// Annotations of a layer descriptor that say where a zstd:chunked blob has its
// TOC, and what it must be. stargz-snapshotter and containers/storage use the
// same two under names of their own; the checksum is that of the compressed TOC,
// and the position reads offset:length:uncompressed length:type.
const (
	AnnotationStargzChecksum     = "io.containers.zstd-chunked.manifest-checksum"
	AnnotationStargzPosition     = "io.containers.zstd-chunked.manifest-position"
	AnnotationContainersChecksum = "io.github.containers.zstd-chunked.manifest-checksum"
	AnnotationContainersPosition = "io.github.containers.zstd-chunked.manifest-position"
	// AnnotationContainersTarSplit reads offset:length:uncompressed length; the
	// TOC has the checksum.
	AnnotationContainersTarSplit = "io.github.containers.zstd-chunked.tarsplit-position"
)

// Claim is what a manifest says of a layer's TOC. A claim is believed because
// the manifest is, and a TOC because it keeps the claim.
type Claim struct {
	TOC    Digest // of the TOC's JSON; zero: nothing is said of it
	Packed Digest // of the compressed TOC; zero: nothing is said of it
	// Place is where the TOC is; a TOCSize of 0 leaves that to the blob's footer.
	Place Footer
}

// ClaimOf reads the annotations of a layer descriptor. It fails with [ErrClaim]
// if one of them is malformed, or if they contradict each other.
func ClaimOf(annotations map[string]string) (Claim, error) {
	var c Claim
	if text, ok := annotations[AnnotationTOCDigest]; ok {
		d, err := ParseDigest(text)
		if err != nil || d.IsZero() {
			return Claim{}, fmt.Errorf("%w: %s %.100q", ErrClaim, AnnotationTOCDigest, text)
		}
		c.TOC = d
	}
	for _, keys := range [...][2]string{
		{AnnotationContainersChecksum, AnnotationContainersPosition},
		{AnnotationStargzChecksum, AnnotationStargzPosition},
	} {
		sum, ok := annotations[keys[0]]
		if !ok {
			continue // a position alone is a hint that nobody vouches for
		}
		if err := c.packed(sum, annotations[keys[1]]); err != nil {
			return Claim{}, fmt.Errorf("%s: %w", keys[0], err)
		}
	}
	return c, nil
}

// packed adds what one pair of annotations says.
func (c *Claim) packed(sum, position string) error {
	d, err := ParseDigest(sum)
	if err != nil || d.IsZero() {
		return fmt.Errorf("%w: %.100q is no digest", ErrClaim, sum)
	}
	place, err := parsePosition(position)
	if err != nil {
		return err
	}
	if c.Packed != (Digest{}) && (c.Packed != d || c.Place != place) {
		return fmt.Errorf("%w: the annotations contradict each other", ErrClaim)
	}
	c.Packed, c.Place = d, place
	return nil
}

// parsePosition reads offset:length:uncompressed length:type.
func parsePosition(text string) (Footer, error) {
	parts := strings.SplitN(text, ":", 5)
	var v [4]int64
	if len(parts) != len(v) {
		return Footer{}, fmt.Errorf("%w: position %.100q", ErrClaim, text)
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 63)
		if err != nil {
			return Footer{}, fmt.Errorf("%w: position %.100q", ErrClaim, text)
		}
		v[i] = int64(n)
	}
	return zstdPlace(v, 0)
}

// None reports that the manifest says nothing of a TOC, so that there is none
// that could be believed.
func (c Claim) None() bool { return c.TOC.IsZero() && c.Packed.IsZero() }

// CheckPacked compares the compressed TOC with the claim: before anything in it
// is decompressed. It fails with [ErrClaim].
func (c Claim) CheckPacked(packed []byte) error {
	if c.Packed.IsZero() {
		return nil
	}
	if got := Sum(packed); got != c.Packed {
		return fmt.Errorf("%w: the compressed TOC has digest %s, the manifest says %s", ErrClaim, got, c.Packed)
	}
	return nil
}

// CheckTOC compares the digest that [ReadTOC] gave with the claim. It fails with
// [ErrClaim].
func (c Claim) CheckTOC(got Digest) error {
	if c.TOC.IsZero() || got == c.TOC {
		return nil
	}
	return fmt.Errorf("%w: the TOC has digest %s, the manifest says %s", ErrClaim, got, c.TOC)
}
