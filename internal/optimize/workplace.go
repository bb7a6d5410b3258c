package optimize

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/mount"
)

// A directory that something is run in has a file that is locked as long as its
// process lives. What a process that was killed left there, the next one takes away.

const (
	dirPattern = "nineply-optimize-*"
	lockName   = "lock"
	// What a run has below its directory.
	runDir   = "run"
	imageDir = "image"
	writeDir = "write"
	rootDir  = "root"
	stateDir = "state"
)

// workplace makes a directory, and a function that removes it.
func workplace(parent string) (dir string, remove func() error, err error) {
	if dir, err = os.MkdirTemp(parent, dirPattern); err != nil {
		return "", nil, fmt.Errorf("temporary directory: %w", err)
	}
	gone := func() error { return os.RemoveAll(dir) }
	lock, err := os.OpenFile(filepath.Join(dir, "new"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", nil, fmt.Errorf("temporary directory: %w", errors.Join(err, gone()))
	}
	// Under its name it is there only when it is locked.
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = os.Rename(lock.Name(), filepath.Join(dir, lockName))
	}
	if err != nil {
		return "", nil, fmt.Errorf("temporary directory: %w", errors.Join(err, lock.Close(), gone()))
	}
	return dir, func() error { return errors.Join(gone(), lock.Close()) }, nil
}

// sweep takes away what killed processes of this user left below parent.
func sweep(ctx context.Context, parent, runtime string) error {
	if parent == "" {
		parent = os.TempDir()
	}
	dirs, err := filepath.Glob(filepath.Join(parent, dirPattern))
	if err != nil {
		return fmt.Errorf("temporary directory: %w", err)
	}
	var errs []error
	for _, dir := range dirs {
		if err := clearAway(ctx, dir, runtime); err != nil {
			errs = append(errs, fmt.Errorf("what an earlier run left: %w", err))
		}
	}
	return errors.Join(errs...)
}

// clearAway removes a directory that nobody has locked, with its container and mounts.
func clearAway(ctx context.Context, dir, runtime string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// One of somebody else could lead anywhere.
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() {
		return nil
	}
	lock, err := os.Open(filepath.Join(dir, lockName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is just being made
	}
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // read side
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil
		}
		return fmt.Errorf("%s: %w", lock.Name(), err)
	}
	run := filepath.Join(dir, runDir)
	if _, err := os.Lstat(filepath.Join(run, stateDir)); err == nil {
		// Of one that is gone nothing is left to delete; mounts in use show below.
		_ = exec.CommandContext(ctx, runtime, "--root", filepath.Join(run, stateDir), "delete", "--force", containerID(dir)).Run()
	}
	for _, name := range []string{rootDir, writeDir, imageDir} {
		if err := mount.Detach(filepath.Join(run, name), true); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// containerID is the container's that runs in a directory.
func containerID(dir string) string { return filepath.Base(dir) }
