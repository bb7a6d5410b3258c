package demoimage

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/demoimage/treesum"
)

const (
	whiteoutPrefix = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

// Untar extracts tar.gz layers, bottom first, over each other in dir as a
// container engine would: GNU tar writes the files with owners, modes, times,
// devices and all extended attributes, after what a layer hides of the layers
// below was removed. It needs root and GNU tar. Layers must be from a trusted
// source: names are not checked for leaving dir.
func Untar(ctx context.Context, layers []string, dir string) error {
	for _, layer := range layers {
		if err := applyHiding(layer, dir); err != nil {
			return fmt.Errorf("extract layer %s: %w", layer, err)
		}
		err := run(exec.CommandContext(ctx, "tar", "--extract", "--gzip", "--file", layer, "--directory", dir,
			"--xattrs", "--xattrs-include=*", "--same-owner", "--same-permissions", "--numeric-owner",
			"--delay-directory-restore", "--exclude=.wh.*"))
		if err != nil {
			return fmt.Errorf("extract layer %s: %w", layer, err)
		}
	}
	return nil
}

// applyHiding removes from dir what the layer hides there: paths with a
// whiteout, the contents of opaque directories, and whatever is replaced by
// something that is not a directory in both. Directories in both lose their
// extended attributes, since those of the upper one count alone.
func applyHiding(layer, dir string) (err error) {
	f, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	compressed, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	archive := tar.NewReader(compressed)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := hide(filepath.Join(dir, header.Name), header.Typeflag == tar.TypeDir); err != nil {
			return err
		}
	}
}

func hide(path string, isDir bool) error {
	parent, name := filepath.Split(path)
	if name == opaqueWhiteout {
		return removeChildren(parent)
	}
	if hidden, ok := strings.CutPrefix(name, whiteoutPrefix); ok {
		return os.RemoveAll(filepath.Join(parent, hidden))
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	if !isDir || !info.IsDir() {
		return os.RemoveAll(path)
	}
	node, err := treesum.Stat(path, treesum.Options{})
	if err != nil {
		return err
	}
	for xattr := range node.Xattrs {
		if err := unix.Lremovexattr(path, xattr); err != nil {
			return &fs.PathError{Op: "lremovexattr " + xattr, Path: path, Err: err}
		}
	}
	return nil
}

// removeChildren empties a directory of the layers below, if there is one.
func removeChildren(dir string) error {
	children, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := os.RemoveAll(filepath.Join(dir, child.Name())); err != nil {
			return err
		}
	}
	return nil
}
