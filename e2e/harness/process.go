package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nineply/nineply/vm/vmtest"
)

const (
	// readyTime is how long a program may take until it answers.
	readyTime = 60 * time.Second
	// stopTime is how long a program may take to end when asked to.
	stopTime = 30 * time.Second
	// pollTime is how often a program is asked whether it is ready.
	pollTime = 20 * time.Millisecond
	// logTail is how much of a program's log a failed test shows.
	logTail = 6000
)

// Process is a program that runs beside the test.
type Process struct {
	Name string
	Log  string // file with its standard output and error
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid after done
}

// Dir makes a private directory with a short path, since unix sockets and
// overlay options have little room, and removes it when the test ends.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "np")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		CheckLeftovers(t, dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove what the test made: %v", err)
		}
	})
	return dir
}

// lookPath finds a program or skips the test.
func lookPath(t testing.TB, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		vmtest.Require(t, fmt.Errorf("%s is not installed (package %s): %w", name, debianPackage, err))
	}
	return path
}

// Start starts a program with its output in a file of dir. It is stopped when
// the test ends, if it still runs then.
func Start(t testing.TB, dir, name string, env []string, argv ...string) *Process {
	t.Helper()
	p := &Process{Name: name, Log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = errors.Join(p.cmd.Start(), log.Close())
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.Stop(t)
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, p.Tail())
		}
	})
	return p
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Stop asks the process to end and waits; one that does not is killed and fails
// the test. Stopping what has ended does nothing.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	if !p.Running() {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTime):
		t.Errorf("%s did not end in %v", p.Name, stopTime)
		p.Kill()
	}
}

// Kill kills the process without warning, as a crash would, and waits.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Tail is the end of the process's log.
func (p *Process) Tail() string {
	text, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	if len(text) > logTail {
		text = text[len(text)-logTail:]
		if at := bytes.IndexByte(text, '\n'); at >= 0 {
			text = text[at+1:]
		}
	}
	return string(text)
}

// Await asks ready again and again until it is nil; the test fails if the
// process ends first or too much time passes.
func (p *Process) Await(t testing.TB, ready func() error) {
	t.Helper()
	deadline := time.Now().Add(readyTime)
	for {
		err := ready()
		if err == nil {
			return
		}
		select {
		case <-p.done:
			t.Fatalf("%s ended: %v\n%s", p.Name, p.err, p.Tail())
		case <-time.After(pollTime):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not ready: %v\n%s", p.Name, err, p.Tail())
		}
	}
}

// Run runs a command to its end and returns its standard output; its failure is
// the test's.
func Run(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := TryRun(t, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TryRun runs a command to its end and returns its standard output; the error
// has its standard error.
func TryRun(t testing.TB, argv ...string) (string, error) {
	t.Helper()
	return runCommand(t.Context(), argv)
}

// cleanup runs a command when the test has ended, and its context with it.
func cleanup(t testing.TB, argv ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if _, err := runCommand(ctx, argv); err != nil {
		t.Error(err)
	}
}

func runCommand(ctx context.Context, argv []string) (string, error) {
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%q: %w\n%s", argv, err, stderr.Bytes())
	}
	return out.String(), nil
}
