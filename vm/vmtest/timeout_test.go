package vmtest_test

import (
	"context"
	"testing"

	"github.com/nineply/nineply/vm/vmtest"
)

// TestGuestThatHangsIsEnded: the end of the context ends the guest with all its
// processes, and what it had said is still there.
func TestGuestThatHangsIsEnded(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a guest")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result, err := vmtest.RunUML(ctx, t, vmtest.Guest{
		Script:   "echo before\n" + vmtest.SignalCommand + " hang\nsleep 1000000\n",
		OnSignal: func(string) string { cancel(); return "" },
	})
	if err == nil {
		t.Fatal("a guest that hangs ended well")
	}
	if got := string(result.Output); got != "before\n" || result.Status != -1 {
		t.Errorf("output %q status %d, want what was printed before and -1", got, result.Status)
	}
}
