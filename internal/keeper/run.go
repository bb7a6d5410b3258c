package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/fserr"
)

// takeoverFlag is what a successor is started with.
const takeoverFlag = "--takeover"

// run is a keeper that serves, with what it has to pass on or clean up.
type run struct {
	k    *Keeper
	f    *serveFlags
	env  *Env
	log  *zap.Logger
	ln   *os.File // the control socket, whoever listens
	lock *os.File
	door *door
	next *child // being started

	served chan error
	stop   context.CancelFunc // ends the control API
	left   bool               // a successor has everything
}

// begin makes the keeper: from a predecessor if there is one and it is wanted.
func begin(ctx context.Context, f *serveFlags) (*Keeper, *net.UnixListener, *os.File, error) {
	if f.takeover {
		k, ln, lock, err := succeed(ctx, f)
		if !errors.Is(err, errNoPredecessor) {
			return k, ln, lock, err
		}
		f.opts.Logger.Info("no keeper to take over from", zap.Error(err))
	}
	ln, lock, err := listen(f.socket)
	if err != nil {
		return nil, nil, nil, err
	}
	k, err := New(ctx, f.opts)
	if err != nil {
		return nil, nil, nil, errors.Join(err, ln.Close(), os.Remove(f.socket), lock.Close())
	}
	return k, ln, lock, nil
}

// succeed takes over.
func succeed(ctx context.Context, f *serveFlags) (*Keeper, *net.UnixListener, *os.File, error) {
	k, err := newKeeper(ctx, f.opts)
	if err != nil {
		return nil, nil, nil, err
	}
	t, err := k.takeOver(ctx, f.socket)
	if err != nil {
		k.cancel()
		return nil, nil, nil, err
	}
	ln, ok := t.ln.(*net.UnixListener)
	if !ok {
		k.cancel()
		return nil, nil, nil, errors.Join(fmt.Errorf("control socket of type %T", t.ln), t.drop())
	}
	if err := t.commit(k); err != nil {
		k.cancel()
		return nil, nil, nil, err
	}
	if f.opts.StateFile != "" {
		if err := k.restore(k.ctx); err != nil {
			k.log.Error("records not read", zap.Error(err)) // the mounts that there are matter more
		}
	}
	return k, ln, t.lock, nil
}

// runServe is the keeper of a host. SIGTERM does not take mounts from under
// their users: the keeper stops taking new ones and ends with the last. With
// --umount-on-exit it unmounts, lazily what is in use. A second signal ends it
// at once; what it left is dead until a keeper with the same state file starts.
func runServe(ctx context.Context, args []string, env *Env) error {
	f, err := parseServe(args, env)
	if err != nil {
		return err
	}
	k, ln, lock, err := begin(ctx, f)
	if err != nil {
		return err
	}
	r := &run{k: k, f: f, env: env, log: f.opts.Logger, lock: lock, served: make(chan error, 1)}
	protect(r.log)
	doors, closeDoors := context.WithCancel(ctx)
	r.door, err = openDoor(doors, f.socket, r.log)
	if err == nil {
		r.ln, err = ln.File()
	}
	if err == nil {
		r.serve(ctx, ln)
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			r.log.Warn("service manager not notified", zap.Error(err))
		}
		r.log.Info("keeper ready", zap.String("socket", f.socket), zap.String("connect", f.opts.Connect))
		err = r.untilTold(ctx)
	}
	closeDoors()
	return errors.Join(err, r.end(ctx))
}

// serve answers the control API on ln.
func (r *run) serve(ctx context.Context, ln net.Listener) {
	serving, stop := context.WithCancel(ctx)
	r.stop = stop
	go func() { r.served <- r.k.Serve(serving, ln) }()
}

// end releases what is not the successor's.
func (r *run) end(ctx context.Context) error {
	var errs []error
	if r.stop != nil && !r.left {
		r.stop()
		errs = append(errs, <-r.served)
	}
	if r.door != nil {
		r.door.close()
	}
	end, stop := context.WithTimeout(ctx, closeWait)
	defer stop()
	if !r.left {
		_ = os.Remove(r.f.socket) // one that stays is replaced
		_ = os.Remove(r.f.socket + handoverSuffix)
	}
	errs = append(errs, r.k.Close(end))
	if r.ln != nil {
		errs = append(errs, r.ln.Close())
	}
	return errors.Join(append(errs, r.lock.Close())...)
}

// errServing is why a keeper ends whose control socket failed.
var errServing = errors.New("control socket failed")

// untilTold returns when the keeper shall end.
func (r *run) untilTold(ctx context.Context) error {
	var idle <-chan struct{}
	for !r.left {
		var childEnded <-chan error
		if r.next != nil {
			childEnded = r.next.ended
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-r.served:
			r.served <- nil // for end
			return fmt.Errorf("%w: %w", errServing, err)
		case <-idle:
			return nil
		case v := <-r.door.visitors:
			r.visit(ctx, v)
		case err := <-childEnded:
			r.log.Error("not upgraded", zap.Error(err))
			r.next.answer(handoverHead{Version: handoverVersion, Kind: fserr.KindOf(err).String(), Error: err.Error()})
			r.next = nil
		case sig := <-r.env.Signals:
			if idle != nil {
				r.log.Warn("told again to end, leaving at once")
				return nil
			}
			r.log.Info("told to end", zap.Stringer("signal", sig), zap.Int("mounts", len(r.k.List())))
			idle = r.k.Drain()
			if r.f.umountOnExit {
				if err := r.k.UnmountAll(ctx); err != nil {
					r.log.Error("not everything could be unmounted", zap.Error(err))
				}
			}
		}
	}
	return nil
}

// visit deals with a visitor.
func (r *run) visit(ctx context.Context, v visitor) {
	if v.upgrade {
		err := fserr.Newf(fserr.Busy, "upgrade", "", "an upgrade is under way")
		if r.next == nil {
			r.next, err = startSuccessor(ctx, r.env.Args, v.p)
		}
		if err != nil {
			r.log.Error("not upgraded", zap.Error(errors.Join(err, v.p.refuse(err), v.p.c.Close())))
		}
		return
	}
	err := r.handOver(ctx, v)
	if err != nil {
		r.log.Error("not handed over", zap.Error(err))
		return
	}
	r.log.Info("handed over", zap.Int("successor", v.pid))
	notifySuccessor(v.pid, r.log)
	if r.next != nil {
		r.next.answer(handoverHead{Version: handoverVersion, PID: v.pid})
	}
}

func (c *child) answer(head handoverHead) {
	// Who asked may have gone, and has nothing to do with the outcome.
	_ = errors.Join(c.asked.send(head), c.asked.c.Close())
}

// handOver stops the control API, whose clients wait, and passes everything on.
func (r *run) handOver(ctx context.Context, v visitor) error {
	defer func() { _ = v.p.c.Close() }() // all was said
	r.stop()
	if err := <-r.served; err != nil {
		r.log.Warn("control API", zap.Error(err))
	}
	err := r.k.handOver(v.p, r.ln, r.lock)
	if err == nil {
		r.left = true
		return nil
	}
	ln, lerr := net.FileListener(r.ln)
	if lerr != nil {
		r.served <- lerr
		return errors.Join(err, lerr)
	}
	r.serve(ctx, ln)
	return err
}
