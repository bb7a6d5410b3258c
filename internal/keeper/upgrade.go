package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
)

const upgradeAbout = `upgrade replaces the program of a running keeper under its mounts: the keeper
starts its executable anew, which by now may be another version, with the
arguments it was started with, and hands it everything. Nothing is unmounted, and
no read fails. If the new program cannot take over, the old one goes on.`

// runUpgrade asks a keeper to replace itself.
func runUpgrade(ctx context.Context, args []string, env *Env) error {
	fs := flags(env, "upgrade", "", upgradeAbout)
	socket := fs.String("socket", defaultSocket, "control socket of the keeper")
	if _, err := parse(fs, args, 0); err != nil {
		return err
	}
	p, err := dialPredecessor(ctx, *socket)
	if err != nil {
		return err
	}
	err = p.send(handoverHello{Version: handoverVersion, Upgrade: true})
	var head handoverHead
	if err == nil {
		_, err = p.receive(&head, 0)
	}
	if err == nil {
		err = head.check()
	}
	if err = errors.Join(err, p.c.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(env.Stdout, "process %d holds the mounts now\n", head.PID)
	return err
}

// visitor is somebody who connected to the handover socket and said what for.
type visitor struct {
	p       packets
	upgrade bool
	pid     int
}

// door takes visitors in, one after another.
type door struct {
	ln       *net.UnixListener
	visitors chan visitor
	log      *zap.Logger
	wg       sync.WaitGroup
}

// openDoor listens for successors of the keeper whose control socket is at path.
// Whoever calls it holds the lock.
func openDoor(ctx context.Context, path string, log *zap.Logger) (*door, error) {
	path += handoverSuffix
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("handover socket: %w", err)
	}
	ln, err := net.ListenUnix(handoverNetwork, &net.UnixAddr{Name: path, Net: handoverNetwork})
	if err != nil {
		return nil, fmt.Errorf("handover socket: %w", err)
	}
	ln.SetUnlinkOnClose(false) // a successor has its own there
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("handover socket: %w", err), ln.Close())
	}
	d := &door{ln: ln, visitors: make(chan visitor), log: log}
	d.wg.Add(1)
	go d.accept(ctx)
	return d, nil
}

// helloWait is how long somebody who connected may take to say what for.
const helloWait = 5 * time.Second

func (d *door) accept(ctx context.Context) {
	defer d.wg.Done()
	for {
		c, err := d.ln.AcceptUnix()
		if err != nil {
			return
		}
		v, err := greet(c)
		if err == nil {
			select {
			case d.visitors <- v:
				continue
			case <-ctx.Done():
			}
		} else {
			d.log.Warn("visitor refused", zap.Error(err))
		}
		_ = c.Close() // nothing was promised
	}
}

// greet lets root and the keeper's own user in.
func greet(c *net.UnixConn) (v visitor, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return v, err
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, cerr); err != nil {
		return v, err
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return v, fserr.Newf(fserr.Permission, "hand over", "", "to user %d", cred.Uid)
	}
	if err := c.SetDeadline(time.Now().Add(helloWait)); err != nil {
		return v, err
	}
	p := packets{c}
	var hello handoverHello
	if _, err := p.receive(&hello, 0); err != nil {
		return v, err
	}
	if hello.Version != handoverVersion {
		err := fserr.Newf(fserr.Unsupported, "hand over", "", "version %d, want %d", hello.Version, handoverVersion)
		return v, errors.Join(err, p.refuse(err))
	}
	return visitor{p: p, upgrade: hello.Upgrade, pid: int(cred.Pid)}, c.SetDeadline(time.Now().Add(handoverWait))
}

func (p packets) refuse(err error) error {
	return p.send(handoverHead{Version: handoverVersion, Kind: fserr.KindOf(err).String(), Error: err.Error()})
}

// close ends it; ctx of openDoor has ended.
func (d *door) close() {
	_ = d.ln.Close() // nothing is left to lose
	d.wg.Wait()
}

// child is the program that the keeper started to be replaced by.
type child struct {
	asked packets // who wants to know
	ended chan error
	pid   int
}

// startSuccessor runs this program's executable, as it is on disk now.
func startSuccessor(ctx context.Context, args []string, asked packets) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), strings.TrimSuffix(self, " (deleted)"))
	cmd.Args = args
	if args[len(args)-1] != takeoverFlag {
		cmd.Args = append(append([]string(nil), args...), takeoverFlag)
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "WATCHDOG_PID=") { // which is not the child
			cmd.Env = append(cmd.Env, v)
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start successor: %w", err)
	}
	c := &child{asked: asked, ended: make(chan error, 1), pid: cmd.Process.Pid}
	go func() { // ends with the child, or with this process
		err := cmd.Wait()
		c.ended <- fserr.Newf(fserr.Internal, "upgrade", "", "the new program ended without taking over: %v", err)
	}()
	return c, nil
}

// notifySuccessor tells the service manager who is the main process from now on.
func notifySuccessor(pid int, log *zap.Logger) {
	if _, err := daemon.SdNotify(false, fmt.Sprintf("MAINPID=%d", pid)); err != nil {
		log.Warn("service manager not told of the successor", zap.Error(err))
	}
}
