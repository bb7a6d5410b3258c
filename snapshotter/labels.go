package snapshotter

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// Labels of a Prepare that describe where a layer comes from. The first family
// is set by containerd and by clients built on it, the second by clients of the
// stargz snapshotter; BuildKit appends "." and an identifier of the call to each.
const (
	LabelImageRef       = "containerd.io/snapshot/cri.image-ref"
	LabelLayerDigest    = "containerd.io/snapshot/cri.layer-digest"
	LabelManifestDigest = "containerd.io/snapshot/cri.manifest-digest"
	LabelImageLayers    = "containerd.io/snapshot/cri.image-layers"

	LabelStargzRef    = "containerd.io/snapshot/remote/stargz.reference"
	LabelStargzDigest = "containerd.io/snapshot/remote/stargz.digest"
	LabelStargzLayers = "containerd.io/snapshot/remote/stargz.layers"

	LabelTOCDigest = "containerd.io/snapshot/stargz/toc.digest"
)

const (
	// LabelRemote marks committed remote snapshots for BuildKit.
	LabelRemote = "containerd.io/snapshot/remote"
	// LabelLazy says "true", or "false: " and the reason. It is information for
	// people; nothing depends on it.
	LabelLazy = "containerd.io/snapshot/nineply.lazy"

	labelParentChain = "containerd.io/snapshot/parent-chain-id"

	maxRefLength   = 1024
	maxLabelLength = 4096
	maxLabels      = 1024
)

// errNoLabels: the client named a target but no image.
var errNoLabels = errors.New("no labels name the image and the layer")

// chainKey makes the identity of a chain from the client's target: the target
// itself where it is a sha256 digest, as a chain ID is, else a digest of it.
func chainKey(target string) string {
	if isSHA256(target) {
		return target
	}
	sum := sha256.Sum256([]byte("target\x00" + target))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// parseLayer reads the description of one layer from the labels of a Prepare.
// parent is the chain key of the layer below.
func parseLayer(labels map[string]string, target, parent string) (Layer, error) {
	l := Layer{ChainID: chainKey(target), Parent: parent, DiffID: diffID(labels, target, parent)}
	ref, dgst, suffix := findSource(labels)
	if ref == "" || dgst == "" {
		return Layer{}, errNoLabels
	}
	var err error
	if l.Ref, err = parseRef(ref); err != nil {
		return Layer{}, err
	}
	if l.Digest, err = parseDigest(LabelLayerDigest, dgst); err != nil {
		return Layer{}, err
	}
	if m := labels[LabelManifestDigest+suffix]; m != "" {
		if l.ManifestDigest, err = parseDigest(LabelManifestDigest, m); err != nil {
			return Layer{}, err
		}
	}
	l.Labels = hints(labels, suffix)
	return l, nil
}

// findSource finds the image reference and layer digest in the labels. Labels
// without a suffix win; among suffixes the first in order that has both is taken,
// so that the two never come from different calls.
func findSource(labels map[string]string) (ref, dgst, suffix string) {
	for _, suffix := range suffixes(labels) {
		ref := first(labels[LabelImageRef+suffix], labels[LabelStargzRef+suffix])
		dgst := first(labels[LabelLayerDigest+suffix], labels[LabelStargzDigest+suffix])
		if ref != "" && dgst != "" {
			return ref, dgst, suffix
		}
	}
	return "", "", ""
}

// suffixes lists "" and every ".ID" that follows the key of a layer digest.
func suffixes(labels map[string]string) []string {
	found := []string{""}
	for k := range labels {
		for _, base := range []string{LabelLayerDigest, LabelStargzDigest} {
			rest, ok := strings.CutPrefix(k, base+".")
			if ok && rest != "" && !strings.ContainsAny(rest, "./") {
				found = append(found, "."+rest)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// parseRef accepts image references only and gives them in full, so that no
// later reader takes one for a path or another scheme.
func parseRef(s string) (string, error) {
	if len(s) > maxRefLength {
		return "", fmt.Errorf("image reference of %d bytes, limit %d", len(s), maxRefLength)
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return "", fmt.Errorf("image reference %q: %w", s, err)
	}
	return named.String(), nil
}

func isSHA256(s string) bool {
	d, err := digest.Parse(s)
	return err == nil && d.Algorithm() == digest.SHA256
}

// parseDigest takes sha256 digests only, as all of this project does.
func parseDigest(label, s string) (string, error) {
	if len(s) > maxLabelLength {
		return "", fmt.Errorf("label %s: value of %d bytes", label, len(s))
	}
	if !isSHA256(s) {
		return "", fmt.Errorf("label %s: %q is no sha256 digest", label, s)
	}
	return s, nil
}

// hints picks the labels a Backend may use, and only those that are well formed.
func hints(labels map[string]string, suffix string) map[string]string {
	h := make(map[string]string, 2)
	layers := first(labels[LabelImageLayers+suffix], labels[LabelStargzLayers+suffix])
	if layers != "" && validLayers(layers) {
		h[LabelImageLayers] = layers
	}
	if toc, err := parseDigest(LabelTOCDigest, labels[LabelTOCDigest+suffix]); err == nil {
		h[LabelTOCDigest] = toc
	}
	if len(h) == 0 {
		return nil
	}
	return h
}

func validLayers(list string) bool {
	if len(list) > maxLabelLength {
		return false
	}
	for d := range strings.SplitSeq(list, ",") {
		if !isSHA256(d) {
			return false
		}
	}
	return true
}

// diffID gives the layer's diff ID if the target proves it: a chain ID is the
// hash of the chain ID below and the diff ID, and of the lowest layer it is the
// diff ID itself.
func diffID(labels map[string]string, target, parent string) string {
	t, err := digest.Parse(target)
	if err != nil {
		return ""
	}
	if parent == "" {
		return t.String()
	}
	d, err := digest.Parse(labels[snapshots.LabelSnapshotDiffID])
	if err != nil || identity.ChainID([]digest.Digest{digest.Digest(parent), d}) != t {
		return ""
	}
	return d.String()
}

// isRebase tells that the client unpacks in parallel: the layer has a parent, as
// its chain ID proves, and the client will name it only when committing.
func isRebase(labels map[string]string, target, parent string) bool {
	if parent != "" {
		return false
	}
	p, err := digest.Parse(labels[labelParentChain])
	return err == nil && diffID(labels, target, p.String()) != ""
}

// checkLabels bounds what is stored for a snapshot.
func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return fmt.Errorf("%d labels, limit %d", len(labels), maxLabels)
	}
	for k, v := range labels {
		if len(k)+len(v) > maxLabelLength {
			return fmt.Errorf("label %.64q: %d bytes, limit %d", k, len(k)+len(v), maxLabelLength)
		}
	}
	return nil
}
