package snapshotter

import (
	"context"
	"sync"
)

// keyedLocks is a lock per chain. Entries live only while somebody holds or
// waits for them.
type keyedLocks struct {
	mu sync.Mutex
	m  map[string]*keyedLock
}

type keyedLock struct {
	held  chan struct{} // capacity 1: a value inside means locked
	users int           // holders and waiters, under keyedLocks.mu
}

func (k *keyedLocks) enter(key string) *keyedLock {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.m == nil {
		k.m = make(map[string]*keyedLock)
	}
	e := k.m[key]
	if e == nil {
		e = &keyedLock{held: make(chan struct{}, 1)}
		k.m[key] = e
	}
	e.users++
	return e
}

func (k *keyedLocks) leave(key string, e *keyedLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e.users--; e.users == 0 {
		delete(k.m, key)
	}
}

// lock waits for the lock of key, or for ctx. The result unlocks.
func (k *keyedLocks) lock(ctx context.Context, key string) (func(), error) {
	e := k.enter(key)
	select {
	case e.held <- struct{}{}:
		return func() { <-e.held; k.leave(key, e) }, nil
	case <-ctx.Done():
		k.leave(key, e)
		return nil, ctx.Err()
	}
}

// tryLock takes the lock of key if it is free.
func (k *keyedLocks) tryLock(key string) (unlock func(), ok bool) {
	e := k.enter(key)
	select {
	case e.held <- struct{}{}:
		return func() { <-e.held; k.leave(key, e) }, true
	default:
		k.leave(key, e)
		return nil, false
	}
}
