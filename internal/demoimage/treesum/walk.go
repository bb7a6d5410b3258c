package treesum

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Options choose what is listed.
type Options struct {
	// SkipContent leaves Sum empty: only metadata is read.
	SkipContent bool
	// SkipXattrs leaves Xattrs empty.
	SkipXattrs bool
}

// Walk lists everything at and below root, sorted by path. Mount points inside
// are crossed. It fails at the first path that cannot be read completely.
func Walk(root string, opts Options) ([]Node, error) {
	var nodes []Node
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		node, err := Stat(path, opts)
		if err != nil {
			return err
		}
		node.Path, err = filepath.Rel(root, path)
		nodes = append(nodes, node)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list tree %s: %w", root, err)
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Path, b.Path) })
	return nodes, nil
}

// Stat lists one path; Node.Path is left empty.
func Stat(path string, opts Options) (Node, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return Node{}, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	n := Node{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, NLink: st.Nlink,
		Size: st.Size, Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec,
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.Size = 0
	case unix.S_IFCHR, unix.S_IFBLK:
		n.Major, n.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case unix.S_IFLNK:
		n.Target, err = os.Readlink(path)
	case unix.S_IFREG:
		if !opts.SkipContent {
			n.Sum, err = sum(path)
		}
	}
	if err == nil && !opts.SkipXattrs {
		n.Xattrs, err = xattrs(path)
	}
	return n, err
}

func sum(path string) (_ string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func xattrs(path string) (map[string]string, error) {
	names, err := grow(func(p []byte) (int, error) { return unix.Llistxattr(path, p) })
	if errors.Is(err, unix.ENOTSUP) || (err == nil && len(names) == 0) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "llistxattr", Path: path, Err: err}
	}
	found := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		value, err := grow(func(p []byte) (int, error) { return unix.Lgetxattr(path, name, p) })
		if err != nil {
			return nil, &fs.PathError{Op: "lgetxattr " + name, Path: path, Err: err}
		}
		found[name] = string(value)
	}
	return found, nil
}

// grow calls read with larger buffers until the value fits; the kernel's limit
// for both lists and values is 64 KiB.
func grow(read func([]byte) (int, error)) ([]byte, error) {
	for size := 1 << 10; ; size *= 8 {
		p := make([]byte, size)
		n, err := read(p)
		if err == nil {
			return p[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || size > 64<<10 {
			return nil, err
		}
	}
}
