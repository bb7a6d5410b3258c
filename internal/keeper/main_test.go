package keeper_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/keeper"
	"github.com/nineply/nineply/internal/p9client/p9fake"
)

// asCommand makes the test program behave as the command: tests that need a
// process of its own start themselves.
const asCommand = "NINEPLY_MOUNT_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		signals := make(chan os.Signal, 4)
		signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
		os.Exit(keeper.Run(context.Background(), os.Args, keeper.Env{
			Stdout: os.Stdout, Stderr: os.Stderr, Version: "test", Signals: signals,
		}))
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testCtx(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	ctx := testCtx(t)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatal("what was waited for never came")
		case <-tick.C:
		}
	}
}

// serveTree starts a fake server over a small tree.
func serveTree(t testing.TB) (srv *p9fake.Server, socket string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse")
	}
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "hello"), []byte("hello\n"), 0o644))
	socket = filepath.Join(t.TempDir(), "9p")
	srv = p9fake.New(p9fake.Config{Dir: dir, Socket: socket})
	must(t, srv.Start())
	t.Cleanup(srv.Stop)
	return srv, socket
}

// command is the program with arguments, its output collected.
func command(t testing.TB, name string, args ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Args = append([]string{name}, args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	return cmd, &out, &errs
}

// run executes the command to its end and gives its exit status.
func run(t testing.TB, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd, out, errs := command(t, "nineply-mount", args...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// content reads the test file through a mount. The process that reads is
// another one, as it would be.
func content(t testing.TB, target string) string {
	t.Helper()
	out, err := exec.Command("cat", filepath.Join(target, "hello")).CombinedOutput()
	if err != nil {
		return err.Error() + ": " + string(out)
	}
	return string(out)
}

func mounted(t testing.TB, target string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	return strings.Count(string(b), " "+target+" fuse.nineply ")
}

// cleanMount makes sure that nothing stays mounted after a failed test.
func cleanMount(t testing.TB, target string) {
	t.Cleanup(func() {
		for mounted(t, target) > 0 {
			must(t, unix.Unmount(target, unix.MNT_DETACH))
		}
	})
}

func decode(t testing.TB, s string, v any) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(s))
	must(t, dec.Decode(v))
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		t.Fatalf("more than one value in %q", s)
	}
}
