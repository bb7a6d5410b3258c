package vmtest_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hugelgupf/p9/fsimpl/localfs"
	"github.com/hugelgupf/p9/p9"

	"github.com/nineply/nineply/vm/vmtest"
)

// TestGuestKernelMounts9P proves what the package is for: the guest's kernel
// mounts a 9P2000.L server of the host, over TCP and over a forwarded unix
// socket, and stops for the test in the middle of its script.
func TestGuestKernelMounts9P(t *testing.T) {
	both(t, func(t *testing.T, run runner) {
		dir := t.TempDir()
		want := strings.Repeat("nine plies\n", 50_000)
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		tcp, unix := serve(t, dir, "tcp", "127.0.0.1:0"), serve(t, dir, "unix", filepath.Join(t.TempDir(), "9p.sock"))
		signals := make(chan string, 1)
		result, err := run(t.Context(), t, vmtest.Guest{
			Script: `set -e
mkdir -p /a /b
mount -t 9p -o trans=tcp,port=5640,version=9p2000.L,cache=loose,access=any,msize=262168,ro $NINEPLY_HOST /a
mount -t 9p -o trans=tcp,port=5641,version=9p2000.L,cache=loose,access=any,msize=262168,ro $NINEPLY_HOST /b
cmp /a/file /b/file
sha256sum < /a/file
` + vmtest.SignalCommand + ` mounted twice
`,
			Services: map[int]string{5640: tcp, 5641: unix},
			OnSignal: func(words string) string { signals <- words; return "go on" },
		})
		if err != nil || result.Status != 0 {
			t.Fatalf("status %d: %v\n%s\n%s", result.Status, err, result.Output, result.Console)
		}
		if got, want := string(result.Output), sha256Line(want)+"go on\n"; got != want {
			t.Errorf("guest printed %q, want %q", got, want)
		}
		if got := <-signals; got != "mounted twice" {
			t.Errorf("signal %q", got)
		}
	})
}

// serve serves dir by 9P until the test ends and returns the service address.
func serve(t *testing.T, dir, kind, address string) string {
	t.Helper()
	l, err := net.Listen(kind, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p9.NewServer(localfs.Attacher(dir)).Serve(l) }()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return fmt.Sprintf("%s:%s", kind, l.Addr())
}
