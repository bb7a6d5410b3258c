package keeper

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/mount"
)

// Exit statuses of the command.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnavailable = 3 // the server cannot be reached
	exitRefused     = 4 // the server does not have, or not give, the tree
	exitUnsupported = 5 // the kernel cannot
	exitBusy        = 6 // files on the mount are in use
)

const (
	defaultSocket  = "/run/nineply/keeper.sock"
	defaultConnect = "unix:/run/nineply/9p.sock"
)

const usage = `nineply-mount turns trees that a nineply daemon serves over 9P into mounts of
this kernel. The mounts outlive the daemon: while it is away their readers wait,
when it is back they go on.

Usage:
  nineply-mount serve  [flags]                hold mounts for a daemon on this host
  nineply-mount mount  [flags] ANAME TARGET   make one mount and hold it
  nineply-mount umount [flags] TARGET         take a mount away
  nineply-mount list   [flags]                show what a keeper holds
  nineply-mount upgrade [flags]               replace a running keeper's program
  nineply-mount version

Examples:
  # the keeper of a host; the daemon asks it for mounts
  nineply-mount serve

  # what is mounted, and does it wait for the daemon?
  nineply-mount list

  # in a virtual machine: an image that the host's daemon serves
  nineply-mount mount --connect vsock:2:5640 --wait 30s --daemon image/example.com/python:3.12 /mnt
  nineply-mount mount --connect tcp:10.0.2.2:5640 --daemon image/example.com/python:3.12 /mnt
  nineply-mount umount /mnt

  # installed as mount.nineply, for mount(8) and fstab
  mount -t nineply vsock:2:5640 /mnt -o aname=image/example.com/python:3.12,wait=30s

Signals: SIGTERM or SIGINT tells "serve" to take no new mounts and to end with
the last one; with --umount-on-exit it unmounts first. "mount" unmounts, if
nobody uses the mount. A second signal ends either at once and detaches what is
mounted; a keeper started later with the same state file mounts it again.

"nineply-mount COMMAND -h" lists the flags. Exit status: 1 failed, 2 usage,
3 server unreachable, 4 tree refused, 5 not supported here, 6 busy.
`

// Env is what a command needs of the process.
type Env struct {
	Args           []string // of the process, set by Run
	Stdout, Stderr io.Writer
	Version        string
	// Signals delivers what asks the process to end.
	Signals <-chan os.Signal
}

// errUsage is a command line that makes no sense; what is wrong was printed.
var errUsage = errors.New("usage")

// Run is the command: args as in os.Args. It returns the exit status.
func Run(ctx context.Context, args []string, env Env) int {
	env.Args = args
	err := dispatch(ctx, args, &env)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errUsage):
		return exitUsage
	}
	_, _ = fmt.Fprintln(env.Stderr, "nineply-mount:", err) // nowhere else to report to
	return exitStatus(err)
}

func exitStatus(err error) int {
	var remote *remoteError
	if errors.As(err, &remote) {
		return remote.line.Status
	}
	switch fserr.KindOf(err) {
	case fserr.Unavailable:
		return exitUnavailable
	case fserr.NotExist, fserr.Unauthorized:
		return exitRefused
	case fserr.Unsupported:
		return exitUnsupported
	case fserr.Busy:
		return exitBusy
	case fserr.Invalid:
		return exitUsage
	}
	return exitFailed
}

func dispatch(ctx context.Context, args []string, env *Env) error {
	if len(args) > 0 && strings.HasPrefix(filepath.Base(args[0]), "mount.") {
		return runHelper(ctx, args[1:], env)
	}
	if len(args) < 2 {
		_, _ = fmt.Fprint(env.Stderr, usage)
		return errUsage
	}
	switch args[1] {
	case "serve":
		return runServe(ctx, args[2:], env)
	case "mount":
		return runMount(ctx, args[2:], env)
	case "umount":
		return runUmount(ctx, args[2:], env)
	case "upgrade":
		return runUpgrade(ctx, args[2:], env)
	case "list":
		return runList(ctx, args[2:], env)
	case "version", "--version":
		_, err := fmt.Fprintln(env.Stdout, env.Version)
		return err
	case "help", "-h", "--help":
		_, err := fmt.Fprint(env.Stdout, usage)
		return err
	}
	_, _ = fmt.Fprintf(env.Stderr, "nineply-mount: unknown command %q\n%s", args[1], usage)
	return errUsage
}

// flags makes a flag set for a command with the given operands.
func flags(env *Env, name, operands, about string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(env.Stderr)
	fs.Usage = func() {
		_, _ = fmt.Fprintf(env.Stderr, "%s\n\nUsage: nineply-mount %s\n", about, strings.TrimSpace(name+" [flags] "+operands))
		fs.PrintDefaults()
	}
	return fs
}

// parse reads flags, which may stand before, between and after the operands.
func parse(fs *flag.FlagSet, args []string, operands int) ([]string, error) {
	var got []string
	for {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, errUsage
		}
		if fs.NArg() == 0 {
			break
		}
		got = append(got, fs.Arg(0))
		args = fs.Args()[1:]
	}
	if len(got) != operands {
		fs.Usage()
		return nil, errUsage
	}
	return got, nil
}

func newLogger(w io.Writer, debug bool) *zap.Logger {
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime = zapcore.RFC3339TimeEncoder
	level := zapcore.InfoLevel
	if debug {
		level = zapcore.DebugLevel
	}
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(cfg), zapcore.AddSync(w), level))
}

// runUmount asks the keeper that holds the mount; without one it unmounts
// directly.
func runUmount(ctx context.Context, args []string, env *Env) error {
	fs := flags(env, "umount", "TARGET", `umount takes a mount away, with or without a keeper and a daemon.`)
	socket := fs.String("socket", defaultSocket, "control socket of the keeper")
	lazy := fs.Bool("lazy", false, "detach now, serve on until the last user leaves")
	ops, err := parse(fs, args, 1)
	if err != nil {
		return err
	}
	target, err := filepath.Abs(ops[0])
	if err != nil {
		return fmt.Errorf("mount point %q: %w", ops[0], err)
	}
	c := NewClient(*socket)
	defer c.Close()
	list, err := c.List(ctx)
	if err != nil && !fserr.Is(err, fserr.Unavailable) {
		return err
	}
	for _, st := range list {
		if st.Target == target {
			return c.Unmount(ctx, target, *lazy)
		}
	}
	kind, source, err := topMount(target)
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	if !mount.IsOurs(kind, source) {
		return fserr.Newf(fserr.Invalid, "umount", target, "no mount of this program is there")
	}
	return mount.Detach(target, *lazy)
}

func runList(ctx context.Context, args []string, env *Env) error {
	fs := flags(env, "list", "", `list shows what a keeper holds.`)
	socket := fs.String("socket", defaultSocket, "control socket of the keeper")
	asJSON := fs.Bool("json", false, "print JSON")
	if _, err := parse(fs, args, 0); err != nil {
		return err
	}
	c := NewClient(*socket)
	defer c.Close()
	list, err := c.List(ctx)
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(env.Stdout, list)
	}
	for _, st := range list {
		_, err := fmt.Fprintf(env.Stdout, "%-10s %-5s %-40s %s  (%d messages, %d bytes, %d reconnects, %s)\n",
			st.State, st.Mode, st.Target, st.Aname, st.Requests, st.Bytes, st.Reconnects,
			time.Since(st.Since).Round(time.Second))
		if err != nil {
			return err
		}
	}
	return nil
}
