package mount

import (
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// eagerFor bounds how long a reader looks out for the next request before it
	// sleeps: about what a task takes that opens file after file.
	eagerFor = 50 * time.Microsecond
	// eagerGap is the longest time between an answer and the next request that
	// are taken to belong together.
	eagerGap = 4 * eagerFor
)

// eager has a reader of a device look out for the next request for a moment,
// where one is expected: whoever got an answer to a lookup or to a question about
// attributes, and asked soon after the answer before it, will ask again. To be
// woken takes longer than to answer, twice as long on a virtual machine, whose idle
// processors have to be got back from the host.
//
// One reader of a device does so at a time, and none on a single processor, where
// it would only be in the way of the one that it waits for. Nothing of it is worth
// handing to another process.
type eager struct {
	epoch    time.Time
	several  bool         // there is more than one processor
	looking  atomic.Bool  // a reader looks out
	answered atomic.Int64 // when a request was dealt with last, ns from epoch
	expect   atomic.Bool  // another one comes soon
}

// start begins anew, before anybody reads from the device.
func (e *eager) start() {
	e.epoch, e.several = time.Now(), runtime.GOMAXPROCS(0) > 1
	e.answered.Store(0)
	e.expect.Store(false)
}

// since is how long ago a request was dealt with.
func (e *eager) since() time.Duration {
	return time.Since(e.epoch) - time.Duration(e.answered.Load())
}

// lookOut returns when there is a request, and soon in any case. Another reader may
// have it first.
func (d *device) lookOut() {
	e := &d.eager
	if !e.expect.Load() || !e.looking.CompareAndSwap(false, true) {
		return
	}
	defer e.looking.Store(false)
	fds := [1]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}
	for e.since() < eagerFor && !d.frozen.Load() {
		// An error is for the read that follows to find.
		if n, err := unix.Poll(fds[:], 0); n != 0 || err != nil {
			return
		}
	}
}

// came notes a request.
func (e *eager) came(op uint32) {
	e.expect.Store(e.several && (op == fuseLookup || op == fuseGetattr) && e.since() < eagerGap)
}

// done notes that a request was dealt with.
func (e *eager) done() { e.answered.Store(int64(time.Since(e.epoch))) }
