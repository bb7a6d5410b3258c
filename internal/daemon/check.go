package daemon

import (
	"context"

	"github.com/nineply/nineply/internal/control"
)

// CheckImage implements control.Service.
func (s *service) CheckImage(ctx context.Context, r control.ImageCheck) error {
	return s.catalog.CheckImage(ctx, r.Ref, r.Digest)
}
