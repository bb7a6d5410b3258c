package harness

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// goneTime is how long processes told to end may still be seen.
const goneTime = 10 * time.Second

// CheckLeftovers fails the test for every mount below dir and every process
// started with dir on its command line, and removes them, so that one failure
// does not spoil the tests after it.
func CheckLeftovers(t testing.TB, dir string) {
	t.Helper()
	for _, pid := range lingering(dir) {
		t.Errorf("left behind: process %d, %s", pid, commandLine(pid))
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, target := range mountsBelow(t, dir) {
		t.Errorf("left behind: mount %s", target)
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", target, err)
		}
	}
}

// lingering waits a while for the processes of dir to end and returns those
// that do not.
func lingering(dir string) []int {
	deadline := time.Now().Add(goneTime)
	for {
		pids := processesOf(dir)
		if len(pids) == 0 || time.Now().After(deadline) {
			return pids
		}
		time.Sleep(pollTime)
	}
}

// processesOf lists processes whose command line mentions dir.
func processesOf(dir string) []int {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil
	}
	var pids []int
	for _, name := range names {
		text, err := os.ReadFile(name)
		pid, numErr := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err == nil && numErr == nil && pid != os.Getpid() && bytes.Contains(text, []byte(dir+"/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func commandLine(pid int) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(text), "\x00", " ")
}

// mountsBelow lists mount points below dir, deepest first.
func mountsBelow(t testing.TB, dir string) []string {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Error(err)
	}
	var targets []string
	for _, m := range mounts {
		targets = append(targets, m.Mountpoint)
	}
	slices.Reverse(targets)
	return targets
}
