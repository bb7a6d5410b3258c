package e2e_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/e2e/harness"
)

// TestUpgrades: the keeper and the daemon are replaced, five times each, under
// readers that compare every byte; a file that was open and mapped before is read
// afterwards. An upgrade that fails leaves the keeper that was there.
func TestUpgrades(t *testing.T) {
	start(t)
	im := small(t)
	site := newSite(t, im, harness.Shape{})
	daemon := site.daemon(t, "")
	sums := filepath.Join(daemon.Dir, "sums")
	must(t, os.WriteFile(sums, sumsOf(reference(t, im)), 0o600))
	dir := daemon.Mount(t, site.ref("lazy"))
	stop := filepath.Join(daemon.Dir, "stop")
	checkOpen := holdFile(t, dir)
	var readers sync.WaitGroup
	outputs := make([]bytes.Buffer, 2)
	for i := range outputs {
		cmd := exec.CommandContext(t.Context(), filepath.Join(programs, "checker"), dir, sums, stop)
		cmd.Stdout, cmd.Stderr = &outputs[i], &outputs[i]
		readers.Go(func() { _ = cmd.Run() }) // what it printed tells
	}
	keeper := filepath.Join(programs, "nineply-mount")
	socket := filepath.Join(daemon.Dir, "state/keeper.sock")
	pid := 0
	for range 5 {
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // the moment is the point
		out := harness.Run(t, keeper, "upgrade", "--socket", socket)
		if _, err := fmt.Sscanf(out, "process %d holds", &pid); err != nil {
			t.Fatalf("upgrade says %q: %v", out, err)
		}
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		daemon.Stop(t)
		daemon.Start(t)
	}
	// A successor with a wrong flag ends before it takes anything.
	if _, err := harness.TryRun(t, keeper, "serve", "--takeover", "--socket", socket, "--connect", "nowhere"); err == nil {
		t.Error("a keeper took over with an address that cannot be")
	}
	must(t, os.WriteFile(stop, nil, 0o600))
	readers.Wait()
	judge(t, "FUSE", 10, outputs[0].String(), outputs[1].String())
	checkOpen()
	daemon.CLI(t, "umount", dir)
	must(t, syscall.Kill(pid, syscall.SIGTERM)) // it is no child of the test, and ends with its last mount

}

// holdFile opens and maps a file of the image; the result reads it again.
func holdFile(t *testing.T, dir string) func() {
	t.Helper()
	path := ""
	must(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && path == "" && d.Type().IsRegular() {
			if info, ierr := d.Info(); ierr == nil && info.Size() > 4096 {
				path = p
			}
		}
		return err
	}))
	file, err := os.Open(path)
	must(t, err)
	want := make([]byte, 4096)
	_, err = file.ReadAt(want, 0)
	must(t, err)
	mapped, err := unix.Mmap(int(file.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	return func() {
		must(t, unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED))
		got := make([]byte, 4096)
		if _, err := file.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) || !bytes.Equal(mapped, want) {
			t.Errorf("%s, open since before: %v, or other bytes", path, err)
		}
		must(t, unix.Munmap(mapped))
		must(t, file.Close())
	}
}
