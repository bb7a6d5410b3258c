package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

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
	takeover     bool
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
	fs.BoolVar(&f.takeover, "takeover", false, "take over from the keeper that is running, if there is one; it goes on if that fails")
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

// protect asks the kernel to kill other processes first when it is out of
// memory: every container on the host stands on this one.
func protect(log *zap.Logger) {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0); err != nil {
		log.Debug("not protected from the out-of-memory killer", zap.Error(err))
	}
}

// listen takes the control socket. A lock next to it makes sure that there is
// one keeper, so that a socket left behind can be replaced. It is held until the
// last descriptor of it is closed, in this process or a successor.
func listen(path string) (*net.UnixListener, *os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, nil, errors.Join(fserr.New(fserr.Busy, "listen on", path, errors.New("another keeper is running")), lock.Close())
	}
	ln, err := listenLocked(path)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("control socket: %w", err), lock.Close())
	}
	return ln, lock, nil
}

func listenLocked(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, syscall.ENOENT) {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false) // it may be the successor's
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}
