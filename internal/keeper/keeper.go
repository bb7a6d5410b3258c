package keeper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/hostlink"
	"github.com/nineply/nineply/internal/mount"
	"github.com/nineply/nineply/internal/p9client"
)

// Options describe a keeper.
type Options struct {
	// Connect is the daemon's address (see [p9client.ParseAddr]).
	Connect string
	// StateFile records the mounts; "" records nothing.
	StateFile string
	// Mode is used where a request leaves it open.
	Mode mount.Mode
	// Patience is used where a request leaves it open. 0: for ever.
	Patience time.Duration
	// MaxMounts bounds the mounts held at once. 0 means 4096.
	MaxMounts int
	// MaxFids is mount.Options.MaxFids.
	MaxFids int
	// Version is reported by Health.
	Version string
	// Logger may be nil.
	Logger *zap.Logger
}

const (
	defaultMaxMounts = 4096
	// restoreWait is how long one try to restore a mount waits for a daemon
	// that cannot be reached; restorePause is between tries.
	restoreWait  = time.Minute
	restorePause = 2 * time.Second
)

// entry is a mount, or one that is being made or made again.
type entry struct {
	req    MountRequest
	ready  chan struct{} // closed when m or err is set
	m      *mount.Mount
	err    error
	since  time.Time
	cancel context.CancelFunc // ends a restoration
}

// Keeper holds mounts.
type Keeper struct {
	opts    Options
	dial    p9client.Dialer
	log     *zap.Logger
	started time.Time
	v9fs    error
	// hostLink is the daemon's, "" if it is not on this host.
	hostLink string
	indexes  mount.Indexes
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	stateMu sync.Mutex

	mu       sync.Mutex
	entries  map[string]*entry // by target
	live     map[*entry]bool   // all that are served, lazily unmounted ones too
	draining bool
	idle     chan struct{} // closed when draining and without mounts
}

// New makes a keeper and starts to restore what the state file lists. ctx is
// the life of the keeper's background work.
func New(ctx context.Context, opts Options) (*Keeper, error) {
	k, err := newKeeper(ctx, opts)
	if err != nil || opts.StateFile == "" {
		return k, err
	}
	if err := k.restore(k.ctx); err != nil {
		k.cancel()
		return nil, err
	}
	return k, nil
}

func newKeeper(ctx context.Context, opts Options) (*Keeper, error) {
	dial, err := p9client.ParseAddr(opts.Connect)
	if err != nil {
		return nil, err
	}
	if opts.MaxMounts <= 0 {
		opts.MaxMounts = defaultMaxMounts
	}
	k := &Keeper{
		opts: opts, dial: dial, log: opts.Logger, started: time.Now(), v9fs: mount.V9FSUsable(),
		entries: make(map[string]*entry), live: make(map[*entry]bool), idle: make(chan struct{}),
	}
	if k.log == nil {
		k.log = zap.NewNop()
	}
	if path, ok := strings.CutPrefix(opts.Connect, "unix:"); ok {
		k.hostLink = hostlink.SocketFor(path)
	}
	k.ctx, k.cancel = context.WithCancel(ctx)
	return k, nil
}

func (r *MountRequest) check() error {
	if r.Aname == "" || len(r.Aname) > 4096 {
		return fserr.Newf(fserr.Invalid, "check", "attach name", "it has %d bytes", len(r.Aname))
	}
	if !filepath.IsAbs(r.Target) || filepath.Clean(r.Target) == "/" {
		return fserr.Newf(fserr.Invalid, "check", "mount point", "%q is not an absolute path below /", r.Target)
	}
	r.Target = filepath.Clean(r.Target)
	mode, err := mount.ParseMode(string(r.Mode))
	r.Mode = mode
	return err
}

// Mount mounts the tree called req.Aname on req.Target. If that is mounted
// there already, nothing happens. Kinds: Invalid, Busy (something else is
// mounted there), TooLarge (too many mounts), Closed (draining), Unavailable
// (the daemon cannot be reached), and what the daemon answers.
func (k *Keeper) Mount(ctx context.Context, req MountRequest) (mount.Status, error) {
	if req.Mode == "" {
		req.Mode = k.opts.Mode
	}
	if err := req.check(); err != nil {
		return mount.Status{}, err
	}
	for {
		e, mine, err := k.claim(req)
		if err != nil {
			return mount.Status{}, err
		}
		if mine {
			k.fill(ctx, e)
		}
		select {
		case <-e.ready:
		case <-ctx.Done():
			return mount.Status{}, ctx.Err()
		}
		if e.err == nil {
			return e.m.Status(), nil
		}
		if mine || ctx.Err() != nil || !errors.Is(e.err, context.Canceled) {
			return mount.Status{}, e.err
		}
		// Whoever was mounting it gave up; it is our turn.
	}
}

// claim finds the entry for a request or makes it.
func (k *Keeper) claim(req MountRequest) (e *entry, mine bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.entries[req.Target]; e != nil && !e.ended() {
		if e.req.Aname != req.Aname {
			return nil, false, fserr.Newf(fserr.Busy, "mount on", req.Target, "%q is mounted there", e.req.Aname)
		}
		return e, false, nil
	}
	if k.draining {
		return nil, false, fserr.New(fserr.Closed, "mount on", req.Target, errors.New("the keeper is stopping"))
	}
	if len(k.entries) >= k.opts.MaxMounts {
		return nil, false, fserr.Newf(fserr.TooLarge, "mount on", req.Target, "there are %d mounts", len(k.entries))
	}
	e = &entry{req: req, ready: make(chan struct{}), since: time.Now()}
	k.entries[req.Target] = e
	return e, true, nil
}

// ended tells whether the mount is over and only waits to be forgotten.
func (e *entry) ended() bool {
	select {
	case <-e.ready:
	default:
		return false
	}
	if e.err != nil {
		return false // about to be removed by whoever made it
	}
	select {
	case <-e.m.Done():
		return true
	default:
		return false
	}
}

// fill makes the mount of an entry this caller claimed.
func (k *Keeper) fill(ctx context.Context, e *entry) {
	m, err := k.mount(ctx, e.req, 0)
	k.settle(e, m, err)
	if err == nil {
		if err := k.save(); err != nil {
			k.log.Error("mounts not recorded", zap.Error(err))
		}
	}
}

// makeTarget makes the mount point if it is not there. A dead mount on it is
// in the way and goes.
func makeTarget(target string) error {
	err := os.MkdirAll(target, 0o755)
	if errors.Is(err, syscall.ENOTCONN) {
		if err := clearDead(target); err != nil {
			return err
		}
		err = os.MkdirAll(target, 0o755)
	}
	return err
}

func (k *Keeper) mount(ctx context.Context, req MountRequest, wait time.Duration) (*mount.Mount, error) {
	if err := makeTarget(req.Target); err != nil {
		return nil, fserr.New(fserr.NotDir, "make", req.Target, err)
	}
	return mount.New(ctx, req.Target, k.mountOptions(req, wait))
}

// mountOptions are a request's options with what is the keeper's.
func (k *Keeper) mountOptions(req MountRequest, wait time.Duration) mount.Options {
	patience := time.Duration(req.Options.Patience)
	if patience == 0 {
		patience = k.opts.Patience
	}
	return mount.Options{
		Mode: req.Mode, MaxFids: k.opts.MaxFids, ReadAhead: req.Options.ReadAhead,
		NoSuid: req.Options.NoSuid, NoDev: req.Options.NoDev, Direct: req.Options.Direct,
		HostLink: k.hostLink, Indexes: &k.indexes, Refuser: refuse,
		Session: mount.SessionOptions{
			Dial: k.dial, Aname: req.Aname, Wait: wait, Patience: patience, Logger: k.log,
		},
	}
}

// settle publishes the outcome for an entry, and watches the mount if there is
// one.
func (k *Keeper) settle(e *entry, m *mount.Mount, err error) {
	k.mu.Lock()
	e.m, e.err = m, err
	if err != nil {
		k.removeLocked(e)
	} else {
		k.live[e] = true
		k.wg.Add(1)
		go k.watch(e)
	}
	k.mu.Unlock()
	close(e.ready)
}

// watch forgets a mount that ended, whoever ended it.
func (k *Keeper) watch(e *entry) {
	defer k.wg.Done()
	<-e.m.Done()
	k.mu.Lock()
	mine := k.entries[e.req.Target] == e
	delete(k.live, e)
	k.removeLocked(e)
	k.mu.Unlock()
	if mine {
		k.log.Info("mount ended", zap.String("target", e.req.Target))
		if err := k.save(); err != nil {
			k.log.Error("mounts not recorded", zap.Error(err))
		}
	}
}

// removeLocked takes an entry out of the table if it is still in it.
func (k *Keeper) removeLocked(e *entry) {
	if k.entries[e.req.Target] == e {
		delete(k.entries, e.req.Target)
	}
	k.noteIdleLocked()
}

func (k *Keeper) noteIdleLocked() {
	if k.draining && len(k.entries) == 0 {
		select {
		case <-k.idle:
		default:
			close(k.idle)
		}
	}
}

// save writes the state file.
func (k *Keeper) save() error {
	if k.opts.StateFile == "" {
		return nil
	}
	k.stateMu.Lock()
	defer k.stateMu.Unlock()
	k.mu.Lock()
	var reqs []MountRequest
	for _, e := range k.entries {
		if e.m != nil || e.cancel != nil {
			reqs = append(reqs, e.req)
		}
	}
	k.mu.Unlock()
	slices.SortFunc(reqs, func(a, b MountRequest) int { return cmp.Compare(a.Target, b.Target) })
	return saveState(k.opts.StateFile, reqs)
}

// Unmount takes a mount away; see [mount.Mount.Unmount]. A lazily unmounted
// one is served until its last user leaves but is no longer listed, and the
// target can be used again. A target that is not mounted is no error.
func (k *Keeper) Unmount(ctx context.Context, target string, lazy bool) error {
	target = filepath.Clean(target)
	k.mu.Lock()
	e := k.entries[target]
	if e != nil && e.cancel != nil {
		e.cancel() // it is yet to be restored
	}
	k.mu.Unlock()
	if e == nil {
		return nil
	}
	select {
	case <-e.ready:
	case <-ctx.Done():
		return fmt.Errorf("unmount %s: %w", target, ctx.Err())
	}
	if e.err == nil {
		if err := e.m.Unmount(ctx, lazy); err != nil {
			return err
		}
	}
	k.mu.Lock()
	k.removeLocked(e)
	k.mu.Unlock()
	return k.save()
}

// List tells about every mount, by target.
func (k *Keeper) List() []mount.Status {
	k.mu.Lock()
	entries := make([]*entry, 0, len(k.entries))
	for _, e := range k.entries {
		entries = append(entries, e)
	}
	k.mu.Unlock()
	list := make([]mount.Status, 0, len(entries))
	for _, e := range entries {
		select {
		case <-e.ready:
			if e.err == nil {
				list = append(list, e.m.Status())
			}
		default:
			list = append(list, mount.Status{
				Aname: e.req.Aname, Target: e.req.Target, Mode: e.req.Mode, State: Restoring, Since: e.since,
			})
		}
	}
	slices.SortFunc(list, func(a, b mount.Status) int { return cmp.Compare(a.Target, b.Target) })
	return list
}

// Health tells how the keeper is.
func (k *Keeper) Health() Health {
	h := Health{PID: os.Getpid(), Version: k.opts.Version, Connect: k.opts.Connect, Started: k.started}
	if k.v9fs != nil {
		h.V9FS = k.v9fs.Error()
	}
	for _, st := range k.List() {
		h.Mounts++
		if st.State != mount.Connected {
			h.Waiting++
		}
	}
	k.mu.Lock()
	h.Draining = k.draining
	k.mu.Unlock()
	return h
}
