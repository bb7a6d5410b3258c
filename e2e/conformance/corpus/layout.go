package corpus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TOCTag is what the tag of a TOC image has behind the image's own.
const TOCTag = "-esgztoc"

// LayerDigest on a layer of a TOC image says whose TOC it is.
const LayerDigest = "containerd.io/snapshot/stargz/layer.digest"

// Layout is an OCI layout directory.
type Layout struct {
	Dir   string
	index ocispec.Index
}

// NewLayout starts a layout in dir, which need not exist.
func NewLayout(dir string) (*Layout, error) {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, err
	}
	l := &Layout{Dir: dir, index: ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}}
	return l, os.WriteFile(filepath.Join(dir, ocispec.ImageLayoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}

// OpenLayout reads a layout.
func OpenLayout(dir string) (*Layout, error) {
	l := &Layout{Dir: dir}
	text, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	return l, json.Unmarshal(text, &l.index)
}

// BlobPath is the file of a blob.
func (l *Layout) BlobPath(d digest.Digest) string {
	return filepath.Join(l.Dir, "blobs", d.Algorithm().String(), d.Encoded())
}

// Image reads manifest and config of a tag.
func (l *Layout) Image(tag string) (m ocispec.Manifest, config ocispec.Image, err error) {
	for _, d := range l.index.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] == tag {
			if err := l.readJSON(d.Digest, &m); err != nil {
				return m, config, err
			}
			return m, config, l.readJSON(m.Config.Digest, &config)
		}
	}
	return m, config, fmt.Errorf("%s has no %q", l.Dir, tag)
}

func (l *Layout) readJSON(d digest.Digest, into any) error {
	text, err := os.ReadFile(l.BlobPath(d))
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// addBlob stores what write writes.
func (l *Layout) addBlob(write func(io.Writer) error) (desc ocispec.Descriptor, err error) {
	f, err := os.CreateTemp(l.Dir, "blob")
	if err != nil {
		return desc, err
	}
	sum := digest.Canonical.Digester()
	err = write(io.MultiWriter(f, sum.Hash()))
	info, serr := f.Stat()
	if err := errors.Join(err, serr, f.Chmod(0o644), f.Close()); err != nil {
		return desc, errors.Join(err, os.Remove(f.Name()))
	}
	desc = ocispec.Descriptor{Digest: sum.Digest(), Size: info.Size()}
	return desc, os.Rename(f.Name(), l.BlobPath(desc.Digest))
}

func (l *Layout) addJSON(mediaType string, v any) (ocispec.Descriptor, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := l.addBlob(func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
	desc.MediaType = mediaType
	return desc, err
}

// addImage stores config and manifest under a tag.
func (l *Layout) addImage(tag string, m ocispec.Manifest, config ocispec.Image) error {
	var err error
	if m.Config, err = l.addJSON(ocispec.MediaTypeImageConfig, config); err != nil {
		return err
	}
	m.SchemaVersion, m.MediaType = 2, ocispec.MediaTypeImageManifest
	desc, err := l.addJSON(m.MediaType, m)
	if err != nil {
		return err
	}
	if config.OS != "" {
		desc.Platform = &config.Platform
	}
	desc.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	l.index.Manifests = append(l.index.Manifests, desc)
	return nil
}

// Close writes the index.
func (l *Layout) Close() error {
	text, err := json.MarshalIndent(l.index, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.Dir, ocispec.ImageIndexFile), text, 0o644)
}

// Convert writes an image of src (directory and tag, separated by a colon) again
// with each variant, to the layout dst: the layers with these numbers, 0 for the
// bottom one, or all.
func Convert(ctx context.Context, src string, dst *Layout, variants []Variant, layers ...int) (err error) {
	dir, tag, _ := strings.Cut(src, ":")
	from, err := OpenLayout(dir)
	if err != nil {
		return err
	}
	manifest, config, err := from.Image(tag)
	if err != nil {
		return err
	}
	var tarballs []*Tarball
	defer func() {
		for _, t := range tarballs {
			err = errors.Join(err, t.Close())
		}
	}()
	for i, layer := range manifest.Layers {
		if len(layers) > 0 && !slices.Contains(layers, i) {
			continue
		}
		t, err := unpack(from.BlobPath(layer.Digest), dst.Dir)
		if err != nil {
			return err
		}
		tarballs = append(tarballs, t)
		if want := config.RootFS.DiffIDs[i]; t.DiffID != want {
			return fmt.Errorf("layer %d unpacks to %s, not %s", i, t.DiffID, want)
		}
	}
	for _, v := range variants {
		if err := dst.add(ctx, v, tarballs, config); err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	return nil
}

// unpack decompresses a gzip layer to a file without a name.
func unpack(path, dir string) (*Tarball, error) {
	blob, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer blob.Close() //nolint:errcheck // only read
	zr, err := gzip.NewReader(blob)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, "tar")
	if err != nil {
		return nil, err
	}
	sum := digest.Canonical.Digester()
	size, err := io.Copy(io.MultiWriter(f, sum.Hash()), zr)
	if err := errors.Join(err, os.Remove(f.Name())); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Tarball{File: f, Size: size, DiffID: sum.Digest()}, nil
}

// add writes one variant of the image.
func (l *Layout) add(ctx context.Context, v Variant, tarballs []*Tarball, config ocispec.Image) error {
	var manifest, tocs ocispec.Manifest
	config.RootFS.DiffIDs, config.History = nil, nil
	for _, t := range tarballs {
		var made Made
		desc, err := l.addBlob(func(w io.Writer) (err error) {
			made, err = v.Make(ctx, t, w)
			return err
		})
		if err != nil {
			return err
		}
		desc.MediaType, desc.Annotations = made.MediaType, made.Annotations
		manifest.Layers = append(manifest.Layers, desc)
		if made.DiffID == "" {
			made.DiffID = t.DiffID
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, made.DiffID)
		if made.TOC == nil {
			continue
		}
		toc, err := l.addBlob(func(w io.Writer) error {
			_, err := w.Write(made.TOC)
			return err
		})
		if err != nil {
			return err
		}
		toc.MediaType = ocispec.MediaTypeImageLayerGzip
		toc.Annotations = map[string]string{LayerDigest: desc.Digest.String()}
		tocs.Layers = append(tocs.Layers, toc)
	}
	if err := l.addImage(v.Name, manifest, config); err != nil {
		return err
	}
	if len(tocs.Layers) == 0 {
		return nil
	}
	return l.addImage(v.Name+TOCTag, tocs, ocispec.Image{})
}

// Select gives the variants with the names, all if there are none.
func Select(names []string) ([]Variant, error) {
	all := Variants()
	if len(names) == 0 {
		return all, nil
	}
	var picked []Variant
	for _, name := range names {
		at := slices.IndexFunc(all, func(v Variant) bool { return v.Name == name })
		if at < 0 {
			return nil, fmt.Errorf("there is no variant %q", name)
		}
		picked = append(picked, all[at])
	}
	return picked, nil
}

// Tags are the tags of the layout, sorted.
func (l *Layout) Tags() []string {
	tags := map[string]bool{}
	for _, d := range l.index.Manifests {
		tags[d.Annotations[ocispec.AnnotationRefName]] = true
	}
	return slices.Sorted(maps.Keys(tags))
}
