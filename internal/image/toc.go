package image

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// external fetches the TOC of a layer that has none inside, from the image that
// by convention lies beside the layer's: the same name and tag with a suffix,
// and in its manifest one layer for each TOC. What is found is believed only as
// far as the TOC digest in the image's own manifest goes.
func (t *tocRequest) external(ctx context.Context) ([]byte, error) {
	if t.claim.TOC.IsZero() {
		return nil, fmt.Errorf("%w, and the manifest has no digest of it", estargz.ErrExternalTOC)
	}
	ref, ok := tocImageRef(t.ref)
	if !ok {
		return nil, fmt.Errorf("%w, and %s has no tag to find it by", estargz.ErrExternalTOC, t.ref)
	}
	packed, err := t.fromImage(ctx, ref)
	if err == nil {
		return packed, nil
	}
	err = fmt.Errorf("TOC image %s: %w", ref, err)
	switch fserr.KindOf(err) {
	case fserr.Unavailable, fserr.Canceled, fserr.Closed:
		return nil, err // to be tried again
	}
	return nil, fserr.New(fserr.Unsupported, "", "", fmt.Errorf("%w: %w", estargz.ErrExternalTOC, err))
}

// tocImageRef is the reference of the TOC image of an image, which has one only
// by its tag.
func tocImageRef(ref string) (string, bool) {
	tag, err := source.TagOf(ref)
	if err != nil || tag == "" {
		return "", false
	}
	toc, err := source.WithTag(ref, tag+estargz.ExternalTOCSuffix)
	return toc, err == nil
}

// fromImage reads the layer of a TOC image that is annotated with this layer's
// digest.
func (t *tocRequest) fromImage(ctx context.Context, ref string) ([]byte, error) {
	fetcher, ok := t.src.(source.Fetcher)
	if !ok {
		return nil, fserr.Newf(fserr.Unsupported, "read", ref, "the source has no manifests")
	}
	_, data, err := fetcher.FetchManifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fserr.New(fserr.Corrupt, "decode", "manifest", err)
	}
	for _, desc := range m.Layers {
		if desc.Annotations[estargz.AnnotationLayerDigest] != t.digest.String() {
			continue
		}
		blob, err := t.src.Blob(ctx, ref, desc)
		if err != nil {
			return nil, err
		}
		rc, err := blob.Stream(ctx, 0)
		if err != nil {
			return nil, err
		}
		packed, err := source.ReadObject(rc, desc, estargz.DefaultLimits().TOCCompressed)
		if err == nil {
			t.fetched(desc.Size)
		}
		return packed, err
	}
	return nil, fserr.Newf(fserr.NotExist, "find", t.digest.String(), "no layer of it belongs to this one")
}
