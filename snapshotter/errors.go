package snapshotter

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/nineply/nineply/internal/fserr"
)

// backendError translates a failure of the Backend for containerd. The cause is
// kept as text only: containerd decides by the error class, and a class that
// happens to be wrapped deep inside, AlreadyExists for one, would turn a failure
// into a success.
func backendError(ctx context.Context, op string, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil {
		return fmt.Errorf("%s: %s: %w", op, err.Error(), ctxErr)
	}
	return fmt.Errorf("%s: %s: %w", op, err.Error(), classOf(fserr.KindOf(err)))
}

func classOf(k fserr.Kind) error {
	switch k {
	case fserr.Corrupt, fserr.Permission:
		return errdefs.ErrFailedPrecondition
	case fserr.Unavailable, fserr.Unauthorized, fserr.NotExist, fserr.Closed, fserr.Busy:
		// NotExist too: a NotFound from Prepare makes containerd believe that the
		// parent snapshot is missing.
		return errdefs.ErrUnavailable
	case fserr.Invalid:
		return errdefs.ErrInvalidArgument
	case fserr.TooLarge, fserr.NoSpace:
		return errdefs.ErrResourceExhausted
	case fserr.Unsupported:
		return errdefs.ErrNotImplemented
	case fserr.Canceled:
		return errdefs.ErrAborted
	}
	return errdefs.ErrInternal
}

// invalid makes an InvalidArgument error.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), errdefs.ErrInvalidArgument)
}

// collect joins errors of steps that go on after a failure.
type collect struct{ errs []error }

func (c *collect) add(err error) {
	if err != nil {
		c.errs = append(c.errs, err)
	}
}

func (c *collect) err() error { return errors.Join(c.errs...) }
