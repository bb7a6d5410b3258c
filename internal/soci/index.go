package soci

import (
	"encoding/json"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/estargz"
)

// The names that SOCI indexes use.
const (
	// AnnotationIndexDigest, on the descriptor of a manifest in an image index, is
	// the digest of the SOCI index of version 2 in the same image index.
	AnnotationIndexDigest = "com.amazon.soci.index-digest"
	// ArtifactTypeV1 and ArtifactTypeV2 are the media type of the config of a SOCI
	// index; version 1 refers to its image by "subject".
	ArtifactTypeV1 = "application/vnd.amazon.soci.index.v1+json"
	ArtifactTypeV2 = "application/vnd.amazon.soci.index.v2+json"

	annotationLayer = "com.amazon.soci.image-layer-digest"
	ztocType        = "application/octet-stream"
	maxLayers       = 4096
)

// Index is a SOCI index.
type Index struct {
	// Version is 1 or 2.
	Version int
	// Subject is the digest of the manifest that a version 1 index is for; empty
	// in version 2.
	Subject string

	ztocs map[string]ocispec.Descriptor // by the layer's digest
}

// ZTOC is the descriptor of the zTOC for the layer with this digest. Layers below
// a size have none.
func (x *Index) ZTOC(layer string) (ocispec.Descriptor, bool) {
	d, ok := x.ztocs[layer]
	return d, ok
}

// Len is how many layers have a zTOC.
func (x *Index) Len() int { return len(x.ztocs) }

// ParseIndex reads the manifest that is a SOCI index.
func ParseIndex(data []byte, lim Limits) (*Index, error) {
	lim = lim.effective()
	if len(data) > lim.IndexBytes {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrIndexSize, len(data), lim.IndexBytes)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIndex, err)
	}
	x := &Index{ztocs: map[string]ocispec.Descriptor{}}
	switch m.Config.MediaType {
	case ArtifactTypeV1:
		x.Version = 1
	case ArtifactTypeV2:
		x.Version = 2
	default:
		return nil, fmt.Errorf("%w: config of type %.100q", ErrNotIndex, m.Config.MediaType)
	}
	if m.MediaType != "" && m.MediaType != ocispec.MediaTypeImageManifest {
		return nil, fmt.Errorf("%w: media type %.100q", ErrNotIndex, m.MediaType)
	}
	if x.Version == 1 && m.Subject != nil {
		x.Subject = m.Subject.Digest.String()
	}
	if len(m.Layers) > maxLayers {
		return nil, fmt.Errorf("%w: %d layers, limit %d", ErrIndexSize, len(m.Layers), maxLayers)
	}
	for i, l := range m.Layers {
		if l.MediaType != ztocType {
			continue // what to prefetch, or something that came later
		}
		if err := x.add(l, lim); err != nil {
			return nil, fmt.Errorf("zTOC %d: %w", i, err)
		}
	}
	return x, nil
}

func (x *Index) add(d ocispec.Descriptor, lim Limits) error {
	layer := d.Annotations[annotationLayer]
	if _, err := estargz.ParseDigest(layer); err != nil {
		return fmt.Errorf("%w: its layer: %w", ErrIndex, err)
	}
	if _, err := estargz.ParseDigest(d.Digest.String()); err != nil {
		return fmt.Errorf("%w: %w", ErrIndex, err)
	}
	if d.Size < 0 || d.Size > int64(lim.ZTOCBytes) {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrSize, d.Size, lim.ZTOCBytes)
	}
	if old, ok := x.ztocs[layer]; ok && old.Digest != d.Digest {
		return fmt.Errorf("%w: two zTOCs for layer %s", ErrIndex, layer)
	}
	x.ztocs[layer] = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	return nil
}
