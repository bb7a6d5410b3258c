package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// undoPatience bounds how long a tag is tried to be taken back.
const undoPatience = 30 * time.Second

// compose makes the config and the manifest of an image.
func (p *picture) compose() error {
	img := p.member.Image
	var err error
	if p.config, err = newConfig(img, p.layers); err != nil {
		return err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config:      ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(p.config), Size: int64(len(p.config))},
		Layers:      []ocispec.Descriptor{},
		Annotations: withoutLayerKeys(img.Manifest.Annotations),
	}
	for _, l := range p.layers {
		m.Layers = append(m.Layers, l.out)
	}
	if p.text, err = json.Marshal(m); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	old := p.member.Descriptor
	p.desc = ocispec.Descriptor{
		MediaType: m.MediaType, Digest: digest.FromBytes(p.text), Size: int64(len(p.text)),
		Platform: old.Platform, Annotations: withoutLayerKeys(old.Annotations),
	}
	return nil
}

// withoutLayerKeys drops what said something of the old layers' bytes.
func withoutLayerKeys(annotations map[string]string) map[string]string {
	out := maps.Clone(annotations)
	maps.DeleteFunc(out, func(key, _ string) bool { return estargz.IsLayerAnnotation(key) })
	return out
}

// newConfig is the image's config with the layers' DiffIDs: to the byte the old
// one if those stayed. Fields that this program does not know are kept.
func newConfig(img *source.Image, layers []*layer) ([]byte, error) {
	root := ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, l := range layers {
		root.DiffIDs = append(root.DiffIDs, l.newID)
	}
	if slices.Equal(root.DiffIDs, img.Config.RootFS.DiffIDs) {
		return img.ConfigBytes, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(img.ConfigBytes, &fields); err != nil {
		return nil, fserr.New(fserr.Corrupt, "decode", "config", err)
	}
	text, err := json.Marshal(root)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	fields["rootfs"] = text
	out, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return out, nil
}

// newIndex is an index without manifests in place of the source's.
func newIndex(old *ocispec.Index) *ocispec.Index {
	return &ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{}, Annotations: withoutLayerKeys(old.Annotations),
	}
}

// asideDescriptor is the entry of what is about an image, pointing at what that
// became.
func asideDescriptor(m source.Member, now digest.Digest) ocispec.Descriptor {
	desc := m.Descriptor
	desc.Annotations = maps.Clone(desc.Annotations)
	desc.Annotations[source.AnnotationReferenceDigest] = now.String()
	return desc
}

// tocImage is the image of the external TOCs, on its way.
type tocImage struct {
	ref  string
	text []byte
}

// pushTOCs brings the external TOCs to the target, and composes the manifest of
// their image: one for all platforms, with an empty config, by the convention of
// stargz-snapshotter.
func (j *job) pushTOCs(ctx context.Context) (*tocImage, error) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromString("{}"), Size: 2},
	}
	seen := map[digest.Digest]bool{}
	for _, l := range j.stage.layers {
		if l.toc == nil || seen[l.out.Digest] {
			continue
		}
		seen[l.out.Digest] = true
		desc := ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(l.toc), Size: int64(len(l.toc)),
			Annotations: map[string]string{estargz.AnnotationLayerDigest: l.out.Digest.String()},
		}
		if err := j.to.PushBlob(ctx, desc, opener(l.toc)); err != nil {
			return nil, fmt.Errorf("TOC of %s: %w", l.name, err)
		}
		m.Layers = append(m.Layers, desc)
	}
	if len(m.Layers) == 0 {
		return nil, nil
	}
	slices.SortFunc(m.Layers, func(a, b ocispec.Descriptor) int {
		return strings.Compare(a.Annotations[estargz.AnnotationLayerDigest], b.Annotations[estargz.AnnotationLayerDigest])
	})
	if err := j.to.PushBlob(ctx, m.Config, opener([]byte("{}"))); err != nil {
		return nil, fmt.Errorf("config of the TOC image: %w", err)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("manifest of the TOC image: %w", err)
	}
	tag, err := source.TagOf(j.dstRef)
	if err != nil {
		return nil, err
	}
	ref, err := source.WithTag(j.dstRef, tag+estargz.ExternalTOCSuffix)
	return &tocImage{ref: ref, text: bytes.Clone(text)}, err
}
