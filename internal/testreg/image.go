package testreg

import (
	"encoding/json"

	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's media types.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Layer is a layer to add.
type Layer struct {
	// Data is the blob.
	Data []byte
	// DiffID is the digest of the uncompressed tar; by default that of Data.
	DiffID digest.Digest
	// MediaType is OCI's or docker's tar+gzip by default.
	MediaType   string
	Annotations map[string]string
}

// Image is an image to add.
type Image struct {
	Layers []Layer
	// Platform is linux/amd64 by default.
	Platform ocispec.Platform
	// Docker uses docker's media types.
	Docker bool
	// Config is the run configuration.
	Config      ocispec.ImageConfig
	Annotations map[string]string
}

// Added tells what an image became.
type Added struct {
	// Descriptor is that of the manifest, platform included.
	Descriptor ocispec.Descriptor
	Manifest   ocispec.Manifest
	Config     ocispec.Descriptor
	Layers     []ocispec.Descriptor
	// ManifestBytes and ConfigBytes are what is served.
	ManifestBytes, ConfigBytes []byte
}

// AddBlob makes a blob available in every repository.
func (r *Registry) AddBlob(data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[d] = &blob{data: data}
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(data))}
}

// AddBlobTo makes a blob available in one repository.
func (r *Registry) AddBlobTo(repo string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.link(repo, d, data)
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(data))}
}

// RemoveBlob makes a blob unavailable everywhere.
func (r *Registry) RemoveBlob(d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.blobs, d)
}

// link adds a blob to a repository; the caller holds mu.
func (r *Registry) link(repo string, d digest.Digest, data []byte) {
	b := r.blobs[d]
	if b == nil {
		b = &blob{data: data, repos: map[string]bool{}}
		r.blobs[d] = b
	}
	if b.repos != nil {
		b.repos[repo] = true
	}
}

// AddManifest makes a manifest or index available by digest, and by tag if tag
// is not empty.
func (r *Registry) AddManifest(repo, tag, mediaType string, data []byte) ocispec.Descriptor {
	m := manifest{mediaType: mediaType, data: data, digest: digest.FromBytes(data)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifests[manifestKey(repo, m.digest.String())] = m
	if tag != "" {
		r.manifests[manifestKey(repo, tag)] = m
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: m.digest, Size: int64(len(data))}
}

// AddImage builds an image of the layers and makes it available, by digest only
// if tag is empty.
func (r *Registry) AddImage(repo, tag string, img Image) Added {
	r.tb.Helper()
	if img.Platform.OS == "" {
		img.Platform = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	}
	manifestType, configType, layerType := ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip
	if img.Docker {
		manifestType, configType, layerType = dockerManifest, dockerConfig, dockerLayer
	}
	config := ocispec.Image{Platform: img.Platform, Config: img.Config, RootFS: ocispec.RootFS{Type: "layers"}}
	var out Added
	for _, l := range img.Layers {
		desc := r.AddBlob(l.Data)
		desc.MediaType, desc.Annotations = layerType, l.Annotations
		if l.MediaType != "" {
			desc.MediaType = l.MediaType
		}
		if l.DiffID == "" {
			l.DiffID = desc.Digest
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
		out.Layers = append(out.Layers, desc)
	}
	out.ConfigBytes = r.encode(config)
	out.Config = r.AddBlob(out.ConfigBytes)
	out.Config.MediaType = configType
	out.Manifest = ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: manifestType,
		Config: out.Config, Layers: out.Layers, Annotations: img.Annotations,
	}
	if out.Layers == nil {
		out.Manifest.Layers = []ocispec.Descriptor{}
	}
	out.ManifestBytes = r.encode(out.Manifest)
	out.Descriptor = r.AddManifest(repo, tag, manifestType, out.ManifestBytes)
	platform := img.Platform
	out.Descriptor.Platform = &platform
	return out
}

// AddIndex makes an index of manifests available.
func (r *Registry) AddIndex(repo, tag string, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	r.tb.Helper()
	mediaType := ocispec.MediaTypeImageIndex
	if len(manifests) > 0 && manifests[0].MediaType == dockerManifest {
		mediaType = dockerList
	}
	data := r.encode(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType, Manifests: manifests})
	return r.AddManifest(repo, tag, mediaType, data)
}

func (r *Registry) encode(v any) []byte {
	r.tb.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		r.tb.Fatalf("testreg: encode: %v", err)
	}
	return data
}
