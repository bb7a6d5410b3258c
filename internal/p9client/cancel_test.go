package p9client_test

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/nineply/nineply/internal/p9client"
	"github.com/nineply/nineply/internal/p9client/p9fake"
)

// waitFor spins, without assuming how long anything takes, until ok.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	ctx := testCtx(t)
	for !ok() {
		if ctx.Err() != nil {
			t.Fatal("what was waited for never came")
		}
		runtime.Gosched()
	}
}

// A request given up is flushed; its tag and the fid it may have made come
// back, and its late reply reaches nobody.
func TestCancelFlushes(t *testing.T) {
	s, cfg := serve(t, p9fake.Config{})
	c := connect(t, cfg, p9client.Options{MaxInflight: 2})
	root := attach(t, c)
	for _, typ := range []uint8{110, 24, 12, 116} {
		release := make(chan struct{})
		var held atomic.Int32
		s.SetHook(func(r p9fake.Request) (syscall.Errno, bool) {
			if r.Type == typ {
				held.Add(1)
				<-release
			}
			return 0, false
		})
		ctx, cancel := context.WithCancel(context.Background())
		errs := make(chan error, 1)
		go func() {
			f, _, err := root.WalkOpenReadAt(ctx, make([]byte, 4096), 0, "big")
			if typ == 24 {
				_, _, err = root.WalkStat(ctx, "a")
			}
			if f != nil {
				_ = f.Close()
			}
			errs <- err
		}()
		waitFor(t, func() bool { return held.Load() > 0 })
		cancel()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("type %d: %v", typ, err)
		}
		close(release)
		s.SetHook(nil)
		for range 10 { // more than there are tags
			if _, err := root.Stat(testCtx(t)); err != nil {
				t.Fatalf("after a flush of type %d: %v", typ, err)
			}
		}
	}
	waitFor(t, func() bool { return s.Fids.Load() == 1 })
	if c.Stats().Flushes == 0 {
		t.Error("nothing was flushed")
	}
}

// Callers that wait for a tag can leave, too.
func TestCancelWithoutTag(t *testing.T) {
	s, cfg := serve(t, p9fake.Config{})
	c := connect(t, cfg, p9client.Options{MaxInflight: 1})
	root := attach(t, c)
	release := make(chan struct{})
	s.SetHook(func(p9fake.Request) (syscall.Errno, bool) { <-release; return 0, false })
	first := make(chan error, 1)
	go func() {
		_, err := root.Stat(testCtx(t))
		first <- err
	}()
	waitFor(t, func() bool { return s.ByType[24].Load() == 1 })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := root.Stat(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := root.Walk(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

// The end of the connection reaches requests the server never answers.
func TestUnansweredEndsWithConnection(t *testing.T) {
	s, cfg := serve(t, p9fake.Config{})
	c := connect(t, cfg, p9client.Options{})
	root := attach(t, c)
	s.SetHook(func(p9fake.Request) (syscall.Errno, bool) { return 0, true })
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() {
			_, err := root.Stat(testCtx(t))
			errs <- err
		}()
	}
	waitFor(t, func() bool { return s.ByType[24].Load() == 4 })
	s.Stop()
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, p9client.ErrLost) {
			t.Errorf("got %v", err)
		}
	}
}
