package vmtest_test

import (
	"testing"
	"time"

	"github.com/nineply/nineply/vm/vmtest"
)

// TestGuestThatHangsIsEnded: the timeout ends the guest with all its processes
// and what it had said is still there.
func TestGuestThatHangsIsEnded(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a guest")
	}
	result, err := vmtest.RunUML(t.Context(), t, vmtest.Guest{
		Script:  "echo before\nsleep 1000000\n",
		Timeout: 4 * time.Second,
	})
	if err == nil {
		t.Fatal("a guest that hangs ended well")
	}
	if got := string(result.Output); got != "before\n" || result.Status != -1 {
		t.Errorf("output %q status %d, want what was printed before and -1", got, result.Status)
	}
}
