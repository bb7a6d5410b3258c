package layerstore

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// askAgain is how long to wait before a daemon that is away is asked again.
const askAgain = 200 * time.Millisecond

// ask asks the daemon, again and again for a while if it is away: it may be being
// restarted. What it answers is final.
func (s *Store) ask(ctx context.Context, fn func() error) error {
	deadline := time.Now().Add(s.o.Patience)
	for {
		err := fn()
		if err == nil || !away(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(askAgain):
		}
	}
}

// away tells that no answer came because nobody was there to give it.
func away(err error) bool {
	for _, gone := range []error{unix.ECONNREFUSED, unix.ENOENT, unix.ECONNRESET, unix.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// keyed are locks by name.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*keyedLock
}

type keyedLock struct {
	sync.Mutex

	users int // who has it or waits for it
}

// lock takes the lock called name, and gives what releases it.
func (k *keyed) lock(name string) (unlock func()) {
	k.mu.Lock()
	l := k.locks[name]
	if l == nil {
		if k.locks == nil {
			k.locks = make(map[string]*keyedLock)
		}
		l = &keyedLock{}
		k.locks[name] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, name)
		}
	}
}
