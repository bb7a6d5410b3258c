package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/keeper"
	"github.com/nineply/nineply/internal/mount"
	"go.uber.org/zap"
)

// keeperStart is how long a keeper may take from its start until it answers.
const keeperStart = 10 * time.Second

// keeperAPI is the keeper as the service sees it.
type keeperAPI struct{ client *keeper.Client }

var _ keeperClient = keeperAPI{}

// Mount implements keeperClient.
func (k keeperAPI) Mount(ctx context.Context, aname, target, mode string) error {
	m := mount.Mode(mode)
	if mode == "auto" {
		m = ""
	}
	_, err := k.client.Mount(ctx, aname, target, m)
	return err
}

// Unmount implements keeperClient.
func (k keeperAPI) Unmount(ctx context.Context, target string) error {
	return k.client.Unmount(ctx, target, false)
}

// Mounts implements keeperClient.
func (k keeperAPI) Mounts(ctx context.Context) ([]control.Mount, error) {
	list, err := k.client.List(ctx)
	if err != nil {
		return nil, err
	}
	mounts := make([]control.Mount, len(list))
	for i, st := range list {
		mounts[i] = control.Mount{
			Aname: st.Aname, Target: st.Target, Mode: string(st.Mode), State: string(st.State),
			Requests: st.Requests, Bytes: st.Bytes, Reconnects: st.Reconnects,
		}
	}
	return mounts, nil
}

// keeper connects to the process that holds mounts, and starts it if there is
// none: detached, so that it outlives this daemon. What only a keeper of this host
// can use is there before.
func (p *parts) keeper(ctx context.Context, program string) error {
	p.hostLinks(ctx)
	_, socket, err := config.SplitAddress(p.cfg.Listen.Keeper)
	if err != nil {
		return err
	}
	client := keeper.NewClient(socket)
	p.onClose(func() error { client.Close(); return nil })
	p.service.keeper = keeperAPI{client}
	if _, err := client.Health(ctx); err == nil || program == "none" {
		return nil
	}
	if program == "" {
		program, err = findKeeper()
		if err != nil {
			p.log.Warn("no mounts can be made: no keeper runs, and its program was not found", zap.Error(err))
			return nil
		}
	}
	return p.startKeeper(ctx, client, program, socket)
}

// findKeeper looks for nineply-mount beside this program, then in PATH.
func findKeeper() (string, error) {
	self, err := os.Executable()
	if err == nil {
		beside := filepath.Join(filepath.Dir(self), "nineply-mount")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	return exec.LookPath("nineply-mount")
}

func (p *parts) startKeeper(ctx context.Context, client *keeper.Client, program, socket string) (err error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	logFile, err := os.OpenFile(filepath.Join(p.cfg.State, "keeper.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	defer func() { err = errors.Join(err, logFile.Close()) }()
	// Not CommandContext: the keeper has to go on when ctx ends.
	cmd := exec.Command(program, "serve", "--socket", socket, "--connect", p.cfg.Listen.NineP[0]) //nolint:noctx // it outlives the daemon
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the keeper: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }() // reaps it; ends with the keeper or with this process
	p.log.Info("keeper started", zap.String("program", program), zap.Int("pid", cmd.Process.Pid))
	return awaitKeeper(ctx, client, exited, logFile.Name())
}

// awaitKeeper waits until a keeper answers.
func awaitKeeper(ctx context.Context, client *keeper.Client, exited <-chan error, logName string) error {
	ctx, cancel := context.WithTimeout(ctx, keeperStart)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := client.Health(ctx)
		if err == nil {
			return nil
		}
		select {
		case werr := <-exited:
			return fserr.Newf(fserr.Unavailable, "keeper", "", "it ended at once (%v); see %s", werr, logName)
		case <-ctx.Done():
			return fserr.Newf(fserr.Unavailable, "keeper", "", "it does not answer; see %s: %w", logName, err)
		case <-tick.C:
		}
	}
}
