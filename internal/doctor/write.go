package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
)

// keptSuffix ends the name under which a configuration that was changed is kept.
const keptSuffix = ".before-nineply"

// CheckContainerd says whether containerd's configuration has all that the
// snapshotter needs under that name, for the version that is installed.
func CheckContainerd(ctx context.Context, o Options, name string, cri bool) Finding {
	_, changes, finding := o.complete(ctx, name, cri)
	if finding.Level != "" {
		return finding
	}
	if len(changes) == 0 {
		return Finding{configCheck, OK, fmt.Sprintf("%s has all that the snapshotter %q needs", o.ContainerdConfig, name), ""}
	}
	return Finding{configCheck, Warn, fmt.Sprintf("%s lacks: %s", o.ContainerdConfig, strings.Join(changes, "; ")), "nineply doctor --containerd --write"}
}

// WriteContainerd adds what CheckContainerd misses. The file as it was is kept
// beside it, the first time, since comments are lost.
func WriteContainerd(ctx context.Context, o Options, name string, cri bool) Finding {
	text, changes, finding := o.complete(ctx, name, cri)
	if finding.Level != "" {
		return finding
	}
	if len(changes) == 0 {
		return CheckContainerd(ctx, o, name, cri)
	}
	if err := replace(o.ContainerdConfig, text); err != nil {
		return Finding{configCheck, Fail, err.Error(), ""}
	}
	return Finding{configCheck, OK, fmt.Sprintf("%s was changed: %s", o.ContainerdConfig, strings.Join(changes, "; ")), "restart containerd"}
}

const configCheck = "containerd configuration"

// complete gives the configuration as it should be. A finding with a level says
// why there is none.
func (o Options) complete(ctx context.Context, name string, cri bool) ([]byte, []string, Finding) {
	failed := func(err error, fix string) ([]byte, []string, Finding) {
		return nil, nil, Finding{configCheck, Fail, err.Error(), fix}
	}
	path, err := o.LookPath("containerd")
	if err != nil {
		return failed(err, "apt-get install containerd")
	}
	output, err := o.Output(ctx, path, "--version")
	if err != nil {
		return failed(fmt.Errorf("%s --version: %w", path, err), "")
	}
	release, err := ParseRelease(output)
	if err != nil {
		return failed(fmt.Errorf("%s --version: %w", path, err), "")
	}
	text, err := os.ReadFile(o.ContainerdConfig)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed(err, "")
	}
	_, address, _ := strings.Cut(o.Config.Listen.Snapshotter, ":")
	reg := Registration{Release: release, Name: name, Address: address, Root: o.Config.Root, CRI: cri}
	out, changes, err := reg.Complete(text)
	if err != nil {
		return failed(fmt.Errorf("%s: %w", o.ContainerdConfig, err), "")
	}
	return out, changes, Finding{}
}

// replace writes a file anew, at once or not at all, and keeps the first that was
// there.
func replace(path string, text []byte) error {
	mode := fs.FileMode(0o644)
	if fi, err := os.Stat(path); err == nil {
		mode = fi.Mode().Perm()
		if err := os.Link(path, path+keptSuffix); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("keeping what was there: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("directory of the configuration: %w", err)
	}
	return renameio.WriteFile(path, text, mode, renameio.IgnoreUmask())
}
