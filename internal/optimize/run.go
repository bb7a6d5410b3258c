package optimize

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/mount"
	"github.com/nineply/nineply/internal/p9client"
	"github.com/nineply/nineply/internal/source"
)

const (
	// DefaultPeriod is how long a command may run.
	DefaultPeriod = 60 * time.Second
	// grace is how long it may take to end when it is asked to.
	grace = 10 * time.Second
	// patience is how long reads wait for a daemon that went away.
	patience = 60 * time.Second
)

// Run says how an image is run.
type Run struct {
	Command Command
	// Period is how long the command may run before it is stopped; 0: DefaultPeriod,
	// below 0: as long as it likes.
	Period time.Duration
	// Enough, when not nil, ends the run when it is closed.
	Enough <-chan struct{}
	// Runtime is the OCI runtime; "": runc, else crun.
	Runtime string
	// AnyExit takes a command that fails for a start like any other.
	AnyExit bool
	// Output receives what the command prints.
	Output io.Writer
}

// Ran tells how a run went.
type Ran struct {
	Args    []string `json:"args"`
	Exit    int      `json:"exit"`
	Stopped bool     `json:"stopped"` // it ran until it was stopped
	Seconds float64  `json:"seconds"`
}

// runtime finds the program that starts containers, and refuses what cannot work
// before anything is done.
func (r *Run) runtime() (string, error) {
	if os.Geteuid() != 0 {
		return "", fserr.Newf(fserr.Permission, "", "", "running an image needs root, to mount it and to start a container; a profile (--profile FILE) needs none")
	}
	names := []string{"runc", "crun"}
	if r.Runtime != "" {
		names = []string{r.Runtime}
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.Abs(path)
		}
	}
	if r.Runtime != "" {
		return "", fserr.Newf(fserr.NotExist, "", "", "the OCI runtime %s is not there", r.Runtime)
	}
	return "", fserr.Newf(fserr.NotExist, "", "", "no OCI runtime is installed: install runc or crun (Debian and Ubuntu: apt-get install runc), name another with --runtime, or give a profile with --profile FILE")
}

// cell is a container and the mounts it stands on.
type cell struct {
	run     *Run
	runtime string
	dir     string
	id      string
	undo    []func() error // in reverse order
}

// runOn runs an image that h serves under aname, in the directory runDir below
// dir, and leaves nothing mounted there.
func runOn(ctx context.Context, h *host, aname, mode string, img *source.Image, r *Run, dir string, log *zap.Logger) (ran Ran, err error) {
	c := &cell{run: r, dir: filepath.Join(dir, runDir), id: containerID(dir)}
	defer func() { err = errors.Join(err, c.close()) }()
	if c.runtime, err = r.runtime(); err != nil {
		return ran, err
	}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return ran, fmt.Errorf("run: %w", err)
	}
	root, err := c.assemble(ctx, h, aname, mode, log)
	if err != nil {
		return ran, err
	}
	spec, err := newSpec(ctx, c.id, root, img, r.Command)
	if err != nil {
		return ran, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return ran, fmt.Errorf("container: %w", err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "config.json"), text, 0o600); err != nil {
		return ran, fmt.Errorf("container: %w", err)
	}
	ran.Args = spec.Process.Args
	return c.start(ctx, img.Config.Config.StopSignal, ran)
}

// assemble mounts the image, and what is written over it.
func (c *cell) assemble(ctx context.Context, h *host, aname, mode string, log *zap.Logger) (root string, err error) {
	if strings.ContainsAny(c.dir, `,:\`) {
		return "", fserr.Newf(fserr.Invalid, "run", "", "the temporary directory %q has a character in its name that overlayfs does not take", c.dir)
	}
	for _, name := range []string{imageDir, writeDir, rootDir} {
		if err := os.Mkdir(filepath.Join(c.dir, name), 0o755); err != nil {
			return "", fmt.Errorf("run: %w", err)
		}
	}
	dial, err := p9client.ParseAddr(h.ninep)
	if err != nil {
		return "", err
	}
	image := filepath.Join(c.dir, imageDir)
	m, err := mount.New(ctx, image, mount.Options{
		Session: mount.SessionOptions{Dial: dial, Aname: aname, Patience: patience, Logger: log}, Mode: mount.Mode(mode),
	})
	if err != nil {
		if errors.Is(err, syscall.EIO) {
			err = fmt.Errorf("%w (the daemon's log has the cause)", err)
		}
		return "", err
	}
	c.undo = append(c.undo, func() error { return m.Unmount(context.WithoutCancel(ctx), false) })
	root = filepath.Join(c.dir, rootDir)
	if err := c.overlay(image, filepath.Join(c.dir, writeDir), root); err != nil {
		return "", err
	}
	return root, nil
}

// overlay mounts what can be written over the image: on the file system of the
// temporary directory, or in memory where that one cannot be the upper of an overlay.
func (c *cell) overlay(lower, write, root string) error {
	try := func() error {
		upper, work := filepath.Join(write, "upper"), filepath.Join(write, "work")
		for _, dir := range []string{upper, work} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("overlay: %w", err)
			}
		}
		opts := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work
		if err := unix.Mount("overlay", root, "overlay", 0, opts); err != nil {
			return fmt.Errorf("overlay: %w", err)
		}
		c.undo = append(c.undo, func() error { return detach(root) })
		return nil
	}
	err := try()
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	if merr := unix.Mount("tmpfs", write, "tmpfs", 0, "mode=0755"); merr != nil {
		return errors.Join(err, fmt.Errorf("tmpfs: %w", merr))
	}
	c.undo = append(c.undo, func() error { return detach(write) })
	return try()
}

// detach takes a mount away, at the latest when its last user is gone.
func detach(target string) error { return mount.Detach(target, true) }

// close takes everything away again, last first.
func (c *cell) close() error {
	var errs []error
	for i := len(c.undo) - 1; i >= 0; i-- {
		errs = append(errs, c.undo[i]())
	}
	c.undo = nil
	return errors.Join(errs...)
}

// runc makes a call of the OCI runtime.
func (c *cell) runc(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.runtime, append([]string{"--root", filepath.Join(c.dir, stateDir)}, args...)...)
	// A signal from the terminal is ours to pass on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// start runs the container until it ends, or until that is enough.
func (c *cell) start(ctx context.Context, signal string, ran Ran) (Ran, error) {
	cleanup := context.WithoutCancel(ctx)
	cmd := c.runc(cleanup, "run", "--bundle", c.dir, c.id)
	tail := &tail{}
	out := output(c.run.Output, tail)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = grace
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return ran, fmt.Errorf("run: %w", err)
	}
	c.undo = append(c.undo, func() error {
		// Nothing is left of one that ended; what it says of that is of no use.
		_ = c.runc(cleanup, "delete", "--force", c.id).Run()
		return nil
	})
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	err := c.await(ctx, exited, signal, &ran)
	ran.Seconds = time.Since(began).Seconds()
	if cmd.ProcessState != nil {
		ran.Exit = cmd.ProcessState.ExitCode()
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return ran, fserr.New(fserr.Canceled, "run", "", ctx.Err())
	case errors.As(err, &exit) && (ran.Stopped || c.run.AnyExit):
		return ran, nil
	case errors.As(err, &exit):
		return ran, fserr.Newf(fserr.Invalid, "run", "", "the command ended with status %d, so that nothing was written: %s", exit.ExitCode(), tail)
	}
	return ran, err
}

// output writes to both, of which the first may be nil.
func output(w io.Writer, t *tail) io.Writer {
	if w == nil {
		return t
	}
	return io.MultiWriter(w, t)
}

// await waits for the end of the container, and brings it about when it is time.
func (c *cell) await(ctx context.Context, exited <-chan error, signal string, ran *Ran) error {
	var over <-chan time.Time
	if period := c.run.Period; period >= 0 {
		if period == 0 {
			period = DefaultPeriod
		}
		timer := time.NewTimer(period)
		defer timer.Stop()
		over = timer.C
	}
	patience := grace
	select {
	case err := <-exited:
		return err
	case <-over:
	case <-c.run.Enough:
	case <-ctx.Done():
		patience = 0
	}
	ran.Stopped = true
	if signal == "" {
		signal = "TERM"
	}
	if patience > 0 {
		c.signal(ctx, signal)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-exited:
		return err
	case <-timer.C:
	case <-ctx.Done():
	}
	c.signal(ctx, "KILL")
	return <-exited
}

// signal has the container's processes told. That it has ended meanwhile shows in
// its exit.
func (c *cell) signal(ctx context.Context, name string) {
	_ = c.runc(context.WithoutCancel(ctx), "kill", c.id, name).Run()
}

// tail keeps the end of what a command printed, for errors.
type tail struct{ text []byte }

// maxTail is how much of it, bytes.
const maxTail = 500

// Write implements io.Writer. Commands whose outputs are one writer call it from
// one goroutine.
func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-maxTail):]
	return len(p), nil
}

// String gives the end of the output.
func (t *tail) String() string {
	if text := strings.TrimSpace(string(t.text)); text != "" {
		return text
	}
	return "it printed nothing"
}
