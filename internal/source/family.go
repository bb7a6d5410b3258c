package source

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
)

// maxMembers bounds the manifests of one index that are read.
const maxMembers = 256

// annotationReference is how BuildKit says on an entry of an index which
// manifest of the same index that entry is about.
const (
	annotationReferenceType   = "vnd.docker.reference.type"
	AnnotationReferenceDigest = "vnd.docker.reference.digest"
)

// Reader is a source of images and of the documents beside them.
type Reader interface {
	Repository
	Fetcher
}

// Selection says which platforms of an image are meant. The zero value is the
// one that this program runs on.
type Selection struct {
	Platforms []ocispec.Platform
	All       bool
}

// Family is what one reference stands for.
type Family struct {
	// Ref is the normalised reference.
	Ref string
	// Top describes what the reference itself named.
	Top ocispec.Descriptor
	// Index is nil unless that is an index of which more than one image was
	// asked for.
	Index *ocispec.Index
	// Members are the selected images, and with Selection.All all there is in the
	// index, in its order; those of nested indexes are in the place of their index.
	Members []Member
}

// Member is one manifest of a family.
type Member struct {
	// Descriptor is the entry of the index.
	Descriptor ocispec.Descriptor
	// Image is nil for what no container can be started from: attestations,
	// signatures, indexes of layers. Its Ref is that of the family, so that what
	// belongs to its tag can be found.
	Image *Image
	// About is the manifest of the same index that an attestation is about; empty
	// for everything else.
	About digest.Digest
}

// ResolveFamily finds the images that a reference and a selection stand for.
func ResolveFamily(ctx context.Context, src Reader, ref string, sel Selection) (*Family, error) {
	if !sel.All && len(sel.Platforms) < 2 {
		return single(ctx, src, ref, sel)
	}
	top, data, err := src.FetchManifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	doc, err := parseDocument(top, data)
	if err != nil {
		return nil, fserr.New(fserr.KindOf(err), "resolve", ref, err)
	}
	if !doc.isIndex {
		if !sel.All {
			return nil, fserr.Newf(fserr.Invalid, "resolve", ref, "this is the image of one platform, not an index")
		}
		return single(ctx, src, ref, sel)
	}
	f := &family{Family: Family{Ref: familyRef(ref), Top: top, Index: &doc.index}, src: src, ref: ref}
	if sel.All {
		err = f.all(ctx, doc.index.Manifests, 1)
	} else {
		err = f.chosen(ctx, sel.Platforms)
	}
	if err != nil {
		return nil, err
	}
	return &f.Family, nil
}

// single is a family of one.
func single(ctx context.Context, src Reader, ref string, sel Selection) (*Family, error) {
	var platform ocispec.Platform
	if len(sel.Platforms) > 0 {
		platform = sel.Platforms[0]
	}
	img, err := src.Resolve(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	return &Family{Ref: img.Ref, Top: img.Top, Members: []Member{{Descriptor: img.Descriptor, Image: img}}}, nil
}

// familyRef is the full form of a reference to a registry.
func familyRef(ref string) string {
	if IsLayout(ref) || IsContainerd(ref) {
		return ref
	}
	if parsed, err := ParseReference(ref); err == nil {
		return parsed.String()
	}
	return ref
}

type family struct {
	Family
	src Reader
	ref string // as it was given
}

// chosen looks up one image for each platform.
func (f *family) chosen(ctx context.Context, want []ocispec.Platform) error {
	seen := map[digest.Digest]bool{}
	for _, p := range want {
		img, err := f.src.Resolve(ctx, f.ref, p)
		if err != nil {
			return err
		}
		if img.Top.Digest != f.Top.Digest {
			return fserr.Newf(fserr.Unavailable, "resolve", f.ref, "it changed while it was read")
		}
		if seen[img.Digest] {
			continue
		}
		seen[img.Digest] = true
		img.Ref = f.Ref
		f.Members = append(f.Members, Member{Descriptor: img.Descriptor, Image: img})
	}
	return nil
}

// all reads every entry.
func (f *family) all(ctx context.Context, entries []ocispec.Descriptor, depth int) error {
	for _, e := range entries {
		if err := checkDescriptor(e, MaxManifestBytes); err != nil {
			return fserr.New(fserr.KindOf(err), "resolve", f.ref, fmt.Errorf("entry of the index: %w", err))
		}
		if len(f.Members) >= maxMembers {
			return fserr.Newf(fserr.TooLarge, "resolve", f.ref, "more than %d manifests", maxMembers)
		}
		var err error
		switch {
		case isIndexType(e.MediaType):
			err = f.nested(ctx, e, depth)
		case isAside(e):
			f.Members = append(f.Members, Member{Descriptor: e, About: about(e)})
		default:
			err = f.image(ctx, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *family) nested(ctx context.Context, e ocispec.Descriptor, depth int) error {
	if depth >= MaxIndexDepth {
		return fserr.Newf(fserr.TooLarge, "resolve", f.ref, "indexes nested more than %d deep", MaxIndexDepth)
	}
	pinned, err := WithDigest(f.ref, e.Digest)
	if err != nil {
		return err
	}
	_, data, err := f.src.FetchManifest(ctx, pinned)
	if err != nil {
		return err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return fserr.New(fserr.Corrupt, "decode", pinned, err)
	}
	return f.all(ctx, index.Manifests, depth+1)
}

// image reads an entry that looks like an image.
func (f *family) image(ctx context.Context, e ocispec.Descriptor) error {
	pinned, err := WithDigest(f.ref, e.Digest)
	if err != nil {
		return err
	}
	img, err := f.src.Resolve(ctx, pinned, ocispec.Platform{})
	switch {
	case err == nil:
		img.Ref = f.Ref
		if e.Platform == nil {
			p := platforms.Normalize(img.Config.Platform)
			e.Platform = &p
		}
		img.Descriptor, img.Top = e, f.Top
	case !fserr.Is(err, fserr.Unsupported):
		return err
	}
	f.Members = append(f.Members, Member{Descriptor: e, Image: img})
	return nil
}

// isAside reports an entry that is no image by what the index says of it.
func isAside(e ocispec.Descriptor) bool {
	if !isManifestType(e.MediaType) || e.ArtifactType != "" || e.Annotations[annotationReferenceType] != "" {
		return true
	}
	return e.Platform != nil && e.Platform.OS == "unknown" && e.Platform.Architecture == "unknown"
}

func about(e ocispec.Descriptor) digest.Digest {
	if e.Annotations[annotationReferenceType] == "" {
		return ""
	}
	return digest.Digest(e.Annotations[AnnotationReferenceDigest])
}
