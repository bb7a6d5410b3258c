package keeper_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/keeper"
	"github.com/nineply/nineply/internal/mount"
)

// process is a keeper in a process of its own.
type process struct {
	cmd    *exec.Cmd
	client *keeper.Client
	args   []string
}

func startProcess(t testing.TB, args ...string) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{client: keeper.NewClient(filepath.Join(dir, "control"))}
	p.args = append([]string{"serve", "--socket", filepath.Join(dir, "control"), "--mode", "fuse"}, args...)
	p.start(t)
	t.Cleanup(func() {
		p.client.Close()
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
	})
	return p
}

func (p *process) start(t testing.TB) {
	t.Helper()
	p.cmd, _, _ = command(t, "nineply-mount", p.args...)
	p.cmd.Stdout, p.cmd.Stderr = os.Stderr, os.Stderr
	must(t, p.cmd.Start())
	waitFor(t, func() bool {
		_, err := p.client.Health(testCtx(t))
		return err == nil
	})
}

// A keeper that is killed leaves dead mounts; its successor replaces them.
func TestKeeperKilled(t *testing.T) {
	_, socket := serveTree(t)
	p := startProcess(t, "--connect", "unix:"+socket)
	ctx := testCtx(t)
	var targets []string
	for _, name := range []string{"one", "two"} {
		target := filepath.Join(t.TempDir(), name)
		cleanMount(t, target)
		_, err := p.client.Mount(ctx, "chain/"+name, target, "")
		must(t, err)
		targets = append(targets, target)
	}
	for range 2 {
		must(t, p.cmd.Process.Kill())
		_ = p.cmd.Wait()
		if err := unix.Access(filepath.Join(targets[0], "never looked up"), unix.F_OK); err != unix.ENOTCONN {
			t.Fatalf("without its keeper the mount says %v", err)
		}
		p.start(t)
		for _, target := range targets {
			_, err := p.client.Mount(ctx, "chain/"+filepath.Base(target), target, "")
			must(t, err)
			if got := content(t, target); got != "hello\n" || mounted(t, target) != 1 {
				t.Errorf("after the restart: %q, %d mounts", got, mounted(t, target))
			}
		}
	}
	for _, target := range targets {
		must(t, p.client.Unmount(ctx, target, false))
	}
	must(t, p.cmd.Process.Signal(syscall.SIGTERM))
	must(t, p.cmd.Wait())
}

// A keeper that starts before the daemon does restores its mounts when that
// comes, and forgets the ones nobody wants any more.
func TestRestoreWaitsForDaemon(t *testing.T) {
	srv, socket := serveTree(t)
	p := startProcess(t, "--connect", "unix:"+socket)
	ctx := testCtx(t)
	dir := t.TempDir()
	keep, drop := filepath.Join(dir, "keep"), filepath.Join(dir, "drop")
	for _, target := range []string{keep, drop} {
		cleanMount(t, target)
		_, err := p.client.Mount(ctx, "chain/a", target, "")
		must(t, err)
	}
	must(t, p.cmd.Process.Kill())
	_ = p.cmd.Wait()
	srv.Stop()
	p.start(t)
	list, err := p.client.List(ctx)
	if err != nil || len(list) != 2 || list[0].State != keeper.Restoring {
		t.Fatalf("list %+v, %v", list, err)
	}
	must(t, p.client.Unmount(ctx, drop, false))
	must(t, srv.Start())
	_, err = p.client.Mount(ctx, "chain/a", keep, "")
	must(t, err)
	if got := content(t, keep); got != "hello\n" {
		t.Errorf("read %q", got)
	}
	if mounted(t, drop) != 0 {
		t.Error("an unmounted one came back")
	}
}

func TestOneKeeperPerSocket(t *testing.T) {
	_, socket := serveTree(t)
	p := startProcess(t, "--connect", "unix:"+socket)
	status, _, errs := run(t, append(p.args, "--state", "none")...)
	if status != 6 || !strings.Contains(errs, "another keeper") {
		t.Errorf("status %d: %s", status, errs)
	}
}

// SIGTERM does not pull mounts from under anybody.
func TestTermDrains(t *testing.T) {
	_, socket := serveTree(t)
	p := startProcess(t, "--connect", "unix:"+socket)
	ctx := testCtx(t)
	target := filepath.Join(t.TempDir(), "m")
	cleanMount(t, target)
	_, err := p.client.Mount(ctx, "chain/a", target, "")
	must(t, err)
	must(t, p.cmd.Process.Signal(syscall.SIGTERM))
	waitFor(t, func() bool {
		h, err := p.client.Health(ctx)
		must(t, err)
		return h.Draining
	})
	if got := content(t, target); got != "hello\n" {
		t.Errorf("read %q", got)
	}
	if _, err := p.client.Mount(ctx, "chain/b", target+"2", ""); err == nil {
		t.Error("a draining keeper mounted")
	}
	must(t, p.client.Unmount(ctx, target, false))
	must(t, p.cmd.Wait())
}

func TestTermUnmounts(t *testing.T) {
	_, socket := serveTree(t)
	p := startProcess(t, "--connect", "unix:"+socket, "--umount-on-exit")
	ctx := testCtx(t)
	target := filepath.Join(t.TempDir(), "m")
	cleanMount(t, target)
	_, err := p.client.Mount(ctx, "chain/a", target, "")
	must(t, err)
	fd, err := unix.Open(filepath.Join(target), unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	must(t, p.cmd.Process.Signal(syscall.SIGTERM))
	waitFor(t, func() bool { return mounted(t, target) == 0 })
	must(t, unix.Close(fd))
	must(t, p.cmd.Wait())
	p.start(t)
	if list, err := p.client.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("list after unmounting: %+v, %v", list, err)
	}
}

func TestMountCommand(t *testing.T) {
	_, socket := serveTree(t)
	target := t.TempDir()
	cleanMount(t, target)
	status, out, errs := run(t, "mount", "--connect", "unix:"+socket, "--mode=fuse", "image/x", target, "--json", "--daemon")
	if status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	var line struct {
		Aname, Target string
		Mode          mount.Mode
		PID           int
		TotalMS       float64 `json:"total_ms"`
	}
	decode(t, out, &line)
	if line.Aname != "image/x" || line.Target != target || line.Mode != mount.FUSE || line.TotalMS <= 0 {
		t.Errorf("reported %+v", line)
	}
	if got := content(t, target); got != "hello\n" {
		t.Errorf("read %q", got)
	}
	name, err := os.ReadFile("/proc/" + itoa(line.PID) + "/cmdline")
	if must(t, err); !strings.HasPrefix(string(name), "@") {
		t.Errorf("the process is called %q", name)
	}
	if status, _, errs := run(t, "umount", "--socket", "/nonexistent", target); status != 0 || mounted(t, target) != 0 {
		t.Errorf("umount: status %d: %s", status, errs)
	}
	waitFor(t, func() bool { return gone(line.PID) })
	if status, _, errs := run(t, "umount", "--socket", "/nonexistent", target); status != 2 {
		t.Errorf("second umount: status %d: %s", status, errs)
	}
}

func gone(pid int) bool {
	b, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(b), ") Z ")
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

// In the foreground a signal unmounts, and a second one detaches.
func TestMountCommandForeground(t *testing.T) {
	_, socket := serveTree(t)
	target := t.TempDir()
	cleanMount(t, target)
	cmd, _, _ := command(t, "nineply-mount", "mount", "--connect", "unix:"+socket, "--mode=fuse", "image/x", target)
	must(t, cmd.Start())
	waitFor(t, func() bool { return content(t, target) == "hello\n" })
	fd, err := unix.Open(target, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	must(t, cmd.Process.Signal(syscall.SIGINT))
	must(t, cmd.Wait())
	must(t, unix.Close(fd))
	if mounted(t, target) != 0 {
		t.Error("still mounted")
	}
}

func TestExitStatus(t *testing.T) {
	srv, socket := serveTree(t)
	target := t.TempDir()
	for _, tt := range []struct {
		want int
		args []string
	}{
		{2, nil},
		{2, []string{"frobnicate"}},
		{2, []string{"mount", "onlyone"}},
		{2, []string{"mount", "--mode=nfs", "a", target}},
		{2, []string{"mount", "--connect=nowhere", "a", target}},
		{3, []string{"mount", "--mode=fuse", "--connect=unix:/nonexistent", "a", target}},
		{3, []string{"mount", "--mode=fuse", "--daemon", "--connect=unix:/nonexistent", "a", target}},
		{4, []string{"mount", "--mode=fuse", "--connect=unix:" + socket, "a", target}},
		{3, []string{"list", "--socket=/nonexistent"}},
		{0, []string{"version"}},
		{0, []string{"mount", "-h"}},
		{0, []string{"help"}},
	} {
		srv.FailAttach(syscall.ENOENT)
		if got, _, errs := run(t, tt.args...); got != tt.want {
			t.Errorf("%q: status %d, want %d: %s", tt.args, got, tt.want, errs)
		}
	}
}
