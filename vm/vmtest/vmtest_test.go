package vmtest_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/nineply/nineply/vm/vmtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type runner func(context.Context, testing.TB, vmtest.Guest) (*vmtest.Result, error)

// both runs a test on each kind of guest.
func both(t *testing.T, test func(t *testing.T, run runner)) {
	if testing.Short() {
		t.Skip("boots a guest")
	}
	t.Run("uml", func(t *testing.T) { test(t, vmtest.RunUML) })
	t.Run("qemu", func(t *testing.T) { test(t, vmtest.RunQEMU) })
}

func TestGuestReportsOutputAndStatus(t *testing.T) {
	both(t, func(t *testing.T, run runner) {
		result, err := run(t.Context(), t, vmtest.Guest{Script: "echo out; echo err >&2; echo $NINEPLY_HOST; exit 7\n"})
		if err != nil {
			t.Fatalf("%v\n%s", err, result.Console)
		}
		if got, want := string(result.Output), "out\nerr\n"+vmtest.HostAddress+"\n"; got != want || result.Status != 7 {
			t.Errorf("output %q status %d, want %q and 7", got, result.Status, want)
		}
		t.Logf("took %v; console: %s", result.Elapsed, result.Console)
	})
}

func TestGuestWritesStayInTheGuest(t *testing.T) {
	both(t, func(t *testing.T, run runner) {
		share, name := t.TempDir(), t.TempDir()+"/never"
		result, err := run(t.Context(), t, vmtest.Guest{
			Script: "set -e; mkdir -p $(dirname " + name + "); echo x > " + name + "; echo y > /share/seen; cat " + name + "\n",
			Shares: map[string]string{"/share": share},
		})
		if err != nil || result.Status != 0 {
			t.Fatalf("%v\n%s", err, result.Output)
		}
		if got := strings.TrimSpace(string(result.Output)); got != "x" {
			t.Errorf("guest read back %q", got)
		}
		if exists(name) {
			t.Errorf("a write outside the share reached the host")
		}
		if !exists(share + "/seen") {
			t.Errorf("a write in the share did not reach the host")
		}
	})
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func sha256Line(text string) string {
	return fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(text)))
}
