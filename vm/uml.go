package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/nineply/nineply/vm/internal/bootspec"
)

// umlModules is where Debian's user-mode-linux package keeps its modules.
const umlModules = "/usr/lib/uml/modules/*/modules.dep"

// RunUML boots g under User-Mode Linux and returns what its script did. What
// the run needs is kept in dir, an empty directory. The error is for a guest
// that did not get to the end of its script; a script that failed is
// Result.Status.
func RunUML(ctx context.Context, dir string, g Guest) (*Result, error) {
	trees, err := filepath.Glob(umlModules)
	if err != nil || len(trees) == 0 {
		return nil, fmt.Errorf("no modules for User-Mode Linux (%s): %w", umlModules, err)
	}
	return start(ctx, dir, g, machine{
		kernelModules: filepath.Dir(trees[len(trees)-1]),
		modules:       []string{"9pnet_fd", "9p", "overlay", "fuse"},
		iface:         "vec0",
		mountOf: func(_ int, hostDir string) bootspec.Mount {
			return bootspec.Mount{Source: "none", Type: "hostfs", Options: hostDir}
		},
		command: umlCommand,
	})
}

func umlCommand(r *run) ([]string, error) {
	kernel, err := exec.LookPath("linux.uml")
	if err != nil {
		return nil, fmt.Errorf("User-Mode Linux: %w", err)
	}
	return []string{
		kernel,
		fmt.Sprintf("mem=%dM", r.MemoryMiB),
		"initrd=" + r.initrd,
		"uml_dir=" + r.dir,
		"umid=guest",
		"vec0:transport=tap,ifname=" + tapName + ",depth=128,gro=1",
		"con=null", "con0=fd:0,fd:1", "quiet", "panic=-1",
	}, nil
}

// MissingUML says what [RunUML] needs and this machine lacks, nil if nothing.
func MissingUML() error {
	if err := missingGuest(); err != nil {
		return err
	}
	if _, err := exec.LookPath("linux.uml"); err != nil {
		return fmt.Errorf("user-mode-linux is not installed: %w", err)
	}
	return nil
}

// missingGuest says what every kind of guest needs and this machine lacks.
func missingGuest() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("guests need root, for a network namespace")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("guests need a tap device: %w", err)
	}
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("guests need the go command to build their first process: %w", err)
	}
	return nil
}
