package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The servers, by the names that the rows have.
const (
	oursName      = "ours"
	diodName      = "diod"
	otherName     = "p9"
	otherTreeName = "p9-tree"
	echoName      = "echo"
	beforeName    = "before"
)

// server is a process that serves.
type server struct {
	name   string
	socket string
	aname  string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

// startServers starts all of them, Nineply's first. Those that started are given
// with an error, too.
func startServers(ctx context.Context, dir, before string) (list []*server, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{oursName, beforeName, otherName, otherTreeName, echoName} {
		program, kind := self, name
		if name == beforeName {
			program, kind = before, oursName
		}
		if program == "" {
			continue
		}
		s := &server{name: name, socket: filepath.Join(dir, name+".sock")}
		s.cmd = exec.CommandContext(ctx, program, "-serve", kind, "-socket", s.socket, "-dir", dir, "-data", filepath.Join(dir, name+".data"))
		if err := s.start(ctx); err != nil {
			return list, err
		}
		list = append(list, s)
	}
	if program, err := exec.LookPath("diod"); err == nil {
		tree := filepath.Join(dir, treeDir)
		s := &server{name: diodName, socket: filepath.Join(dir, "diod.sock"), aname: tree}
		s.cmd = exec.CommandContext(ctx, program, "-f", "-n", "-N", "-c", os.DevNull, "-l", s.socket, "-e", tree, "-L", filepath.Join(dir, "diod.log"))
		if err := s.start(ctx); err != nil {
			return list, err
		}
		list = append(list, s)
	} else {
		fmt.Fprintln(os.Stderr, "ninep: diod is not installed (Debian package diod): its rows are left out")
	}
	return list, nil
}

// startTimeout is for filling a cache as well.
const startTimeout = time.Minute

func (s *server) start(ctx context.Context) (err error) {
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	s.stdout = bufio.NewReader(stdout)
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", s.name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		var d net.Dialer
		nc, err := d.DialContext(ctx, "unix", s.socket)
		if err == nil {
			return nc.Close()
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("starting %s: %w", s.name, err), s.stop())
		}
	}
}

// stop ends the process.
func (s *server) stop() error {
	_ = s.stdin.Close() // ends those of this command
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		if exit := new(exec.ExitError); !errors.As(err, &exit) {
			return fmt.Errorf("stopping %s: %w", s.name, err)
		}
	}
	return nil
}

// cpu is how long the process has run on a processor.
func (s *server) cpu() (sum time.Duration, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		if ns, _, ok := strings.Cut(string(text), " "); ok {
			n, err := strconv.ParseInt(ns, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", name, err)
			}
			sum += time.Duration(n)
		}
	}
	return sum, nil
}

// memory is the state of a server's heap.
type memory struct {
	Mallocs uint64 // since it began
	Heap    uint64 // bytes in use
}

// What a server of this command can be asked for.
const (
	askMallocs = "mallocs"
	askHeap    = "heap" // after a collection
)

func (s *server) memory(what string) (m memory, err error) {
	if _, err := fmt.Fprintln(s.stdin, what); err != nil {
		return m, err
	}
	line, err := s.stdout.ReadBytes('\n')
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(line, &m)
}
