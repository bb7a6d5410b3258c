package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/hostlink"
	"github.com/nineply/nineply/internal/idmap"
)

// hostMount is a FUSE file system of a tree that a daemon of the same host
// serves: names and attributes come from the merged index itself, and the bytes
// of files straight from the daemon (see hostlink).
type hostMount struct {
	ids     idmap.Maps
	opts    *Options
	log     *zap.Logger
	dev     *device
	front   *indexFront
	reads   *reads
	shared  *sharedIndex
	welcome hostlink.Welcome
	target  string
	id      uint64 // of the mounted file system

	ctx        context.Context // ends with the mount
	cancel     context.CancelFunc
	wg         sync.WaitGroup
	connected  atomic.Bool
	reconnects atomic.Uint64
	stale      atomic.Uint64
}

// errNoHostLink: the daemon has none, so that 9P has to do.
var errNoHostLink = errors.New("no host link")

// newHostMount mounts over a host link. errNoHostLink says that there is none.
func newHostMount(ctx context.Context, target string, opts *Options) (*hostMount, error) {
	if err := fuseUsable(); err != nil {
		return nil, err
	}
	_, ids, err := idmap.Cut(opts.Session.Aname)
	if err != nil {
		return nil, fserr.New(fserr.Invalid, "mount", opts.Session.Aname, err)
	}
	link, w, file, err := firstAttach(ctx, opts)
	if err != nil {
		return nil, err
	}
	m := &hostMount{ids: ids, opts: opts, log: opts.Session.Logger, reads: newReads(), welcome: w, target: target}
	if m.shared, err = opts.Indexes.open(w.Tree, file); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errNoHostLink, err), link.Close())
	}
	m.ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := m.start(link); err != nil {
		m.cancel()
		return nil, errors.Join(err, link.Close(), m.shared.release())
	}
	m.id = deviceOf(target)
	if opts.ReadAhead > 0 {
		if err := setReadAhead(m.id, opts.ReadAhead); err != nil {
			m.log.Debug("read-ahead left at the kernel's default", zap.String("target", target), zap.Error(err))
		}
	}
	m.connected.Store(true)
	m.wg.Add(1)
	go m.supervise(link)
	return m, nil
}

// firstAttach attaches. It waits for the daemon as the options say, and tells a
// daemon without a host link from one that is not there.
func firstAttach(ctx context.Context, opts *Options) (*hostlink.Conn, hostlink.Welcome, *os.File, error) {
	probe, err := dialFor(ctx, &opts.Session)
	if err != nil {
		return nil, hostlink.Welcome{}, nil, fserr.New(fserr.Unavailable, "", "", err)
	}
	_ = probe.Close() // nothing was said
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	// A daemon that has just started opens this socket last.
	for try := 0; ; try++ {
		link, w, file, err := hostlink.Attach(ctx, opts.HostLink, opts.Session.Aname)
		if err == nil || errors.Is(err, hostlink.ErrRefused) {
			return link, w, file, err
		}
		if try == attachTries || !sleep(ctx, attachPause) {
			return nil, w, nil, fmt.Errorf("%w: %w", errNoHostLink, err)
		}
	}
}

// A daemon whose 9P socket is there is asked this often for a host link.
const (
	attachTries = 4
	attachPause = 10 * time.Millisecond
)

// start mounts, and gives the daemon its descriptor.
func (m *hostMount) start(link *hostlink.Conn) error {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fserr.New(fserr.Permission, "open", "/dev/fuse", err)
	}
	file := os.NewFile(uintptr(fd), "/dev/fuse")
	if err := mountFuse(fd, m.target, m.opts, maxHostRead); err != nil {
		if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("%w: %w", errNoHostLink, err) // the other way knows a helper
		}
		return errors.Join(err, file.Close())
	}
	if m.dev, err = newDevice(file); err == nil {
		err = link.Device(file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("FUSE handshake: %w", err), Detach(m.target, true), file.Close())
	}
	m.reads.dev = m.dev
	m.reads.attach(link)
	m.makeFront()
	return nil
}

// makeFront is what answers.
func (m *hostMount) makeFront() {
	m.front = &indexFront{
		x: m.shared.index, reads: m.reads, flags: m.dev.flags, ids: m.ids,
		statfs: layerStatfs{blockSize: max(m.welcome.BlockSize, 512), blocks: m.welcome.Blocks, files: m.welcome.Files},
	}
}

// supervise uses the link, and makes the next one when it is lost, until the
// mount ends.
func (m *hostMount) supervise(link *hostlink.Conn) {
	defer m.wg.Done()
	for {
		m.use(link)
		m.connected.Store(false)
		if m.ctx.Err() != nil {
			return
		}
		m.log.Warn("host link lost", zap.String("aname", m.opts.Session.Aname))
		if link = m.reconnect(); link == nil {
			return
		}
		m.reconnects.Add(1)
		m.reads.attach(link)
		m.connected.Store(true)
		m.log.Info("host link made again", zap.String("aname", m.opts.Session.Aname))
	}
}

// use takes acknowledgements until the link is lost.
func (m *hostMount) use(link *hostlink.Conn) {
	ctx, cancel := context.WithCancel(m.ctx)
	stop := context.AfterFunc(ctx, func() { _ = link.Close() }) // ends Acks and Send
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		m.reads.flush(ctx, link)
	}()
	for link.Acks(m.reads.answered) == nil {
	}
	m.reads.detach()
	cancel()
	wg.Wait()
	if stop() {
		_ = link.Close() // lost already
	}
}

// reconnect tries until there is a link to the same tree, or the mount has ended.
// The first failure of its kind is logged, repetitions are not.
func (m *hostMount) reconnect() *hostlink.Conn {
	if p := m.opts.Session.Patience; p > 0 {
		impatient := time.AfterFunc(p, m.reads.fail)
		defer impatient.Stop()
	}
	said := ""
	for pause := firstPause; ; pause = nextPause(pause) {
		link, err := m.connect()
		if err == nil {
			return link
		}
		if m.ctx.Err() != nil {
			return nil
		}
		if why := err.Error(); why != said {
			said = why
			m.log.Warn("daemon not back yet", zap.String("aname", m.opts.Session.Aname), zap.Error(err))
		}
		if !sleep(m.ctx, pause) {
			return nil
		}
	}
}

// connect makes one link, to the same tree as before.
func (m *hostMount) connect() (*hostlink.Conn, error) {
	ctx, cancel := context.WithTimeout(m.ctx, dialTimeout)
	defer cancel()
	link, w, file, err := hostlink.Attach(ctx, m.opts.HostLink, m.opts.Session.Aname)
	if err != nil {
		return nil, err
	}
	err = m.shared.same(w.Tree, file)
	if errors.Is(err, ErrOtherTree) {
		m.stale.Add(1)
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = link.Device(m.dev.file)
	}
	if err != nil {
		return nil, errors.Join(err, link.Close())
	}
	return link, nil
}

func (m *hostMount) mode() Mode { return FUSE }

func (m *hostMount) serve() {
	err := m.dev.serve(max(2, min(runtime.GOMAXPROCS(0), 4)), m.front)
	left := errors.Is(err, errLeft)
	if err != nil && !left {
		m.log.Error("mount given up", zap.String("target", m.target), zap.Error(err))
	}
	m.cancel()
	m.reads.end()
	m.wg.Wait()
	_ = m.dev.file.Close() // nothing is buffered
	if !left && m.id != 0 && deviceOf(m.target) == m.id {
		// The kernel aborted the connection: the mount is dead but there.
		if err := Detach(m.target, true); err != nil {
			m.log.Warn("dead mount stays", zap.String("target", m.target), zap.Error(err))
		}
	}
	if err := m.shared.release(); err != nil {
		m.log.Warn("index not closed", zap.Error(err))
	}
}

func (m *hostMount) giveUp() { m.reads.fail() }

func (m *hostMount) status(st *Status) {
	st.State = Waiting
	if m.connected.Load() {
		st.State = Connected
	}
	r := m.reads
	st.Requests, st.Bytes, st.Retries = r.requests.Load(), r.bytes.Load(), r.retries.Load()
	st.Interrupted, st.Reconnects, st.Stale = r.killed.Load(), m.reconnects.Load(), m.stale.Load()
	st.Kernel = make(map[string]uint64, opKinds)
	for i := range m.front.requests {
		st.Kernel[opName(i)] = m.front.requests[i].Load()
	}
}

// headOf is what tells one index from another: the sums of all its sections.
func headOf(file *os.File) ([]byte, error) {
	head := make([]byte, 512)
	n, err := file.ReadAt(head, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return head[:n], err
}

// refusal gives the errno of a daemon that refused, as a 9P server's is given.
func refusal(err error) error {
	var errno syscall.Errno
	if errors.Is(err, hostlink.ErrRefused) && errors.As(err, &errno) {
		return fmt.Errorf("%w (%w)", errno, err)
	}
	return err
}

// sameHead compares.
func sameHead(a, b []byte) bool { return len(a) > 0 && bytes.Equal(a, b) }
