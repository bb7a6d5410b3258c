package mount

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
)

const (
	// maxIO is the largest read the kernel sends. It has several under way at
	// once, and the FUSE library keeps buffers of this size for each mount.
	maxIO = 256 << 10
	// maxBackground is how many read-ahead requests may be outstanding.
	maxBackground = 128
)

// fuseMount is a FUSE file system served by this process.
type fuseMount struct {
	s      *session
	t      *tree
	f      *front
	server *fuse.Server
	watch  int // a second descriptor of the FUSE connection, -1 for none
	target string
	dev    uint64 // of the mounted file system
}

func newFuseMount(ctx context.Context, target string, opts *Options) (*fuseMount, error) {
	if err := fuseUsable(); err != nil {
		return nil, err
	}
	s, err := newSession(ctx, opts.Session)
	if err != nil {
		return nil, wrapAttach(err)
	}
	m := &fuseMount{s: s, watch: -1, target: target}
	m.t = newTree(s, opts.MaxFids)
	m.f = newFront(m.t, m.ended)
	if err := m.start(target, opts); err != nil {
		s.close()
		return nil, err
	}
	m.dev = deviceOf(target)
	if opts.ReadAhead > 0 {
		if err := setReadAhead(m.dev, opts.ReadAhead); err != nil {
			s.log.Debug("read-ahead left at the kernel's default", zap.String("target", target), zap.Error(err))
		}
	}
	return m, nil
}

// wrapAttach gives the errors of a first attach their kind. An errno of the
// server stays visible.
func wrapAttach(err error) error {
	if isDialError(err) {
		return fserr.New(fserr.Unavailable, "", "", err)
	}
	return err
}

// fuseUsable says why FUSE cannot be used, if so. It loads the kernel's module
// if need be and possible.
func fuseUsable() error {
	_, err := os.Stat("/dev/fuse")
	if err != nil {
		loadModule("fuse")
		_, err = os.Stat("/dev/fuse")
	}
	if err != nil {
		return fserr.New(fserr.Unsupported, "use FUSE", "", fmt.Errorf("is CONFIG_FUSE_FS there? %w", err))
	}
	return nil
}

// start mounts and completes the handshake with the kernel. mount(2) is used
// directly: it needs no helper program and, unlike one, grants set-user-ID
// files and devices. Without the privilege for it fusermount is the way.
func (m *fuseMount) start(target string, opts *Options) error {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fserr.New(fserr.Permission, "open", "/dev/fuse", err)
	}
	err = mountFuse(fd, target, opts, maxIO)
	if errors.Is(err, unix.EPERM) {
		_ = unix.Close(fd) // nothing was done with it
		return m.startUnprivileged(target, opts)
	}
	if err != nil {
		_ = unix.Close(fd) // the mount's error counts
		return err
	}
	m.watch, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		_ = unix.Close(fd) // as above
		return errors.Join(fmt.Errorf("duplicate FUSE descriptor: %w", err), Detach(target, true))
	}
	// This name tells the server to use the descriptor as it is.
	m.server, err = fuse.NewServer(m.f, fmt.Sprintf("/dev/fd/%d", fd), serverOptions(opts))
	if err != nil {
		_ = unix.Close(m.watch) // as above
		return errors.Join(fmt.Errorf("FUSE handshake: %w", err), Detach(target, true))
	}
	return nil
}

func mountFuse(fd int, target string, opts *Options, maxRead int) error {
	var flags uintptr = unix.MS_RDONLY
	if opts.NoSuid {
		flags |= unix.MS_NOSUID
	}
	if opts.NoDev {
		flags |= unix.MS_NODEV
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,default_permissions,allow_other,max_read=%d",
		fd, os.Geteuid(), os.Getegid(), maxRead)
	err := unix.Mount(opts.Source, target, fsType, flags, data)
	switch {
	case err == nil, errors.Is(err, unix.EPERM):
		return err
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return fserr.New(fserr.NotDir, "mount on", target, err)
	case errors.Is(err, unix.ENODEV):
		return fserr.New(fserr.Unsupported, "mount on", target, errors.New("the kernel has no FUSE"))
	}
	return fserr.New(fserr.Internal, "mount on", target, err)
}

func serverOptions(opts *Options) *fuse.MountOptions {
	return &fuse.MountOptions{
		MaxWrite:                 maxIO, // also sets the largest read
		MaxReadAhead:             maxIO,
		MaxBackground:            maxBackground,
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		DisableSplice:            true,
		FsName:                   opts.Source,
		Name:                     "nineply",
	}
}

func (m *fuseMount) startUnprivileged(target string, opts *Options) (err error) {
	o := serverOptions(opts)
	o.Options = []string{"ro", "default_permissions"}
	m.server, err = fuse.NewServer(m.f, target, o)
	if err != nil {
		return fserr.New(fserr.Permission, "mount on", target, err)
	}
	return nil
}

func (m *fuseMount) mode() Mode { return FUSE }

func (m *fuseMount) serve() {
	m.server.Serve()
	m.s.close()
	if m.watch >= 0 {
		_ = unix.Close(m.watch) // only ever polled
	}
	if m.dev != 0 && deviceOf(m.target) == m.dev {
		// The kernel aborted the connection: the mount is dead but there.
		if err := Detach(m.target, true); err != nil {
			m.s.log.Warn("dead mount stays", zap.String("target", m.target), zap.Error(err))
		}
	}
}

func (m *fuseMount) giveUp() { m.s.close() }

// ended tells whether the kernel has dropped the connection.
func (m *fuseMount) ended() bool {
	if m.watch < 0 {
		return m.s.ctx.Err() != nil
	}
	p := []unix.PollFd{{Fd: int32(m.watch)}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&unix.POLLERR != 0
}

func (m *fuseMount) status(st *Status) {
	m.s.status(st)
	st.Nodes, st.Fids = m.t.size()
	st.Stale = m.t.stale.Load()
	st.Interrupted = m.f.interrupted.Load()
	st.Kernel = make(map[string]uint64, opKinds)
	for i := range m.f.requests {
		st.Kernel[opName(i)] = m.f.requests[i].Load()
	}
}

// status fills in what the session knows.
func (s *session) status(st *Status) {
	st.State = Connected
	if s.ready() == nil {
		st.State = Waiting
	}
	n := s.stats()
	st.Requests, st.Bytes = n.Requests, n.BytesRead
	st.Reconnects, st.Retries = s.reconnects.Load(), s.retries.Load()
}

// deviceOf is the number of the file system mounted on target, found without
// asking that file system; 0 if it cannot be told.
func deviceOf(target string) uint64 {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, target, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_INO, &st)
	if err != nil {
		return 0
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor)
}

// setReadAhead raises how far the kernel reads ahead on a file system. FUSE
// caps the value negotiated at 128 KiB; the device's own setting is not capped.
func setReadAhead(dev uint64, bytes int) error {
	path := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(dev), unix.Minor(dev))
	return os.WriteFile(path, fmt.Appendf(nil, "%d", bytes>>10), 0)
}
