package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
)

// Bounds on what a resolution reads.
const (
	// MaxManifestBytes is the size of manifest that registries have to accept,
	// by the OCI distribution specification.
	MaxManifestBytes = 4 << 20
	// MaxConfigBytes bounds an image config.
	MaxConfigBytes = 8 << 20
	// MaxIndexDepth is how many indexes may be nested.
	MaxIndexDepth = 3
	// MaxLayers bounds the layers of one manifest.
	MaxLayers = 1024
	// maxCandidates bounds how many manifests of an index are fetched to find
	// the one for a platform.
	maxCandidates = 16
)

// Objects reads the named and the content-addressed objects of one repository.
// It is what [ResolveImage] needs of a source.
type Objects interface {
	// Top is the manifest or index that the reference names, verified where
	// the reference has a digest. The descriptor's digest is that of the bytes.
	Top(ctx context.Context) (ocispec.Descriptor, []byte, error)
	// Manifest is the manifest or index with desc's digest and size, verified.
	Manifest(ctx context.Context, desc ocispec.Descriptor) ([]byte, error)
	// Config is the blob with desc's digest and size, verified.
	Config(ctx context.Context, desc ocispec.Descriptor) ([]byte, error)
}

// ResolveImage walks from the reference to the config of one platform. object
// names the reference in errors and becomes [Image.Ref].
func ResolveImage(ctx context.Context, object string, o Objects, platform ocispec.Platform) (*Image, error) {
	return ResolveImageEarly(ctx, object, o, platform, nil)
}

// ResolveImageEarly is [ResolveImage] for an [EarlyResolver].
func ResolveImageEarly(ctx context.Context, object string, o Objects, platform ocispec.Platform, early func(*Image)) (*Image, error) {
	platform = complete(platform)
	r := &resolution{object: object, objects: o, want: platform, match: platforms.Only(platform), early: early}
	top, data, err := o.Top(ctx)
	if err != nil {
		return nil, err
	}
	img, err := r.resolve(ctx, top, data, 0)
	if err != nil {
		return nil, err
	}
	if img == nil {
		return nil, fserr.Newf(fserr.NotExist, "resolve", object, "no manifest for platform %s", platforms.Format(platform))
	}
	img.Ref, img.Top = object, top
	return img, nil
}

// complete puts what this program runs on in place of what a platform leaves
// open.
func complete(p ocispec.Platform) ocispec.Platform {
	def := platforms.DefaultSpec()
	if p.OS == "" {
		p.OS = def.OS
	}
	if p.Architecture == "" {
		p.Architecture, p.Variant = def.Architecture, def.Variant
	}
	return platforms.Normalize(p)
}

type resolution struct {
	object  string
	objects Objects
	want    ocispec.Platform
	match   platforms.MatchComparer
	early   func(*Image) // nil: nobody wants to know
	fetched int          // manifests read below the top
}

func (r *resolution) fail(kind fserr.Kind, d digest.Digest, format string, args ...any) error {
	return fserr.Newf(kind, "resolve", r.object+" manifest "+d.String(), format, args...)
}

// resolve turns one manifest or index into an image; nil when it holds none for
// the platform.
func (r *resolution) resolve(ctx context.Context, desc ocispec.Descriptor, data []byte, depth int) (*Image, error) {
	doc, err := parseDocument(desc, data)
	if err != nil {
		return nil, r.fail(fserr.KindOf(err), desc.Digest, "%w", err)
	}
	if !doc.isIndex {
		return r.image(ctx, desc, data, depth > 0 && desc.Platform == nil)
	}
	if depth >= MaxIndexDepth {
		return nil, r.fail(fserr.TooLarge, desc.Digest, "indexes nested more than %d deep", MaxIndexDepth)
	}
	for _, c := range r.candidates(doc.index.Manifests) {
		if err := ctx.Err(); err != nil {
			return nil, r.fail(fserr.KindOf(err), desc.Digest, "%w", err)
		}
		if r.fetched++; r.fetched > maxCandidates {
			return nil, r.fail(fserr.TooLarge, desc.Digest, "more than %d manifests to look at", maxCandidates)
		}
		if err := checkDescriptor(c, MaxManifestBytes); err != nil {
			return nil, r.fail(fserr.KindOf(err), desc.Digest, "entry: %w", err)
		}
		child, err := r.objects.Manifest(ctx, c)
		if err != nil {
			return nil, err
		}
		img, err := r.resolve(ctx, c, child, depth+1)
		if c.Platform == nil && fserr.Is(err, fserr.Unsupported) {
			continue // something beside the images, such as an index of their layers
		}
		if err != nil || img != nil {
			return img, err
		}
	}
	return nil, nil
}

// candidates are the entries that can serve the platform, best first. Entries
// without a platform come last: only their content tells.
func (r *resolution) candidates(entries []ocispec.Descriptor) []ocispec.Descriptor {
	var fit, unknown []ocispec.Descriptor
	for _, e := range entries {
		switch {
		case !isIndexType(e.MediaType) && !isManifestType(e.MediaType):
		case e.Platform == nil || (e.Platform.OS == "" && e.Platform.Architecture == ""):
			e.Platform = nil
			unknown = append(unknown, e)
		default:
			p := platforms.Normalize(*e.Platform)
			if r.match.Match(p) {
				e.Platform = &p
				fit = append(fit, e)
			}
		}
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		switch {
		case r.match.Less(*a.Platform, *b.Platform):
			return -1
		case r.match.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	return append(fit, unknown...)
}

// image reads what belongs to a platform manifest. With byConfig the config
// decides whether it is for the platform.
func (r *resolution) image(ctx context.Context, desc ocispec.Descriptor, data []byte, byConfig bool) (*Image, error) {
	img := &Image{Digest: desc.Digest, Descriptor: desc, ManifestBytes: data}
	if err := json.Unmarshal(data, &img.Manifest); err != nil {
		return nil, r.fail(fserr.Corrupt, desc.Digest, "decode: %w", err)
	}
	if err := checkManifest(&img.Manifest); err != nil {
		return nil, r.fail(fserr.KindOf(err), desc.Digest, "%w", err)
	}
	if r.early != nil && !byConfig {
		known := *img
		known.Ref = r.object
		r.early(&known)
	}
	config, err := r.objects.Config(ctx, img.Manifest.Config)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(config, &img.Config); err != nil {
		return nil, r.fail(fserr.Corrupt, desc.Digest, "decode config %s: %w", img.Manifest.Config.Digest, err)
	}
	if byConfig && !r.match.Match(platforms.Normalize(img.Config.Platform)) {
		return nil, nil
	}
	if n := len(img.Config.RootFS.DiffIDs); n != len(img.Manifest.Layers) {
		return nil, r.fail(fserr.Corrupt, desc.Digest, "%d layers, but %d diff IDs in the config", len(img.Manifest.Layers), n)
	}
	for _, d := range img.Config.RootFS.DiffIDs {
		if err := CheckDigest(d); err != nil {
			return nil, r.fail(fserr.Corrupt, desc.Digest, "diff ID: %w", err)
		}
	}
	img.ConfigBytes = config
	return img, nil
}

// checkManifest bounds a manifest's parts before any of them is fetched.
func checkManifest(m *ocispec.Manifest) error {
	if !isConfigType(m.Config.MediaType) {
		return fserr.Newf(fserr.Unsupported, "", "config", "media type %q is not that of a container image", clip(m.Config.MediaType, 128))
	}
	if err := checkDescriptor(m.Config, MaxConfigBytes); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if len(m.Layers) > MaxLayers {
		return fserr.Newf(fserr.TooLarge, "", "layers", "%d layers, at most %d are read", len(m.Layers), MaxLayers)
	}
	for i, l := range m.Layers {
		if err := checkDescriptor(l, -1); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return nil
}

func checkDescriptor(d ocispec.Descriptor, limit int64) error {
	if err := CheckDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 {
		return fserr.Newf(fserr.Invalid, "", d.Digest.String(), "negative size")
	}
	if limit >= 0 && d.Size > limit {
		return fserr.Newf(fserr.TooLarge, "", d.Digest.String(), "%d bytes, at most %d are read", d.Size, limit)
	}
	return nil
}

// ReadObject reads a whole object with the digest and size of desc from rc,
// which it closes. At most limit bytes are read.
func ReadObject(rc io.ReadCloser, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	data, err := readObject(rc, desc, limit)
	if cerr := rc.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close %s: %w", desc.Digest, cerr)
	}
	return data, err
}

func readObject(rc io.ReadCloser, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := checkDescriptor(desc, limit); err != nil {
		return nil, err
	}
	data := make([]byte, desc.Size)
	v := Verified(rc, desc.Digest, desc.Size)
	if _, err := io.ReadFull(v, data); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fserr.Newf(fserr.Corrupt, "read", desc.Digest.String(), "shorter than %d bytes", desc.Size)
		}
		return nil, err
	}
	var one [1]byte
	if _, err := v.Read(one[:]); !errors.Is(err, io.EOF) {
		if err == nil {
			err = fserr.Newf(fserr.Corrupt, "read", desc.Digest.String(), "longer than %d bytes", desc.Size)
		}
		return nil, err
	}
	return data, nil
}
