package p9server

import (
	"syscall"

	"github.com/nineply/nineply/internal/fserr"
)

// errnoDeferred is returned by a handler whose reply comes later. It is never
// sent.
const errnoDeferred = ^syscall.Errno(0)

// errnoOf gives the errno that answers err: that of [fserr.Errno], found without
// allocating for errors that are not wrapped. A request that is answered at all
// was not cancelled by its client; that something under it was is a failure
// like any other, not an interrupted call.
func errnoOf(err error) syscall.Errno {
	errno := syscall.EIO
	if e, ok := err.(*fserr.Error); ok {
		errno = e.Kind.Errno()
	} else {
		errno = fserr.Errno(err)
	}
	if errno == syscall.EINTR {
		return syscall.EIO
	}
	return errno
}
