package mount

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
)

// Mode says what the kernel is given to mount.
type Mode string

// The modes.
const (
	// Auto is FUSE, and V9FS where there is no FUSE: the kernel keeps far more
	// of what FUSE tells it (absent names, directories, link targets, open
	// files), reads ahead in parallel, and needs no relay in the path.
	Auto Mode = "auto"
	// FUSE serves the tree as a FUSE file system from this process.
	FUSE Mode = "fuse"
	// V9FS lets the kernel's own 9p client speak to the server.
	V9FS Mode = "v9fs"
)

// ParseMode understands the names of modes; "" is Auto.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case "":
		return Auto, nil
	case Auto, FUSE, V9FS:
		return m, nil
	}
	return "", fserr.Newf(fserr.Invalid, "parse mode", s, "want auto, fuse or v9fs")
}

// Options describe one mount.
type Options struct {
	// Session is the tree, where to get it and how to wait for it.
	Session SessionOptions
	// Mode defaults to Auto.
	Mode Mode
	// Source is shown as the mounted device; "" means the attach name.
	Source string
	// MaxFids bounds the fids held on the server, 16 at least. 0 means 4096.
	MaxFids int
	// ReadAhead is how far the kernel reads ahead, in bytes. 0 means 1 MiB,
	// below 0 leaves the kernel's default.
	ReadAhead int
	// NoSuid and NoDev make the kernel ignore set-user-ID bits, file
	// capabilities and device nodes.
	NoSuid, NoDev bool
	// HostLink is the socket of the daemon's host link (see internal/hostlink),
	// for mounts of a daemon on the same host; "": 9P serves them, through a relay
	// where they are V9FS. A daemon without one is no error.
	HostLink string
	// Refuser serves V9FS mounts over the host link while there is no daemon.
	Refuser Refuser
	// Indexes are shared by the mounts of a process. nil: this one shares nothing.
	Indexes *Indexes
	// Direct connects the kernel's 9p client (V9FS) to the server itself.
	// It is faster and does not survive the server.
	Direct bool
}

const (
	defaultMaxFids   = 4096
	minMaxFids       = 16
	defaultReadAhead = 1 << 20
	// fsType is the type shown for FUSE mounts.
	fsType = "fuse.nineply"
	// stuckUnmount is how long an unmount may wait for reads in flight that
	// a server which is away does not answer.
	stuckUnmount = 2 * time.Second
)

func (o *Options) normalise() {
	if o.Mode == "" {
		o.Mode = Auto
	}
	if o.MaxFids == 0 {
		o.MaxFids = defaultMaxFids
	}
	o.MaxFids = max(o.MaxFids, minMaxFids)
	if o.ReadAhead == 0 {
		o.ReadAhead = defaultReadAhead
	}
	if o.Source == "" {
		o.Source = o.Session.Aname
	}
	if o.Indexes == nil {
		o.Indexes = &Indexes{}
	}
	if o.Session.Logger == nil {
		o.Session.Logger = zap.NewNop()
	}
}

// IsOurs tells from its type and source, as /proc/mounts shows them, whether a
// mount was made by this package.
func IsOurs(kind, source string) bool {
	return kind == fsType || kind == "9p" && strings.HasPrefix(source, v9fsSource)
}

// State is what a mount is doing.
type State string

// The states.
const (
	// Connected: the server is there.
	Connected State = "connected"
	// Waiting: the server is away; readers wait for it.
	Waiting State = "waiting"
	// Detached: unmounted lazily, and still used by somebody.
	Detached State = "detached"
	// Ended: unmounted, or aborted by the kernel.
	Ended State = "ended"
)

// Status is what is known about a mount now. Counters start with the mount.
type Status struct {
	Aname  string    `json:"aname"`
	Target string    `json:"target"`
	Mode   Mode      `json:"mode"`
	State  State     `json:"state"`
	Since  time.Time `json:"since"`
	// Reconnects is how often the server came back, Retries how many
	// requests were asked again because of it.
	Reconnects uint64 `json:"reconnects"`
	Retries    uint64 `json:"retries"`
	// Requests and Bytes are 9P messages sent and file bytes received.
	Requests uint64 `json:"requests"`
	Bytes    uint64 `json:"bytes"`
	// Kernel counts the kernel's requests by kind (FUSE only).
	Kernel map[string]uint64 `json:"kernel,omitempty"`
	// Interrupted is how many requests ended because their task died.
	Interrupted uint64 `json:"interrupted"`
	// Stale is how often the server's tree was found changed.
	Stale uint64 `json:"stale"`
	Nodes int    `json:"nodes"`
	Fids  int    `json:"fids"`
}

// Mount is one mounted tree.
type Mount struct {
	target string
	opts   Options
	impl   backend
	since  time.Time

	mu       sync.Mutex // held during unmounting
	detached atomic.Bool
	done     chan struct{}
}

// backend is the half of a mount that depends on the mode.
type backend interface {
	mode() Mode
	// serve returns when the kernel's side has ended and all of this side
	// is released.
	serve()
	// giveUp fails the requests that wait for the server.
	giveUp()
	status(*Status)
}

// New attaches to the tree and mounts it on the directory target. It returns
// when the mount can be used. ctx bounds the set-up, not the mount.
//
// Errors: an errno of the server if it refused the attach name, kind
// Unavailable if it cannot be reached, Unsupported if the kernel lacks what
// the mode needs, Permission without the right to mount.
func New(ctx context.Context, target string, opts Options) (*Mount, error) {
	opts.normalise()
	target, err := filepath.Abs(target)
	if err != nil {
		return nil, fmt.Errorf("mount point %q: %w", target, err)
	}
	if opts.Mode == Auto {
		opts.Mode = FUSE
		if fuseUsable() != nil && V9FSUsable() == nil {
			opts.Mode = V9FS
		}
	}
	var impl backend
	switch opts.Mode {
	case FUSE:
		impl, err = newFuse(ctx, target, &opts)
	case V9FS:
		impl, err = newV9FSMount(ctx, target, &opts)
	default:
		_, err = ParseMode(string(opts.Mode))
	}
	if err != nil {
		return nil, fmt.Errorf("mount %q on %s: %w", opts.Session.Aname, target, err)
	}
	m := &Mount{target: target, opts: opts, impl: impl, since: time.Now(), done: make(chan struct{})}
	go func() {
		defer close(m.done)
		impl.serve()
	}()
	return m, nil
}

// newFuse makes a FUSE mount in the best way there is.
func newFuse(ctx context.Context, target string, opts *Options) (backend, error) {
	if opts.HostLink != "" {
		m, err := newHostMount(ctx, target, opts)
		if err == nil {
			return m, nil
		}
		if !errors.Is(err, errNoHostLink) {
			return nil, refusal(err)
		}
		opts.Session.Logger.Info("mounting without a host link", zap.String("target", target), zap.Error(err))
	}
	return newFuseMount(ctx, target, opts)
}

// Target is the absolute path of the mount point.
func (m *Mount) Target() string { return m.target }

// Done is closed when the mount has ended, by Unmount or otherwise, and
// everything it held is released.
func (m *Mount) Done() <-chan struct{} { return m.done }

// Unmount takes the mount away and waits until it has ended. A mount in use is
// an error of kind Busy, unless lazy is set: then it disappears from the tree
// of mounts at once, is served until its last user leaves, and Unmount does
// not wait for that.
func (m *Mount) Unmount(ctx context.Context, lazy bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.done:
		return nil
	default:
	}
	if !m.detached.Load() {
		if err := m.unmount(lazy); err != nil {
			return err
		}
		m.detached.Store(true)
	}
	if lazy {
		return nil
	}
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("unmount %s: %w", m.target, ctx.Err())
	}
}

func (m *Mount) unmount(lazy bool) error {
	result := make(chan error, 1)
	go func() { result <- Detach(m.target, lazy) }()
	stuck := time.NewTimer(stuckUnmount)
	defer stuck.Stop()
	select {
	case err := <-result:
		return err
	case <-m.done:
		return <-result
	case <-stuck.C:
	}
	// The kernel has found the mount unused and now waits for read-ahead
	// that nobody wants any more.
	m.impl.giveUp()
	return <-result
}

// Detach unmounts target whatever it is, at once or lazily. Not being a mount
// point is no error.
func Detach(target string, lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	err := unix.Unmount(target, flags)
	switch {
	case err == nil, errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EBUSY):
		return fserr.New(fserr.Busy, "unmount", target, errors.New("files on it are in use"))
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fserr.New(fserr.Permission, "unmount", target, err)
	}
	return fserr.New(fserr.Internal, "unmount", target, err)
}

// Status tells how the mount is doing.
func (m *Mount) Status() Status {
	st := Status{Aname: m.opts.Session.Aname, Target: m.target, Mode: m.impl.mode(), Since: m.since}
	m.impl.status(&st)
	select {
	case <-m.done:
		st.State = Ended
	default:
		if m.detached.Load() {
			st.State = Detached
		}
	}
	return st
}
