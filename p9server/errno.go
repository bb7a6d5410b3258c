package p9server

import (
	"syscall"

	"github.com/nineply/nineply/internal/fserr"
)

// errnoDeferred is returned by a handler whose reply comes later. It is never
// sent.
const errnoDeferred = ^syscall.Errno(0)

// errnoOf gives the errno that answers err. It does what [fserr.Errno] does,
// without allocating for the errors that indexes return unwrapped.
func errnoOf(err error) syscall.Errno {
	if e, ok := err.(*fserr.Error); ok {
		return e.Kind.Errno()
	}
	return fserr.Errno(err)
}
