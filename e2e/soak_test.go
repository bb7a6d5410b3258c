package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/demoimage/treesum"
)

// spareFiles is how many more descriptors than after the first rounds a process
// may hold later: idle connections come and go.
const spareFiles = 16

// TestSoak mounts, reads and unmounts images for as long as NINEPLY_SOAK says,
// with the daemon killed every few rounds. What is read stays right, and
// neither process gathers descriptors or children.
func TestSoak(t *testing.T) {
	start(t)
	length, err := time.ParseDuration(os.Getenv("NINEPLY_SOAK"))
	if err != nil {
		t.Skip("NINEPLY_SOAK is not set to a duration")
	}
	im := small(t)
	want := reference(t, im)
	site := newSite(t, im, harness.Shape{Latency: time.Millisecond})
	// A cache too small for the image, so that eviction and refetching go on.
	daemon := site.daemon(t, "[cache]\nmax_size = '16MiB'\n")
	rounds, baseKeeper := 0, 0
	for end := time.Now().Add(length); time.Now().Before(end) && !t.Failed(); rounds++ {
		name := []string{"lazy", "plain"}[rounds%2]
		t.Run(fmt.Sprint(rounds), func(round *testing.T) {
			dir := daemon.Mount(round, site.ref(name))
			if rounds%5 == 4 {
				daemon.Kill()
				daemon.Start(t) // it outlives the round
			}
			got, err := treesum.Walk(dir, treesum.Options{})
			must(round, err)
			same(round, want, got, treesum.Compare{})
		})
		if files := openFiles(t, daemon.Keeper.PID()); rounds == 9 {
			baseKeeper = files
		} else if rounds > 9 && files > baseKeeper+spareFiles {
			t.Errorf("after %d rounds the keeper holds %d descriptors, %d at first", rounds, files, baseKeeper)
		}
	}
	t.Logf("%d rounds; daemon holds %d descriptors, keeper %d", rounds, openFiles(t, daemon.PID()), openFiles(t, daemon.Keeper.PID()))
}

// openFiles counts the descriptors of a process.
func openFiles(t *testing.T, pid int) int {
	t.Helper()
	names, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	return len(names)
}
