package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/vm/internal/bootspec"
)

const (
	lowerDir = "/nineply-lower"
	freshDir = "/nineply-fresh"
	newRoot  = "/nineply-root"
)

// enterRoot makes the root in which the command runs: the lower directory with
// a tmpfs over it, so that a guest can write anywhere and harm nothing; or the
// initramfs itself.
func enterRoot(spec *bootspec.Spec) error {
	root := "/"
	if spec.Root.Type != "" {
		root = newRoot
		if err := mountRoot(spec.Root); err != nil {
			return err
		}
	}
	for _, share := range spec.Shares {
		share.Target = filepath.Join(root, share.Target)
		if err := mount(share); err != nil {
			return err
		}
	}
	if err := placeFiles(spec, root); err != nil {
		return err
	}
	if root == "/" {
		return nil
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	return os.Chdir("/")
}

func mountRoot(lower bootspec.Mount) error {
	lower.Target, lower.ReadOnly = lowerDir, true
	if err := mount(lower); err != nil {
		return err
	}
	if err := mount(bootspec.Mount{Source: "tmpfs", Target: freshDir, Type: "tmpfs"}); err != nil {
		return err
	}
	for _, dir := range []string{freshDir + "/upper", freshDir + "/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("root: %w", err)
		}
	}
	err := mount(bootspec.Mount{
		Source: "root", Target: newRoot, Type: "overlay",
		Options: "lowerdir=" + lowerDir + ",upperdir=" + freshDir + "/upper,workdir=" + freshDir + "/work",
	})
	if err != nil {
		return err
	}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run"} {
		if err := os.MkdirAll(newRoot+dir, 0o755); err != nil {
			return fmt.Errorf("root: %w", err)
		}
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s into the root: %w", dir, err)
		}
	}
	return mount(bootspec.Mount{Source: "tmpfs", Target: newRoot + "/tmp", Type: "tmpfs", Options: "mode=1777"})
}

func placeFiles(spec *bootspec.Spec, root string) error {
	run := filepath.Join(root, bootspec.RunDir)
	if err := os.MkdirAll(run, 0o755); err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	if err := copyFile("/init", filepath.Join(run, "signal"), 0o755); err != nil {
		return err
	}
	for _, f := range spec.Files {
		to := filepath.Join(root, f.Path)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return fmt.Errorf("place %s: %w", f.Path, err)
		}
		if err := copyFile(filepath.Join(bootspec.FileDir, f.Name), to, os.FileMode(f.Mode)); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string, mode os.FileMode) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("place %s: %w", to, err)
	}
	defer src.Close() //nolint:errcheck // only read
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("place %s: %w", to, err)
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("place %s: %w", to, err)
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if _, err := io.Copy(dst, src); err != nil {
		return fmt.Errorf("place %s: %w", to, err)
	}
	return nil
}
