package vmtest

import (
	"context"
	"testing"

	"github.com/nineply/nineply/vm"
)

// HostAddress is where a guest finds Guest.Services.
const HostAddress = vm.HostAddress

// SignalCommand is the program in every guest that sends its arguments to
// Guest.OnSignal and prints the answer.
const SignalCommand = vm.SignalCommand

// Guest describes one boot; see [vm.Guest].
type Guest = vm.Guest

// Result is what a guest did; see [vm.Result].
type Result = vm.Result

// RunUML boots g under User-Mode Linux; see [vm.RunUML]. A machine without it
// skips the test, see [Require].
func RunUML(ctx context.Context, t testing.TB, g Guest) (*Result, error) {
	t.Helper()
	Require(t, vm.MissingUML())
	return vm.RunUML(ctx, t.TempDir(), g)
}

// RunQEMU boots g under QEMU; see [vm.RunQEMU]. A machine without it skips the
// test, see [Require].
func RunQEMU(ctx context.Context, t testing.TB, g Guest) (*Result, error) {
	t.Helper()
	Require(t, vm.MissingQEMU())
	return vm.RunQEMU(ctx, t.TempDir(), g)
}
