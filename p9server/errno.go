package p9server

import (
	"errors"
	"syscall"

	"github.com/nineply/nineply/internal/fserr"
)

// errDeferred is returned by a handler whose reply comes later. It is never
// sent.
const errDeferred = ^syscall.Errno(0)

// errnoOf gives the errno that answers err: that of [fserr.Errno], found without
// allocating. A request that is answered at all
// was not cancelled by its client; that something under it was is a failure
// like any other, not an interrupted call.
func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if e, ok := errors.AsType[*fserr.Error](err); ok {
		errno = e.Kind.Errno()
	} else {
		errno = fserr.Errno(err)
	}
	if errno == syscall.EINTR {
		return syscall.EIO
	}
	return errno
}
