package demoimage

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image in an OCI layout directory.
type Image struct {
	Dir    string        // the layout
	Tag    string        // its name there
	Digest digest.Digest // of the manifest
	Layers []Layer       // bottom first
}

// Size is the sum of the sizes of the layer blobs in bytes.
func (im *Image) Size() int64 {
	var sum int64
	for i := range im.Layers {
		sum += im.Layers[i].Size
	}
	return sum
}

// epoch dates what has no date of its own.
func epoch() time.Time { return time.Date(2024, time.January, 1, 0, 0, 0, 0, time.UTC) }

// imageFile keeps the Image itself beside the layout.
const imageFile = "image.json"

// layout is an OCI layout directory being written.
type layout struct{ dir string }

func newLayout(dir string) (layout, error) {
	l := layout{dir}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return l, fmt.Errorf("image layout: %w", err)
	}
	return l, os.WriteFile(filepath.Join(dir, ocispec.ImageLayoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}

func (l layout) blobPath(d digest.Digest) string {
	return filepath.Join(l.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

// addLayer moves the layer's file to its place.
func (l layout) addLayer(layer *Layer) error {
	to := l.blobPath(layer.Digest)
	if err := os.Rename(layer.Path, to); err != nil {
		return fmt.Errorf("image layout: %w", err)
	}
	layer.Path = to
	return nil
}

func (l layout) addJSON(mediaType string, value any) (ocispec.Descriptor, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("image layout: %w", err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
	if err := os.WriteFile(l.blobPath(d.Digest), text, 0o644); err != nil {
		return d, fmt.Errorf("image layout: %w", err)
	}
	return d, nil
}

// finish writes config, manifest and index and returns the image.
func (l layout) finish(tag string, command []string, layers []Layer) (*Image, error) {
	created := epoch()
	config := ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config: ocispec.ImageConfig{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"},
			Cmd: command, WorkingDir: "/",
		},
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
	}
	for _, layer := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.DiffID)
		config.History = append(config.History, ocispec.History{Created: &created, CreatedBy: "nineply demo image"})
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayerGzip, Digest: layer.Digest, Size: layer.Size,
		})
	}
	var err error
	if manifest.Config, err = l.addJSON(ocispec.MediaTypeImageConfig, config); err != nil {
		return nil, err
	}
	described, err := l.addJSON(ocispec.MediaTypeImageManifest, manifest)
	if err != nil {
		return nil, err
	}
	described.Platform = &config.Platform
	described.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{described},
	}
	im := &Image{Dir: l.dir, Tag: tag, Digest: described.Digest, Layers: layers}
	for name, value := range map[string]any{ocispec.ImageIndexFile: index, imageFile: im} {
		text, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("image layout: %w", err)
		}
		if err := os.WriteFile(filepath.Join(l.dir, name), text, 0o644); err != nil {
			return nil, fmt.Errorf("image layout: %w", err)
		}
	}
	return im, nil
}

// open reads back the image that finish wrote, wherever it was moved since.
func open(dir string) (*Image, error) {
	text, err := os.ReadFile(filepath.Join(dir, imageFile))
	if err != nil {
		return nil, fmt.Errorf("image layout: %w", err)
	}
	var im Image
	if err := json.Unmarshal(text, &im); err != nil {
		return nil, fmt.Errorf("image layout %s: %w", dir, err)
	}
	im.Dir = dir
	for i := range im.Layers {
		im.Layers[i].Path = layout{dir}.blobPath(im.Layers[i].Digest)
	}
	return &im, nil
}
