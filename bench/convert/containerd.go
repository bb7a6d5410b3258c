package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	imageName     = "bench.invalid/layer:v1"
	convertedName = "bench.invalid/layer:converted"
)

// containerd is a daemon with directories and a socket of its own.
type containerd struct {
	cmd    *exec.Cmd
	dir    string
	socket string
	known  map[string]bool // blobs of the image itself
}

const containerdConfig = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "%[1]s/c.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "%[1]s/opt"
`

// startContainerd starts Debian's containerd and waits until it serves.
func startContainerd(ctx context.Context, dir string) (*containerd, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, containerdConfig, dir), 0o600); err != nil {
		return nil, err
	}
	c := &containerd{dir: dir, socket: filepath.Join(dir, "c.sock")}
	c.cmd = exec.CommandContext(ctx, "/usr/bin/containerd", "--config", config)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	for range 300 {
		if quiet(ctx, "ctr", "-a", c.socket, "--connect-timeout", "1s", "version") == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), c.stop())
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil, errors.Join(errors.New("containerd does not serve"), c.stop())
}

func (c *containerd) stop() error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := c.cmd.Wait()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return nil // it was told to
	}
	return err
}

// cpu is the CPU time that the daemon has taken.
func (c *containerd) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	if len(fields) < 13 {
		return 0, fmt.Errorf("stat of %d fields", len(fields))
	}
	user, err := ticks(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := ticks(fields[12])
	return user + system, err
}

// blobs calls fn for each blob of the content store.
func (c *containerd) blobs(fn func(digest string, size int64)) error {
	return filepath.WalkDir(filepath.Join(c.dir, "root", "io.containerd.content.v1.content", "blobs"),
		func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			info, err := e.Info()
			if err == nil {
				fn(filepath.Base(path), info.Size())
			}
			return err
		})
}

// remember notes which blobs are the image's own.
func (c *containerd) remember() error {
	c.known = make(map[string]bool)
	return c.blobs(func(digest string, _ int64) { c.known[digest] = true })
}

// largestNew gives the size of the largest blob that came with a conversion.
func (c *containerd) largestNew() (size int64, err error) {
	err = c.blobs(func(digest string, n int64) {
		if !c.known[digest] {
			size = max(size, n)
		}
	})
	return size, err
}
