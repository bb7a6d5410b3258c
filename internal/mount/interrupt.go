package mount

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// chanContext is a context that ends when a channel closes. It is one word, so
// that making one for every request allocates nothing.
type chanContext struct{ done <-chan struct{} }

// Deadline: there is none.
func (c chanContext) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done is the channel.
func (c chanContext) Done() <-chan struct{} { return c.done }

// Value: there are none.
func (c chanContext) Value(any) any { return nil }

// Err is Canceled once the channel is closed.
func (c chanContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

// pollCaller is how often a task that was interrupted while it waits is looked
// at again.
const pollCaller = 50 * time.Millisecond

// patiently runs op for a task of the kernel. The kernel reports any signal to
// that task as an interrupt, once: a timer, a child that ended, the scheduler
// of a Go program. None of these may fail a read of a regular file, just as
// they do not on a local disk; but a task that is being killed must not wait
// for a server that is away. So when interrupt closes, the task is looked up:
// if it is dying the result is EINTR, if not op runs again, under a context
// that ends as soon as the task is.
func patiently(interrupt <-chan struct{}, tid uint32, gone func() bool, op func(context.Context) error) error {
	ctx := chanContext{interrupt}
	err := op(ctx)
	if err == nil || !isContext(err) || ctx.Err() == nil {
		return err
	}
	if gone() || dying(tid) {
		return unix.EINTR
	}
	watched, cancel := context.WithCancel(chanContext{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		watchCaller(watched, cancel, tid, gone)
	}()
	err = op(watched)
	if err != nil && isContext(err) {
		err = unix.EINTR
	}
	cancel()
	<-done
	return err
}

// watchCaller calls cancel once the task is dying or the mount is gone.
func watchCaller(ctx context.Context, cancel context.CancelFunc, tid uint32, gone func() bool) {
	tick := time.NewTicker(pollCaller)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if gone() || dying(tid) {
				cancel()
				return
			}
		}
	}
}

// signal sets as /proc reports them: bit n-1 stands for signal n.
type sigset uint64

func (s sigset) has(sig unix.Signal) bool { return s&(1<<(uint(sig)-1)) != 0 }

// harmless are the signals whose default action does not end a process.
const harmless sigset = 1<<(unix.SIGCHLD-1) | 1<<(unix.SIGURG-1) | 1<<(unix.SIGWINCH-1) | 1<<(unix.SIGCONT-1) |
	1<<(unix.SIGSTOP-1) | 1<<(unix.SIGTSTP-1) | 1<<(unix.SIGTTIN-1) | 1<<(unix.SIGTTOU-1)

// dying tells whether a pending signal is going to end the task. A task that
// cannot be seen (it lives in another PID namespace) counts as dying: its
// interrupts cannot be judged, and hanging would be worse than EINTR.
func dying(tid uint32) bool {
	if tid == 0 {
		return true
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return true
	}
	return fatalPending(status)
}

// fatalPending reads the signal sets of a /proc/PID/status file. The kernel
// turns a signal that will end a process into SIGKILL for each of its threads,
// but not one that dumps core, so those are told by their disposition.
func fatalPending(status []byte) bool {
	var pending, blocked, ignored, caught sigset
	sc := bufio.NewScanner(bytes.NewReader(status))
	for sc.Scan() {
		key, val, ok := bytes.Cut(sc.Bytes(), []byte(":"))
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(string(bytes.TrimSpace(val)), 16, 64)
		if err != nil {
			continue
		}
		switch string(key) {
		case "SigPnd", "ShdPnd":
			pending |= sigset(n)
		case "SigBlk":
			blocked = sigset(n)
		case "SigIgn":
			ignored = sigset(n)
		case "SigCgt":
			caught = sigset(n)
		}
	}
	if pending.has(unix.SIGKILL) {
		return true
	}
	fatal := pending &^ (blocked | ignored | caught | harmless)
	return fatal != 0
}
