package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// BuildStatic compiles a command of this module without cgo, so that it runs on
// any root file system, and returns the path of the program.
func BuildStatic(ctx context.Context, dir, importPath string) (string, error) {
	out := filepath.Join(dir, filepath.Base(importPath))
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, importPath)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", importPath, err, text)
	}
	return out, nil
}

func buildInit(ctx context.Context, dir string) (string, error) {
	return BuildStatic(ctx, dir, "github.com/nineply/nineply/vm/guestinit")
}
