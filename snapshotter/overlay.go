package snapshotter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"go.uber.org/zap"
)

// overlayOptions completes the configured options with what this kernel needs.
func overlayOptions(root string, configured []string, log *zap.Logger) []string {
	options := slices.Clone(configured)
	if !hasOption(options, "userxattr") {
		needed, err := overlayutils.NeedsUserXAttr(root)
		if err != nil {
			log.Warn("cannot tell whether overlay needs userxattr", zap.Bool("assumed", needed), zap.Error(err))
		}
		if needed {
			options = append(options, "userxattr")
		}
	}
	// With an index, an upper directory is bound to one lower for ever, and a lower
	// that was mounted anew is refused.
	if !hasOption(options, "index") {
		if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil {
			options = append(options, "index=off")
		}
	}
	return options
}

func hasOption(options []string, key string) bool {
	return slices.ContainsFunc(options, func(o string) bool {
		name, _, _ := strings.Cut(o, "=")
		return name == key
	})
}

func (s *Snapshotter) dir(id string) string  { return filepath.Join(s.snapshots, id) }
func (s *Snapshotter) fs(id string) string   { return filepath.Join(s.snapshots, id, "fs") }
func (s *Snapshotter) work(id string) string { return filepath.Join(s.snapshots, id, "work") }

// mapped is the link to the chain below as snapshot id is to see it.
func (s *Snapshotter) mapped(id string) string { return filepath.Join(s.snapshots, id, "lower") }

// lower is what a snapshot is put on.
type lower struct {
	ancestry
	shifting
	target string // where the chain is mounted, if there is one
}

// mounts describes the file system of an active or view snapshot.
func (s *Snapshotter) mounts(kind snapshots.Kind, id string, below lower) ([]mount.Mount, error) {
	if below.empty() {
		return bind(s.fs(id), kind == snapshots.KindView), nil
	}
	if s.rawMounts != nil && below.chain != "" {
		return s.raw(kind, id, below)
	}
	mapping, err := s.kernelMapping(below)
	if err != nil {
		return nil, err
	}
	if kind == snapshots.KindView {
		if below.chain != "" && len(below.locals) == 0 {
			return bind(below.target, true), nil
		}
		if below.chain == "" && len(below.locals) == 1 {
			return bind(s.fs(below.locals[0]), true, mapping...), nil
		}
	}
	lowers := make([]string, 0, len(below.locals)+1)
	for _, local := range below.locals {
		lowers = append(lowers, s.fs(local))
	}
	if below.chain != "" {
		path := s.fs(below.remoteID)
		if below.byBackend(below.ancestry) {
			path = s.mapped(id)
		}
		if err := s.link(path, below.target); err != nil {
			return nil, err
		}
		lowers = append(lowers, path)
	}
	options := mapping
	if kind == snapshots.KindActive {
		options = append(options, "workdir="+s.work(id), "upperdir="+s.fs(id))
	}
	options = append(options, "lowerdir="+strings.Join(lowers, ":"))
	options = append(options, s.overlay...)
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}, nil
}

// kernelMapping are the options by which containerd maps the owners of layers
// that are directories here.
func (s *Snapshotter) kernelMapping(below lower) ([]string, error) {
	if below.ids.None() || below.chain != "" {
		return nil, nil
	}
	root, err := s.rootAttrs(below)
	if err != nil || !below.byKernel(below.ancestry, root) {
		return nil, err
	}
	return []string{"uidmap=" + below.ids.UID.String(), "gidmap=" + below.ids.GID.String()}, nil
}

func bind(source string, readOnly bool, more ...string) []mount.Mount {
	mode := "rw"
	if readOnly {
		mode = "ro"
	}
	return []mount.Mount{{Type: "bind", Source: source, Options: append(more, mode, "rbind")}}
}

// link makes path, in a snapshot's directory, a symbolic link to where a chain is
// mounted: the fs of a remote snapshot, or what a snapshot has for itself where
// owners are mapped. All lowers then have one parent directory, to which containerd
// shortens long lists (the kernel takes 4096 bytes of options), and whatever
// characters target has, they do not meet the syntax of lowerdir.
// The chain's lock is held.
func (s *Snapshotter) link(path, target string) error {
	if now, err := os.Readlink(path); err == nil && now == target {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("directory of a remote snapshot: %w", err)
	}
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link of a remote snapshot: %w", err)
	}
	if err := os.Symlink(target, next); err != nil {
		return fmt.Errorf("link of a remote snapshot: %w", err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("link of a remote snapshot: %w", err)
	}
	return nil
}
