package mount

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
)

const (
	// v9fsSource starts the source of mounts made by this package.
	v9fsSource = "nineply:"
	// v9fsMSize is 256 KiB of payload, page aligned, and the header: beyond
	// it kernels before 6.19 need contiguous memory they may not find.
	v9fsMSize = 256<<10 + 24
	// v9fsPoll is how often a mount that needs no process is looked at.
	v9fsPoll = 2 * time.Second
)

// V9FSUsable says why the kernel's own 9p client cannot be used, nil if it
// can. It loads the kernel's modules if need be and possible.
func V9FSUsable() error {
	release, err := kernelRelease()
	if err == nil {
		err = checkRelease(release)
	}
	if err == nil && !hasV9FS() {
		loadModule("9p")
		loadModule("9pnet_fd")
		if !hasV9FS() {
			err = errors.New("the kernel has no 9p (CONFIG_9P_FS, CONFIG_NET_9P, CONFIG_NET_9P_FD)")
		}
	}
	if err != nil {
		return fserr.New(fserr.Unsupported, "use v9fs", "", err)
	}
	return nil
}

// loadModule asks for a kernel module; whether that helped the caller sees.
func loadModule(name string) {
	_ = exec.Command("modprobe", "-q", name).Run()
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("kernel release: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

func hasV9FS() bool {
	list, err := os.ReadFile("/proc/filesystems")
	return err == nil && listsV9FS(string(list))
}

func listsV9FS(filesystems string) bool {
	for _, line := range strings.Split(filesystems, "\n") {
		if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] == "9p" {
			return true
		}
	}
	return false
}

// parseRelease gives the first two numbers of a kernel release.
func parseRelease(s string) (major, minor int, ok bool) {
	n, err := fmt.Sscanf(s, "%d.%d", &major, &minor)
	return major, minor, err == nil && n == 2
}

// checkRelease refuses kernels whose 9p client is known to be broken: Linux
// 6.9 to 6.11 mix up inodes, which 6.12 put right.
func checkRelease(release string) error {
	major, minor, ok := parseRelease(release)
	if ok && major == 6 && minor >= 9 && minor <= 11 {
		return fmt.Errorf("kernel %s: 9p is broken in Linux 6.9 to 6.11", release)
	}
	return nil
}

// v9fsOptions are the mount options for an immutable tree. Linux 7.2 and later
// can keep absent names.
func v9fsOptions(release string, fd int, aname string) string {
	o := fmt.Sprintf("trans=fd,rfdno=%d,wfdno=%d,version=9p2000.L,cache=loose,access=any,msize=%d,aname=%s",
		fd, fd, v9fsMSize, aname)
	if major, minor, ok := parseRelease(release); ok && (major > 7 || major == 7 && minor >= 2) {
		o += ",negtimeout=-1"
	}
	return o
}

// v9fsMount is a mount of the kernel's own client: connected to a daemon of this
// host that is replaced when it dies (held), through a relay, or, if both are nil,
// to the server directly.
type v9fsMount struct {
	held   *Held
	relay  *relay
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	target string
	dev    uint64
}

func newV9FSMount(ctx context.Context, target string, opts *Options) (*v9fsMount, error) {
	if err := V9FSUsable(); err != nil {
		return nil, err
	}
	if strings.ContainsAny(opts.Session.Aname, ",\\\n") {
		return nil, fserr.Newf(fserr.Invalid, "mount v9fs", opts.Session.Aname, "the name cannot be a mount option")
	}
	server, err := dialFor(ctx, &opts.Session)
	if err != nil {
		return nil, fserr.New(fserr.Unavailable, "dial", "", err)
	}
	m := &v9fsMount{target: target}
	m.ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if opts.HostLink != "" && !opts.Direct {
		switch err = m.mountHeld(ctx, opts); {
		case err == nil:
			m.dev = deviceOf(target)
			_ = server.Close() // nothing was said
			return m, nil
		case fserr.KindOf(err) != fserr.Unsupported || m.held != nil:
			m.cancel()
			return nil, errors.Join(err, server.Close())
		}
	}
	if opts.Direct {
		err = m.mountDirect(server, opts)
	} else {
		err = m.mountRelayed(server, opts)
	}
	if err != nil {
		m.cancel()
		m.wg.Wait()
		return nil, err
	}
	m.dev = deviceOf(target)
	return m, nil
}

// dialFor connects, trying for as long as the session may wait.
func dialFor(ctx context.Context, opts *SessionOptions) (net.Conn, error) {
	deadline := time.Now().Add(opts.Wait)
	for pause := firstPause; ; pause = nextPause(pause) {
		conn, err := opts.Dial(ctx)
		if err == nil {
			return conn, nil
		}
		if !time.Now().Add(pause).Before(deadline) || !sleep(ctx, pause) {
			return nil, err
		}
	}
}

func (m *v9fsMount) mountDirect(server net.Conn, opts *Options) error {
	type filer interface{ File() (*os.File, error) }
	f, ok := server.(filer)
	if !ok {
		return errors.Join(fmt.Errorf("connection of type %T has no descriptor", server), server.Close())
	}
	file, err := f.File()
	if err != nil {
		return errors.Join(fmt.Errorf("descriptor of the connection: %w", err), server.Close())
	}
	err = mountV9FS(int(file.Fd()), m.target, opts)
	// The kernel has its own reference now.
	return errors.Join(err, file.Close(), server.Close())
}

func (m *v9fsMount) mountRelayed(server net.Conn, opts *Options) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return errors.Join(err, server.Close())
	}
	m.relay = newRelay(ours, opts.Session)
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		if err := m.relay.run(m.ctx, server); err != nil {
			m.relay.log.Sugar().Errorw("relay ended", "target", m.target, "error", err)
		}
	}()
	err = mountV9FS(int(theirs.Fd()), m.target, opts)
	return errors.Join(err, theirs.Close())
}

// mountHeld mounts a connection that the daemon serves itself. The error is of kind
// Unsupported, and held is nil, if it does not.
func (m *v9fsMount) mountHeld(ctx context.Context, opts *Options) error {
	held, client, err := Hold(ctx, opts.HostLink, opts.Session, opts.Refuser)
	if err != nil {
		return err
	}
	m.held = held
	err = mountV9FS(int(client.Fd()), m.target, opts)
	err = errors.Join(err, client.Close()) // the kernel has its own reference
	if err != nil {
		held.Close()
	}
	return err
}

// socketPair gives two connected ends, one for us and one for the kernel.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "relay"), os.NewFile(uintptr(fds[1]), "v9fs")
	conn, err := net.FileConn(ours)
	err = errors.Join(err, ours.Close())
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("socket pair: %w", err), theirs.Close())
	}
	return conn, theirs, nil
}

func mountV9FS(fd int, target string, opts *Options) error {
	release, err := kernelRelease()
	if err != nil {
		return err
	}
	var flags uintptr = unix.MS_RDONLY
	if opts.NoSuid {
		flags |= unix.MS_NOSUID
	}
	if opts.NoDev {
		flags |= unix.MS_NODEV
	}
	// Two mounts with one source and name confuse some kernels.
	source := fmt.Sprintf("%s%s#%08x", v9fsSource, opts.Source, rand.Uint32())
	err = unix.Mount(source, target, "9p", flags, v9fsOptions(release, fd, opts.Session.Aname))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fserr.New(fserr.Permission, "mount on", target, err)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.ESRCH):
		return fserr.New(fserr.Unsupported, "mount on", target, err)
	case errors.Is(err, unix.ENOTDIR):
		return fserr.New(fserr.NotDir, "mount on", target, err)
	}
	return fmt.Errorf("mount on %s: %w", target, err)
}

func (m *v9fsMount) mode() Mode { return V9FS }

// serve waits for the kernel to let go of its end. A direct mount has no end
// of ours, so it is looked for from time to time.
func (m *v9fsMount) serve() {
	defer m.cancel()
	if m.held != nil {
		m.held.Wait()
		return
	}
	if m.relay != nil {
		m.wg.Wait()
		return
	}
	tick := time.NewTicker(v9fsPoll)
	defer tick.Stop()
	for deviceOf(m.target) == m.dev {
		select {
		case <-tick.C:
		case <-m.ctx.Done():
			return
		}
	}
}

func (m *v9fsMount) giveUp() {
	if m.relay != nil {
		m.relay.giveUp()
	}
	if m.held != nil {
		m.held.giveUp()
	}
}

func (m *v9fsMount) status(st *Status) {
	st.State = Connected
	if h := m.held; h != nil {
		if !h.Connected() {
			st.State = Waiting
		}
		st.Reconnects = h.Reconnects()
	}
	r := m.relay
	if r == nil {
		return
	}
	if !r.connected() {
		st.State = Waiting
	}
	st.Requests, st.Bytes = r.requests.Load(), r.bytes.Load()
	st.Reconnects, st.Retries, st.Stale = r.reconnects.Load(), r.retries.Load(), r.stale.Load()
	st.Fids = r.size()
}
