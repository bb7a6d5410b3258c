package daemon

import (
	"context"

	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
)

// Describe implements control.Service.
func (s *service) Describe(ctx context.Context, name string) (control.Image, error) {
	d, err := s.catalog.Describe(ctx, name)
	if err != nil {
		return control.Image{}, err
	}
	im := control.Image{Ref: d.Ref, Manifest: d.Manifest, Layers: make([]control.ImageLayer, len(d.Layers))}
	for i, l := range d.Layers {
		im.Layers[i] = control.ImageLayer(l)
	}
	return im, nil
}

// ReadBlob implements control.Service.
func (s *service) ReadBlob(ctx context.Context, r control.BlobRead) ([]byte, error) {
	if r.Size < 0 || r.Size > control.MaxBlobRead {
		return nil, fserr.Newf(fserr.Invalid, "read", "blob", "%d bytes", r.Size)
	}
	p := make([]byte, r.Size)
	n, err := s.catalog.ReadBlob(ctx, r.Manifest, r.Layer, p, r.Offset)
	return p[:n], err
}
