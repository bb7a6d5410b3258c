package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/mount"
)

// candidates are the mounts to hand over, lazily unmounted ones with them. Kind
// Busy: some are being made.
func (k *Keeper) candidates() (ms []*mount.Mount, reqs map[*mount.Mount]MountRequest, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for target, e := range k.entries {
		select {
		case <-e.ready:
		default:
			return nil, nil, fserr.Newf(fserr.Busy, "hand over", target, "it is being mounted")
		}
	}
	reqs = make(map[*mount.Mount]MountRequest)
	for e := range k.live {
		if !e.ended() {
			ms = append(ms, e.m)
			reqs[e.m] = e.req
		}
	}
	return ms, reqs, nil
}

// handOver gives everything to the successor at the other end of p. files are the
// control socket and its lock. Nothing may be mounted or unmounted meanwhile. After
// an error the keeper serves all it served before.
func (k *Keeper) handOver(p packets, files ...*os.File) error {
	ms, reqs, err := k.candidates()
	var frozen []*mount.Frozen
	if err == nil {
		frozen, err = mount.Freeze(ms)
	}
	if err != nil {
		head := handoverHead{Version: handoverVersion, Kind: fserr.KindOf(err).String(), Error: err.Error()}
		return errors.Join(err, p.send(head))
	}
	err = p.send(handoverHead{Version: handoverVersion, Mounts: len(frozen)}, files...)
	for _, f := range frozen {
		if err == nil {
			err = p.sendMount(reqs[f.Of], f)
		}
	}
	if err == nil {
		err = p.awaitTaken()
	}
	if err != nil {
		for _, f := range frozen {
			err = errors.Join(err, f.Thaw())
		}
		return err
	}
	k.forgetAll()
	for _, f := range frozen {
		f.Leave()
		<-f.Of.Done()
	}
	return nil
}

// forgetAll empties the table without a change of the records.
func (k *Keeper) forgetAll() (left []*entry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.draining = true
	for target, e := range k.entries {
		delete(k.entries, target)
		left = append(left, e)
	}
	return left
}

// awaitTaken waits for the successor's last packet. One that has not come by the
// deadline cannot come any more: the successor learns that when it sends.
func (p packets) awaitTaken() error {
	var last handoverHello
	_, err := p.receive(&last, 0)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if err := errors.Join(p.c.CloseRead(), p.c.SetDeadline(time.Time{})); err != nil {
			return err
		}
		_, err = p.receive(&last, 0) // what was there already
	}
	if err == nil && !last.Taken {
		err = fserr.Newf(fserr.Corrupt, "handover", "", "the successor does not say that it has taken over")
	}
	return err
}

// takeover is what a successor got, before it has said so.
type takeover struct {
	p      packets
	ln     net.Listener
	lock   *os.File
	mounts []*mount.Adopted
	reqs   []MountRequest
}

// errNoPredecessor: there is no keeper to take over from.
var errNoPredecessor = errors.New("no keeper is running")

// takeOver asks the keeper at the control socket's path for everything.
func (k *Keeper) takeOver(ctx context.Context, path string) (*takeover, error) {
	p, err := dialPredecessor(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoPredecessor, err)
	}
	t := &takeover{p: p}
	if err := t.receive(ctx, k); err != nil {
		return nil, errors.Join(err, t.drop())
	}
	return t, nil
}

func (t *takeover) receive(ctx context.Context, k *Keeper) error {
	if err := t.p.send(handoverHello{Version: handoverVersion}); err != nil {
		return err
	}
	var head handoverHead
	files, err := t.p.receive(&head, 2)
	if err == nil {
		err = head.check()
	}
	if err == nil && len(files) != 2 {
		err = fserr.Newf(fserr.Corrupt, "handover", "", "the control socket is missing")
	}
	if err != nil {
		return errors.Join(err, closeAll(files))
	}
	t.lock = files[1]
	t.ln, err = net.FileListener(files[0])
	if err = errors.Join(err, files[0].Close()); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	for range head.Mounts {
		m, files, err := t.p.receiveMount()
		if err != nil {
			return err
		}
		a, err := mount.Adopt(ctx, &m.Mount, files[0], files[1], k.mountOptions(m.Request, 0))
		if err != nil {
			return err
		}
		t.mounts, t.reqs = append(t.mounts, a), append(t.reqs, m.Request)
	}
	return nil
}

// drop leaves everything to the keeper it came from.
func (t *takeover) drop() error {
	var errs []error
	for _, a := range t.mounts {
		errs = append(errs, a.Drop())
	}
	if t.ln != nil {
		errs = append(errs, t.ln.Close())
	}
	if t.lock != nil {
		errs = append(errs, t.lock.Close())
	}
	return errors.Join(append(errs, t.p.c.Close())...)
}

// commit tells the predecessor, and begins to serve.
func (t *takeover) commit(k *Keeper) error {
	if err := t.p.send(handoverHello{Taken: true}); err != nil {
		return errors.Join(err, t.drop())
	}
	for i, a := range t.mounts {
		m := a.Serve()
		e := &entry{req: t.reqs[i], ready: make(chan struct{}), since: m.Status().Since}
		if m.Status().State != mount.Detached {
			k.mu.Lock()
			k.entries[e.req.Target] = e
			k.mu.Unlock()
		}
		k.settle(e, m, nil)
	}
	return t.p.c.Close()
}
