package image

import (
	"context"
	"strconv"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// Description lists the layers of an image as its manifest and config claim them.
type Description struct {
	Ref      string // normalised
	Manifest string // digest
	Layers   []LayerDescription
}

// LayerDescription is one layer of an image, as it is claimed to be.
type LayerDescription struct {
	Digest    string // of the blob
	MediaType string
	Size      int64  // of the blob, bytes
	DiffID    string // as the config claims
	TOC       string // digest of the TOC that the manifest names; "": none
	// Uncompressed is the size of the layer's tar, bytes, if the manifest tells it.
	Uncompressed int64
}

// Describe lists the layers of the image that name stands for now, bottom first:
// a reference, or the digest of a manifest seen before.
func (c *Catalog) Describe(ctx context.Context, name string) (Description, error) {
	rec, err := c.resolve(ctx, name)
	if err != nil {
		return Description{}, err
	}
	d := Description{Ref: rec.Ref, Manifest: rec.Manifest, Layers: make([]LayerDescription, len(rec.Layers))}
	for i, desc := range rec.Layers {
		l := LayerDescription{Digest: desc.Digest.String(), MediaType: desc.MediaType, Size: desc.Size, DiffID: rec.DiffIDs[i]}
		if claim, reason := claimOf(desc); reason == "" && !claim.TOC.IsZero() {
			l.TOC = claim.TOC.String()
		}
		if n, err := strconv.ParseInt(desc.Annotations[estargz.AnnotationUncompressedSize], 10, 64); err == nil && n > 0 {
			l.Uncompressed = n
		}
		d.Layers[i] = l
	}
	return d, nil
}

// ReadBlob fills p with bytes of a layer's blob as it is at its source, from off.
// They are not verified: whoever asks knows the digest of the whole. n is less than
// len(p) at the end of the blob.
func (c *Catalog) ReadBlob(ctx context.Context, manifest, layer string, p []byte, off int64) (n int, err error) {
	rec, err := c.known(ctx, manifest)
	if err != nil {
		return 0, err
	}
	i := rec.indexOf(layer)
	if i < 0 {
		return 0, fserr.Newf(fserr.NotExist, "layer", layer, "not a layer of %s", manifest)
	}
	blob, err := c.source.Blob(ctx, rec.Ref, rec.Layers[i])
	if err != nil {
		return 0, err
	}
	if off < 0 || off >= blob.Size() {
		return 0, nil
	}
	p = p[:min(int64(len(p)), blob.Size()-off)]
	if err := blob.ReadRange(ctx, off, p); err != nil {
		return 0, err
	}
	return len(p), nil
}
