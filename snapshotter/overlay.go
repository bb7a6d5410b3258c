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

// mounts describes the file system of an active or view snapshot. target is
// where the chain below is mounted, if there is one.
func (s *Snapshotter) mounts(kind snapshots.Kind, id string, below ancestry, target string) ([]mount.Mount, error) {
	if below.empty() {
		return bind(s.fs(id), kind == snapshots.KindView), nil
	}
	if kind == snapshots.KindView {
		if below.chain != "" && len(below.locals) == 0 {
			return bind(target, true), nil
		}
		if below.chain == "" && len(below.locals) == 1 {
			return bind(s.fs(below.locals[0]), true), nil
		}
	}
	lowers := make([]string, 0, len(below.locals)+1)
	for _, local := range below.locals {
		lowers = append(lowers, s.fs(local))
	}
	if below.chain != "" {
		if err := s.link(below.remoteID, target); err != nil {
			return nil, err
		}
		lowers = append(lowers, s.fs(below.remoteID))
	}
	var options []string
	if kind == snapshots.KindActive {
		options = append(options, "workdir="+s.work(id), "upperdir="+s.fs(id))
	}
	options = append(options, "lowerdir="+strings.Join(lowers, ":"))
	options = append(options, s.overlay...)
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}, nil
}

func bind(source string, readOnly bool) []mount.Mount {
	mode := "rw"
	if readOnly {
		mode = "ro"
	}
	return []mount.Mount{{Type: "bind", Source: source, Options: []string{mode, "rbind"}}}
}

// link makes the fs of a remote snapshot a symbolic link to where its chain is
// mounted. All lowers then have one parent directory, to which containerd
// shortens long lists (the kernel takes 4096 bytes of options), and whatever
// characters target has, they do not meet the syntax of lowerdir.
// The chain's lock is held.
func (s *Snapshotter) link(id, target string) error {
	path := s.fs(id)
	if now, err := os.Readlink(path); err == nil && now == target {
		return nil
	}
	if err := os.MkdirAll(s.dir(id), 0o700); err != nil {
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
