package daemon

import (
	"context"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/image"
	digest "github.com/opencontainers/go-digest"
)

// PushIndex implements control.Service.
func (s *service) PushIndex(ctx context.Context, ref string) (control.PublishedIndex, error) {
	return publishedIndex(s.catalog.Publish(ctx, ref))
}

// PullIndex implements control.Service.
func (s *service) PullIndex(ctx context.Context, r control.IndexRequest) (control.PublishedIndex, error) {
	return publishedIndex(s.catalog.PullIndex(ctx, r.Ref, r.Digest))
}

func publishedIndex(p *image.Published, err error) (control.PublishedIndex, error) {
	if err != nil {
		return control.PublishedIndex{}, err
	}
	out := control.PublishedIndex{Ref: p.Ref, Manifest: p.Manifest, Digest: p.Digest, Size: p.Size}
	for _, l := range p.Layers {
		out.Layers = append(out.Layers, control.PublishedIndexLayer(l))
	}
	return out, nil
}

// Indexes implements control.Service.
func (s *service) Indexes(ctx context.Context, name string) ([]control.Index, error) {
	list, err := s.catalog.Indexes(ctx, name)
	if err != nil {
		return nil, err
	}
	out := make([]control.Index, len(list))
	for i, x := range list {
		out[i] = control.Index(x)
	}
	return out, nil
}

// RemoveIndexes implements control.Service. Without a name nothing is removed: that
// would be all there are.
func (s *service) RemoveIndexes(ctx context.Context, name string) (control.RemovedIndexes, error) {
	if name == "" {
		return control.RemovedIndexes{}, fserr.Newf(fserr.Invalid, "remove", "indexes", "no image is named")
	}
	n, err := s.catalog.RemoveIndexes(ctx, name)
	return control.RemovedIndexes{Removed: n}, err
}

// trust says which indexes beside an image the configuration allows.
func trust(c config.Index) image.Trust {
	t := image.Trust{SOCI: c.SOCI, SOCIv1: c.SOCIv1, Referrers: c.Referrers}
	for _, pin := range c.Pins {
		t.Pins = append(t.Pins, digest.Digest(pin))
	}
	return t
}
