package vmtest

import (
	"context"
	"os"
	"testing"

	"github.com/nineply/nineply/vm"
)

// Require skips the test for a non-nil reason, such as a missing package. Where
// the environment has CI=true or NINEPLY_E2E=require the test fails instead:
// there, skipping would hide that nothing was tested.
func Require(t testing.TB, missing error) {
	t.Helper()
	switch {
	case missing == nil:
	case os.Getenv("CI") == "true" || os.Getenv("NINEPLY_E2E") == "require":
		t.Fatalf("required here: %v", missing)
	default:
		t.Skip(missing)
	}
}

// BuildStatic compiles a command of this module without cgo; see
// [vm.BuildStatic].
func BuildStatic(ctx context.Context, dir, importPath string) (string, error) {
	return vm.BuildStatic(ctx, dir, importPath)
}
