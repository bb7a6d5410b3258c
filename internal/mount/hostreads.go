package mount

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/hostlink"
)

// pendingRead is a read that the daemon was asked for, or is to be.
type pendingRead struct {
	hostlink.Read
	pid         uint32
	interrupted bool
}

// reads are those that the kernel waits for. Each is in the table from the moment
// it comes until the daemon acknowledges that it was answered; a daemon that
// comes back is asked for all of them again.
type reads struct {
	dev *device

	mu      sync.Mutex
	pending map[uint64]pendingRead
	link    *hostlink.Conn // nil: the daemon is away
	backlog []uint64       // reads the link had no room for
	kick    chan struct{}  // there is a backlog
	failing bool           // reads are not waited with
	watched bool           // a goroutine looks after interrupted ones
	wg      sync.WaitGroup

	requests, bytes, retries, killed atomic.Uint64
}

func newReads() *reads {
	return &reads{pending: make(map[uint64]pendingRead), kick: make(chan struct{}, 1)}
}

// start notes a read and asks the daemon for it, if it is there.
func (t *reads) start(r *fuseRequest, off int64, size uint32) (unix.Errno, bool) {
	read := hostlink.Read{Unique: r.unique, Node: r.node, Off: off, Size: size}
	t.mu.Lock()
	if t.failing {
		t.mu.Unlock()
		return unix.EIO, true
	}
	t.pending[r.unique] = pendingRead{Read: read, pid: r.pid}
	link := t.link
	t.mu.Unlock()
	t.requests.Add(1)
	if link == nil {
		return 0, false
	}
	var room [64]byte
	// A link that fails ends, and what is pending is sent over the next one.
	if sent, err := link.TrySend(hostlink.AppendRead(room[:0], read)); !sent && err == nil {
		t.mu.Lock()
		t.backlog = append(t.backlog, r.unique)
		t.mu.Unlock()
		t.nudge()
	}
	return 0, false
}

func (t *reads) nudge() {
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// answered takes back a read that the kernel has its answer to.
func (t *reads) answered(unique uint64) {
	t.mu.Lock()
	p, ok := t.pending[unique]
	delete(t.pending, unique)
	t.mu.Unlock()
	if ok {
		t.bytes.Add(uint64(p.Size))
	}
}

// attach uses a link, and asks over it for everything that is pending.
func (t *reads) attach(link *hostlink.Conn) {
	t.mu.Lock()
	t.link, t.failing = link, false
	t.backlog = t.backlog[:0]
	for unique := range t.pending {
		t.backlog = append(t.backlog, unique)
	}
	t.retries.Add(uint64(len(t.backlog)))
	t.mu.Unlock()
	t.nudge()
}

// detach stops using the link.
func (t *reads) detach() {
	t.mu.Lock()
	t.link, t.backlog = nil, t.backlog[:0]
	t.mu.Unlock()
}

// flush sends the backlog whenever there is one, until ctx ends or the link does.
func (t *reads) flush(ctx context.Context, link *hostlink.Conn) {
	var b []byte
	for {
		select {
		case <-t.kick:
		case <-ctx.Done():
			return
		}
		for {
			if b = t.batch(b[:0]); len(b) == 0 {
				break
			}
			if link.Send(b) != nil {
				return // whoever listens for acknowledgements has noticed, too
			}
		}
	}
}

// batch takes reads out of the backlog, as many as one message holds.
func (t *reads) batch(b []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(t.backlog), hostlink.MaxBatch)
	for _, unique := range t.backlog[:n] {
		if p, ok := t.pending[unique]; ok {
			b = hostlink.AppendRead(b, p.Read)
		}
	}
	t.backlog = t.backlog[n:]
	return b
}

// fail answers everything with EIO, now and until there is a link again.
func (t *reads) fail() {
	t.mu.Lock()
	t.failing = true
	var uniques []uint64
	for unique := range t.pending {
		uniques = append(uniques, unique)
	}
	clear(t.pending)
	t.mu.Unlock()
	for _, unique := range uniques {
		if t.dev.refuse(unique, unix.EIO) != nil {
			return // the mount has ended
		}
	}
}

// interrupted notes that the task which waits for a read got a signal. It reports
// false if there is no such read here, maybe not yet: the kernel asks again.
//
// The kernel reports any signal. None may fail a read of a regular file, just as
// on a local disk, but the task's death: so the task is watched.
func (t *reads) interrupted(unique uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.pending[unique]
	if !ok {
		return false
	}
	p.interrupted = true
	t.pending[unique] = p
	if !t.watched {
		t.watched = true
		t.wg.Add(1)
		go t.watch()
	}
	return true
}

// watch ends the reads of dying tasks, until none is left that was interrupted.
func (t *reads) watch() {
	defer t.wg.Done()
	tick := time.NewTicker(pollCaller)
	defer tick.Stop()
	for {
		waiting := t.interruptedReads()
		if len(waiting) == 0 {
			return
		}
		for _, p := range waiting {
			if dying(p.pid) {
				t.kill(p.Unique)
			}
		}
		<-tick.C
	}
}

// interruptedReads lists them. If there are none the watch is over.
func (t *reads) interruptedReads() []pendingRead {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []pendingRead
	for _, p := range t.pending {
		if p.interrupted {
			list = append(list, p)
		}
	}
	t.watched = len(list) > 0
	return list
}

// kill answers a read whose task is dying. That the daemon may answer too is no
// harm.
func (t *reads) kill(unique uint64) {
	t.mu.Lock()
	_, ok := t.pending[unique]
	delete(t.pending, unique)
	t.mu.Unlock()
	if ok && !errors.Is(t.dev.refuse(unique, unix.EINTR), errEnded) {
		t.killed.Add(1)
	}
}

// end forgets everything, and waits for the goroutines. The kernel has ended the
// mount, so that nobody waits.
func (t *reads) end() {
	t.mu.Lock()
	t.failing = true
	clear(t.pending)
	t.mu.Unlock()
	t.wg.Wait()
}
