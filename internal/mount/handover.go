package mount

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/hostlink"
	"github.com/nineply/nineply/internal/idmap"
)

// Handover is what another process needs to go on with a mount, beside the
// descriptors of the FUSE device and of the index. Open files are not in it: the
// kernel opens them by itself, and node numbers are those of the index.
type Handover struct {
	Target   string           `json:"target"`
	Since    time.Time        `json:"since"`
	Detached bool             `json:"detached,omitempty"`
	Flags    uint32           `json:"flags"` // agreed upon with the kernel
	ID       uint64           `json:"id"`    // of the mounted file system
	Welcome  hostlink.Welcome `json:"welcome"`
	Pending  []PendingRead    `json:"pending,omitempty"`
}

// PendingRead is a read that the kernel waits for.
type PendingRead struct {
	hostlink.Read
	PID         uint32 `json:"pid"`
	Interrupted bool   `json:"interrupted,omitempty"`
}

// MaxPending bounds the reads that are handed over with one mount.
const MaxPending = 1 << 16

// Frozen is a mount that this process has stopped to serve. The kernel's requests
// wait until it is thawed, or served by another process and left.
type Frozen struct {
	Handover
	// Device and Index stay this process's.
	Device, Index *os.File
	// Of is the mount.
	Of *Mount

	m *hostMount
}

// Freeze stops serving mounts; those that end meanwhile are not in the result.
// Kind Unsupported, and nothing is frozen, if one of them cannot be handed over:
// only FUSE mounts over a host link can.
func Freeze(mounts []*Mount) ([]*Frozen, error) {
	hosts := make([]*hostMount, len(mounts))
	devices := make([]*device, len(mounts))
	for i, m := range mounts {
		h, ok := m.impl.(*hostMount)
		if !ok {
			return nil, fserr.Newf(fserr.Unsupported, "hand over", m.target, "it is not a FUSE mount over a host link")
		}
		hosts[i], devices[i] = h, h.dev
	}
	stopped, err := freezeDevices(devices)
	if err != nil {
		return nil, err
	}
	var frozen []*Frozen
	for i, m := range mounts {
		if stopped[i] {
			frozen = append(frozen, hosts[i].freeze(m))
		}
	}
	return frozen, nil
}

func (m *hostMount) freeze(of *Mount) *Frozen {
	return &Frozen{
		Handover: Handover{
			Target: m.target, Since: of.since, Detached: of.detached.Load(), Flags: m.dev.flags, ID: m.id,
			Welcome: m.welcome, Pending: m.reads.list(),
		},
		Device: m.dev.file, Index: m.shared.file, Of: of, m: m,
	}
}

// list tells what is pending. What is answered from now on may be answered again,
// which the kernel does not mind.
func (t *reads) list() []PendingRead {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []PendingRead
	for _, p := range t.pending {
		list = append(list, PendingRead{Read: p.Read, PID: p.pid, Interrupted: p.interrupted})
	}
	return list
}

// Thaw goes on serving.
func (f *Frozen) Thaw() error { return f.m.dev.thaw() }

// Leave ends the mount in this process; the kernel's side stays as it is.
func (f *Frozen) Leave() { f.m.dev.leave() }

// Adopted is a mount that was taken over from another process and is not served
// yet.
type Adopted struct {
	m    *Mount
	host *hostMount
}

// Adopt takes a mount over. It owns the files from now on, and needs neither the
// daemon nor the kernel: whatever can fail fails here.
func Adopt(ctx context.Context, h *Handover, device, index *os.File, opts Options) (*Adopted, error) {
	opts.normalise()
	_, ids, err := idmap.Cut(opts.Session.Aname)
	if err == nil && len(h.Pending) > MaxPending {
		err = fserr.Newf(fserr.TooLarge, "take over", h.Target, "%d reads are pending", len(h.Pending))
	}
	if err != nil {
		return nil, errors.Join(err, device.Close(), index.Close())
	}
	host := &hostMount{ids: ids, log: opts.Session.Logger, reads: newReads(), welcome: h.Welcome, target: h.Target, id: h.ID}
	if host.shared, err = opts.Indexes.open(h.Welcome.Tree, index); err != nil {
		return nil, errors.Join(fserr.New(fserr.Corrupt, "take over", h.Target, err), device.Close())
	}
	m := &Mount{target: h.Target, opts: opts, impl: host, since: h.Since, done: make(chan struct{})}
	m.detached.Store(h.Detached)
	host.opts = &m.opts
	host.dev = newAdopted(device, h.Flags)
	host.reads.adopt(host.dev, h.Pending)
	host.makeFront()
	host.ctx, host.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return &Adopted{m: m, host: host}, nil
}

// newAdopted is a device that has been through INIT elsewhere.
func newAdopted(file *os.File, flags uint32) *device {
	return &device{file: file, fd: int(file.Fd()), flags: flags, freezer: newFreezer()}
}

// adopt takes over what is pending.
func (t *reads) adopt(dev *device, pending []PendingRead) {
	t.dev = dev
	for _, p := range pending {
		t.pending[p.Unique] = pendingRead{Read: p.Read, pid: p.PID, interrupted: p.Interrupted}
	}
}

// Drop gives the mount up before it was served; the kernel's side stays with the
// process it came from.
func (a *Adopted) Drop() error {
	a.host.cancel()
	return errors.Join(a.host.shared.release(), a.host.dev.file.Close())
}

// Serve begins to answer the kernel.
func (a *Adopted) Serve() *Mount {
	host := a.host
	if err := unix.SetNonblock(host.dev.fd, false); err != nil {
		host.log.Sugar().Errorw("device does not wait", "target", host.target, "error", err)
	}
	if len(host.reads.interruptedReads()) > 0 { // somebody has to watch their tasks
		host.reads.wg.Add(1)
		go host.reads.watch()
	}
	host.wg.Add(1)
	go host.comeBack()
	go func() {
		defer close(a.m.done)
		host.serve()
	}()
	return a.m
}

// comeBack makes the first link and asks for what is pending.
func (m *hostMount) comeBack() {
	link := m.reconnect()
	if link == nil {
		m.wg.Done()
		return
	}
	m.reads.attach(link)
	m.connected.Store(true)
	m.supervise(link)
}

// Check tells whether there can be such a read.
func (p *PendingRead) Check() error {
	if p.Off < 0 || p.Size == 0 || p.Size > maxHostRead {
		return fserr.Newf(fserr.Invalid, "check", "read", "%d bytes at %d", p.Size, p.Off)
	}
	return nil
}
