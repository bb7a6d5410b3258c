package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/mount"
)

// closeWait is how long a keeper that was told twice to end waits for mounts.
const closeWait = 5 * time.Second

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	return enc.Encode(v)
}

const serveAbout = `serve holds the mounts of a host, which the daemon asks for over a control
socket. SIGTERM does not take mounts from under their users: serve takes no new
ones and ends with the last. A second SIGTERM ends it at once. What a keeper
that was killed leaves behind fails (ENOTCONN) until one with the same state
file starts and mounts it anew; files that were open then stay broken.`

type serveFlags struct {
	opts         Options
	socket       string
	umountOnExit bool
}

func parseServe(args []string, env *Env) (*serveFlags, error) {
	var f serveFlags
	fs := flags(env, "serve", "", serveAbout)
	fs.StringVar(&f.socket, "socket", defaultSocket, "control socket to listen on")
	fs.StringVar(&f.opts.Connect, "connect", defaultConnect, "the daemon: unix:PATH, tcp:HOST:PORT or vsock:CID:PORT")
	fs.StringVar(&f.opts.StateFile, "state", "", `record of the mounts (default SOCKET.state; "none": no record)`)
	mode := fs.String("mode", "auto", "how to mount by default: auto, fuse or v9fs")
	fs.DurationVar(&f.opts.Patience, "patience", 0, "how long readers wait for the daemon before EIO (0: for ever)")
	fs.IntVar(&f.opts.MaxMounts, "max-mounts", 0, "most mounts at once (0: 4096)")
	fs.IntVar(&f.opts.MaxFids, "max-fids", 0, "most fids per mount (0: 4096)")
	fs.BoolVar(&f.umountOnExit, "umount-on-exit", false, "unmount everything when told to end")
	debug := fs.Bool("debug", false, "log more")
	if _, err := parse(fs, args, 0); err != nil {
		return nil, err
	}
	var err error
	if f.opts.Mode, err = mount.ParseMode(*mode); err != nil {
		return nil, err
	}
	switch f.opts.StateFile {
	case "":
		f.opts.StateFile = f.socket + ".state"
	case "none":
		f.opts.StateFile = ""
	}
	f.opts.Version = env.Version
	f.opts.Logger = newLogger(env.Stderr, *debug)
	return &f, nil
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
	ln, unlock, err := listen(f.socket)
	if err != nil {
		return err
	}
	defer unlock()
	k, err := New(ctx, f.opts)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	log := f.opts.Logger
	protect(log)
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	served := make(chan error, 1)
	go func() { served <- k.Serve(serving, ln) }()
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("service manager not notified", zap.Error(err))
	}
	log.Info("keeper ready", zap.String("socket", f.socket), zap.String("connect", f.opts.Connect))
	err = k.untilTold(ctx, f, env, served)
	stopServing()
	if !errors.Is(err, errServing) {
		err = errors.Join(err, <-served)
	}
	end, stop := context.WithTimeout(ctx, closeWait)
	defer stop()
	return errors.Join(err, k.Close(end))
}

// errServing is why a keeper ends whose control socket failed.
var errServing = errors.New("control socket failed")

// untilTold returns when the keeper shall end.
func (k *Keeper) untilTold(ctx context.Context, f *serveFlags, env *Env, served <-chan error) error {
	var idle <-chan struct{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-served:
			return fmt.Errorf("%w: %w", errServing, err)
		case <-idle:
			return nil
		case sig := <-env.Signals:
			if idle != nil {
				k.log.Warn("told again to end, leaving at once")
				return nil
			}
			k.log.Info("told to end", zap.Stringer("signal", sig), zap.Int("mounts", len(k.List())))
			idle = k.Drain()
			if f.umountOnExit {
				if err := k.UnmountAll(ctx); err != nil {
					k.log.Error("not everything could be unmounted", zap.Error(err))
				}
			}
		}
	}
}

// protect asks the kernel to kill other processes first when it is out of
// memory: every container on the host stands on this one.
func protect(log *zap.Logger) {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0); err != nil {
		log.Debug("not protected from the out-of-memory killer", zap.Error(err))
	}
}

// listen takes the control socket. A lock next to it makes sure that there is
// one keeper, so that a socket left behind can be replaced.
func listen(path string) (net.Listener, func(), error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	unlock := func() { _ = lock.Close() } // closing unlocks
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unlock()
		return nil, nil, fserr.New(fserr.Busy, "listen on", path, errors.New("another keeper is running"))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, syscall.ENOENT) {
		unlock()
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		unlock()
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	return ln, unlock, nil
}
