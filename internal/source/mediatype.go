package source

import (
	"encoding/json"
	"mime"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
)

// Docker's names for what OCI has its own names for.
const (
	MediaTypeDockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerConfig       = "application/vnd.docker.container.image.v1+json"
)

// ManifestTypes lists the media types to accept for a manifest, best first.
func ManifestTypes() []string {
	return []string{
		ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest,
		MediaTypeDockerManifestList, MediaTypeDockerManifest,
	}
}

func isIndexType(mt string) bool {
	return mt == ocispec.MediaTypeImageIndex || mt == MediaTypeDockerManifestList
}

func isManifestType(mt string) bool {
	return mt == ocispec.MediaTypeImageManifest || mt == MediaTypeDockerManifest
}

func isConfigType(mt string) bool {
	return mt == ocispec.MediaTypeImageConfig || mt == MediaTypeDockerConfig
}

// BareType drops the parameters of a Content-Type.
func BareType(contentType string) string {
	mt, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	return mt
}

// ManifestType is the media type of a manifest: what the document says of
// itself, else the given one (of a header or a descriptor), else what its
// fields show. It is empty when nothing tells.
func ManifestType(given string, data []byte) string {
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		return given
	}
	switch {
	case doc.MediaType != "":
		return doc.MediaType
	case isIndexType(given) || isManifestType(given):
		return given
	case doc.Manifests != nil:
		return ocispec.MediaTypeImageIndex
	case doc.Config != nil:
		return ocispec.MediaTypeImageManifest
	}
	return given
}

// document is enough of a manifest or index to tell them apart.
type document struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Manifests     json.RawMessage `json:"manifests"`
	Layers        json.RawMessage `json:"layers"`
	Config        json.RawMessage `json:"config"`
	FSLayers      json.RawMessage `json:"fsLayers"`

	isIndex bool
	index   ocispec.Index
}

// parseDocument tells an index from a manifest. A document that could be read
// as either is refused: two readers of the same digest must not see two images.
func parseDocument(desc ocispec.Descriptor, data []byte) (*document, error) {
	doc := &document{}
	if err := json.Unmarshal(data, doc); err != nil {
		return nil, fserr.New(fserr.Corrupt, "decode", "manifest", err)
	}
	mt := ManifestType(desc.MediaType, data)
	doc.isIndex = isIndexType(mt)
	switch {
	case doc.FSLayers != nil || doc.SchemaVersion == 1:
		return nil, fserr.Newf(fserr.Unsupported, "decode", "manifest", "docker schema 1 is not supported")
	case !doc.isIndex && !isManifestType(mt):
		return nil, fserr.Newf(fserr.Unsupported, "decode", "manifest", "media type %q is not that of an image", clip(mt, 128))
	case doc.Manifests != nil && (doc.Layers != nil || doc.Config != nil):
		return nil, fserr.Newf(fserr.Corrupt, "decode", "manifest", "both an index and a manifest")
	case doc.isIndex && doc.Config != nil, !doc.isIndex && doc.Manifests != nil:
		return nil, fserr.Newf(fserr.Corrupt, "decode", "manifest", "fields disagree with media type %q", mt)
	case isIndexType(desc.MediaType) != doc.isIndex && (isIndexType(desc.MediaType) || isManifestType(desc.MediaType)):
		return nil, fserr.Newf(fserr.Corrupt, "decode", "manifest", "media type %q, but announced as %q", mt, desc.MediaType)
	}
	if doc.isIndex {
		if err := json.Unmarshal(data, &doc.index); err != nil {
			return nil, fserr.New(fserr.Corrupt, "decode", "index", err)
		}
	}
	return doc, nil
}
