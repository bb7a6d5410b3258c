package keeper

import (
	"context"
	"errors"
	"time"

	"github.com/moby/sys/mountinfo"
	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/mount"
)

// restore takes up the mounts of an earlier keeper.
func (k *Keeper) restore(ctx context.Context) error {
	reqs, err := loadState(k.opts.StateFile)
	if err != nil {
		return err
	}
	for _, req := range reqs {
		if k.holds(req.Target) {
			continue // taken over
		}
		if err := clearDead(req.Target); err != nil {
			k.log.Warn("dead mount stays", zap.String("target", req.Target), zap.Error(err))
		}
		ctx, cancel := context.WithCancel(ctx)
		e := &entry{req: req, ready: make(chan struct{}), since: time.Now(), cancel: cancel}
		k.mu.Lock()
		k.entries[req.Target] = e
		k.mu.Unlock()
		k.wg.Add(1)
		go k.remake(ctx, e)
	}
	return nil
}

func (k *Keeper) holds(target string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.entries[target] != nil
}

// remake tries to mount until it works or is not wanted any more.
func (k *Keeper) remake(ctx context.Context, e *entry) {
	defer k.wg.Done()
	defer e.cancel()
	said := ""
	for {
		m, err := k.mount(ctx, e.req, restoreWait)
		if err == nil || ctx.Err() != nil {
			k.settle(e, m, err)
			return
		}
		if why := err.Error(); why != said {
			said = why
			k.log.Warn("mount not restored yet", zap.String("target", e.req.Target), zap.Error(err))
		}
		t := time.NewTimer(restorePause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			k.settle(e, nil, ctx.Err())
			return
		}
	}
}

// clearDead detaches the mounts of this program that are stacked on target.
// Whatever else is mounted there is left alone.
func clearDead(target string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(target))
	if err != nil {
		return err
	}
	for range mounts {
		kind, source, err := topMount(target)
		if err != nil || !mount.IsOurs(kind, source) {
			return err
		}
		if err := mount.Detach(target, true); err != nil {
			return err
		}
	}
	return nil
}

// topMount is the type and source of the mount that shows on target, "" for
// none.
func topMount(target string) (kind, source string, err error) {
	_, err = mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
		if info.Mountpoint == target {
			kind, source = info.FSType, info.Source // later lines are on top
		}
		return true, false
	})
	return kind, source, err
}

// Drain refuses new mounts from now on. The channel is closed when there is
// none left.
func (k *Keeper) Drain() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.draining = true
	k.noteIdleLocked()
	return k.idle
}

// UnmountAll takes all mounts away, lazily those in use, and forgets them.
func (k *Keeper) UnmountAll(ctx context.Context) error {
	var errs []error
	for _, st := range k.List() {
		err := k.Unmount(ctx, st.Target, false)
		if err != nil {
			err = k.Unmount(ctx, st.Target, true)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Close stops the background work, detaches what is still mounted and waits
// until it has ended, or ctx has. The records stay in the state file: a keeper
// started later makes the mounts again.
func (k *Keeper) Close(ctx context.Context) error {
	left := k.forgetAll() // so that watch does not change the record
	k.cancel()
	var errs []error
	for _, e := range left {
		<-e.ready
		if e.err == nil {
			errs = append(errs, e.m.Unmount(ctx, true))
		}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		k.wg.Wait()
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		errs = append(errs, ctx.Err())
	}
	return errors.Join(errs...)
}
