package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/mount"
	"github.com/nineply/nineply/internal/p9client"
)

// readyFd is where a process in the background reports that its mount is
// ready: the first of the extra files it was started with.
const readyFd = 3

const mountAbout = `mount makes one mount and holds it until it is unmounted. ANAME says what:
image/REFERENCE, chain/CHAIN-ID or layer/DIGEST.

  nineply-mount mount --connect tcp:10.0.2.2:5640 --daemon image/example.com/python:3.12 /mnt`

// oneMount is the command line of the mount command.
type oneMount struct {
	connect, aname, target string
	opts                   mount.Options
	json, background       bool
	child                  bool // started by the one the user called
	debug                  bool
}

// ready is the line --json prints. Times are in milliseconds.
type ready struct {
	Aname   string     `json:"aname"`
	Target  string     `json:"target"`
	Mode    mount.Mode `json:"mode"`
	PID     int        `json:"pid"`
	Connect float64    `json:"connect_ms"` // the last dial
	Total   float64    `json:"total_ms"`   // until the mount could be used
	Error   string     `json:"error,omitempty"`
	Status  int        `json:"status"` // the exit status that Error means
}

func runMount(ctx context.Context, args []string, env *Env) error {
	var o oneMount
	fs := flags(env, "mount", "ANAME TARGET", mountAbout)
	fs.StringVar(&o.connect, "connect", defaultConnect, "the server: unix:PATH, tcp:HOST:PORT, vsock:CID:PORT or fd:N")
	mode := fs.String("mode", "auto", "how to mount: auto, fuse or v9fs")
	fs.DurationVar(&o.opts.Session.Wait, "wait", 0, "how long to try to reach the server")
	fs.DurationVar(&o.opts.Session.Patience, "patience", 0, "how long readers wait for a server that went away (0: for ever)")
	fs.IntVar(&o.opts.ReadAhead, "readahead", 0, "bytes the kernel reads ahead (0: 1 MiB, -1: its default)")
	fs.BoolVar(&o.opts.NoSuid, "nosuid", false, "ignore set-user-ID bits and file capabilities")
	fs.BoolVar(&o.opts.NoDev, "nodev", false, "ignore device nodes")
	fs.BoolVar(&o.opts.Direct, "direct", false, "v9fs: connect the kernel to the server without a relay; does not survive the server")
	fs.BoolVar(&o.json, "json", false, "print a line of JSON when the mount is ready")
	fs.BoolVar(&o.background, "daemon", false, "return when the mount is ready and hold it in the background")
	fs.BoolVar(&o.child, "ready-fd", false, "report readiness on descriptor 3 (used by --daemon)")
	fs.BoolVar(&o.debug, "debug", false, "log more")
	ops, err := parse(fs, args, 2)
	if err != nil {
		return err
	}
	o.aname, o.target = ops[0], ops[1]
	if o.opts.Mode, err = mount.ParseMode(*mode); err != nil {
		return err
	}
	return o.run(ctx, args, env)
}

func (o *oneMount) run(ctx context.Context, args []string, env *Env) error {
	switch {
	case o.child:
		return o.holdAsChild(ctx, env)
	case o.background:
		return o.inBackground(ctx, args, env)
	}
	m, line, err := o.mount(ctx, env)
	if err != nil {
		return err
	}
	if o.json {
		err = printJSON(env.Stdout, line)
	}
	return errors.Join(err, hold(ctx, m, env))
}

// mount makes the mount and measures.
func (o *oneMount) mount(ctx context.Context, env *Env) (*mount.Mount, *ready, error) {
	dial, err := p9client.ParseAddr(o.connect)
	if err != nil {
		return nil, nil, fserr.New(fserr.Invalid, "", "", err)
	}
	var dialled atomic.Int64
	o.opts.Session.Dial = func(ctx context.Context) (net.Conn, error) {
		start := time.Now()
		conn, err := dial(ctx)
		dialled.Store(int64(time.Since(start)))
		return conn, err
	}
	o.opts.Session.Aname = o.aname
	o.opts.Session.Logger = newLogger(env.Stderr, o.debug)
	start := time.Now()
	m, err := mount.New(ctx, o.target, o.opts)
	if err != nil {
		return nil, nil, err
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return m, &ready{
		Aname: o.aname, Target: m.Target(), Mode: m.Status().Mode, PID: os.Getpid(),
		Connect: ms(time.Duration(dialled.Load())), Total: ms(time.Since(start)),
	}, nil
}

// hold serves the mount until it ends. A signal unmounts; while the mount is
// in use that fails and the next signal detaches it.
func hold(ctx context.Context, m *mount.Mount, env *Env) error {
	told := 0
	for {
		select {
		case <-m.Done():
			return nil
		case <-ctx.Done():
			return errors.Join(m.Unmount(ctx, true), ctx.Err())
		case <-env.Signals:
			told++
			err := m.Unmount(ctx, told > 1)
			if err != nil {
				_, _ = fmt.Fprintln(env.Stderr, "nineply-mount:", err, "(a second signal detaches the mount)")
				continue
			}
			return nil
		}
	}
}

// inBackground starts this program again, in a session of its own, and waits
// until it reports. The leading "@" of its name keeps systemd from killing it
// at shutdown before the file systems it serves are unmounted.
func (o *oneMount) inBackground(ctx context.Context, args []string, env *Env) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	defer func() { _ = r.Close() }() // only read
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self)
	cmd.Args = append([]string{"@nineply-mount", "mount", "-ready-fd"}, args...)
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = w.Close() // the child has its own
	if err != nil {
		return fmt.Errorf("start in background: %w", err)
	}
	var line ready
	if err := json.NewDecoder(r).Decode(&line); err != nil {
		return fmt.Errorf("background process ended without a word: %w", errors.Join(err, cmd.Wait()))
	}
	if line.Error != "" {
		_ = cmd.Wait() // its error is in the line
		return &remoteError{line}
	}
	if o.json {
		err = printJSON(env.Stdout, line)
	}
	return errors.Join(err, cmd.Process.Release())
}

// remoteError is a failure of the background process.
type remoteError struct{ line ready }

func (e *remoteError) Error() string { return strings.TrimSpace(e.line.Error) }

// holdAsChild is the background process.
func (o *oneMount) holdAsChild(ctx context.Context, env *Env) error {
	report := os.NewFile(readyFd, "ready")
	m, line, err := o.mount(ctx, env)
	if err == nil {
		protect(o.opts.Session.Logger)
	} else {
		line = &ready{Error: err.Error(), Status: exitStatus(err)}
	}
	if werr := errors.Join(printJSON(report, line), report.Close()); werr != nil {
		o.opts.Session.Logger.Warn("readiness not reported", zap.Error(werr))
	}
	if err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil { // hold on to nothing else
		o.opts.Session.Logger.Warn("working directory stays", zap.Error(err))
	}
	return hold(ctx, m, env)
}
