package mount

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// freezer stops those who read from a device without losing a request: what was
// read is dealt with first, and what was not stays in the kernel.
type freezer struct {
	frozen atomic.Bool
	quiet  chan struct{} // nobody reads any more
	resume chan bool     // true: go on; false: another process does
	over   chan struct{} // closed when the mount has ended
}

func newFreezer() freezer {
	return freezer{quiet: make(chan struct{}), resume: make(chan bool), over: make(chan struct{})}
}

var (
	// errFrozen: whoever read from the device was asked to stop.
	errFrozen = errors.New("the mount is frozen")
	// errLeft: another process serves the mount now.
	errLeft = errors.New("the mount was left to another process")
)

// kickPause is between two tries to wake readers of a device.
const kickPause = time.Millisecond

// serve has n goroutines answer requests until the kernel has given up or the
// mount was left to another process (errLeft). Nobody reads from the device any
// more when it returns.
func (d *device) serve(n int, h handler) error {
	defer close(d.over)
	for {
		err := d.serveUntilFrozen(n, h)
		if !errors.Is(err, errFrozen) {
			return err
		}
		d.quiet <- struct{}{}
		if !<-d.resume {
			return errLeft
		}
	}
}

// freezeDevices stops all who read from the devices. The kernel's requests wait
// until a device is thawed here or elsewhere. What it reports is which of the
// devices are frozen; the mounts of the others have ended.
func freezeDevices(devices []*device) ([]bool, error) {
	if err := kickThreads(); err != nil { // so that it is known to work
		return nil, err
	}
	for _, d := range devices {
		d.frozen.Store(true)
	}
	frozen := make([]bool, len(devices))
	for i, d := range devices {
		frozen[i] = d.awaitQuiet(devices[i:])
	}
	return frozen, nil
}

// awaitQuiet waits until nobody reads from d. It wakes the readers of all the
// devices, so that the next one needs no waiting. What fails is tried again.
func (d *device) awaitQuiet(all []*device) bool {
	tick := time.NewTicker(kickPause)
	defer tick.Stop()
	for {
		for _, other := range all {
			// A wait that a signal interrupts is begun again by the kernel, and
			// ends there because nobody may wait any more.
			_ = unix.SetNonblock(other.fd, true)
		}
		_ = kickThreads()
		select {
		case <-d.quiet:
			return true
		case <-d.over:
			return false
		case <-tick.C:
		}
	}
}

// kickThreads sends every thread of the process the signal that the Go runtime
// uses to get a thread's attention, and that it puts up with at any time.
func kickThreads() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	pid := os.Getpid()
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			continue
		}
		if err := unix.Tgkill(pid, tid, unix.SIGURG); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("wake a thread: %w", err)
		}
	}
	return nil
}

// thaw goes on with a device that is frozen.
func (d *device) thaw() error {
	err := unix.SetNonblock(d.fd, false)
	d.frozen.Store(false)
	d.resume <- true
	return err
}

// leave ends the service of a frozen device, which another process has.
func (d *device) leave() { d.resume <- false }
