package e2e_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/vm/vmtest"
)

// guestMountScript mounts an image in each mode of nineply-mount, lists and
// reads all of it while the host's daemon is killed and started, and runs
// python from an overlay on it.
const guestMountScript = `
fail() { echo "FAILED: $*"; exit 1; }
mkdir -p /g && mount -t tmpfs tmpfs /g
sums() { (cd $1 && find usr/lib/python3* app srv -xdev -type f -print0 | sort -z | xargs -0 sha256sum) | sha256sum; }
for mode in v9fs fuse; do
	m=/g/$mode; mkdir -p $m /g/$mode-u /g/$mode-w /g/$mode-o
	nineply-mount mount --connect tcp:$NINEPLY_HOST:5640 --mode $mode --wait 30s --daemon image/%[1]s $m
	first=$(sums $m)
	rm -f /g/stop /g/rounds
	( while [ ! -e /g/stop ]; do
		echo 3 > /proc/sys/vm/drop_caches
		[ "$(sums $m)" = "$first" ] || echo "FAILED: $mode: other bytes, or an error, while the daemon dies"
		echo round >> /g/rounds
	done ) &
	reader=$!
	for i in 1 2 3 4; do %[2]s kill > /dev/null; sleep 0.5; done
	touch /g/stop; wait $reader
	[ -s /g/rounds ] || fail "$mode: the reader did not read"
	echo "$mode $first"
	mount -t overlay -o lowerdir=$m,upperdir=/g/$mode-u,workdir=/g/$mode-w overlay /g/$mode-o
	chroot /g/$mode-o python3 /app/hello.py
	umount /g/$mode-o
	nineply-mount umount $m
	! grep -q " $m " /proc/mounts || fail "$mode: still mounted"
done
`

// TestGuestMountSurvivesDaemon: in a guest, an image mounted by nineply-mount
// outlives kills of the host's daemon, with the kernel's 9p client and with
// FUSE, and both show the same bytes.
func TestGuestMountSurvivesDaemon(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	daemon := site.daemon(t, "")
	result, err := vmtest.RunUML(t.Context(), t, vmtest.Guest{
		Script:   "set -e\n" + fmt.Sprintf(guestMountScript, site.ref("lazy"), vmtest.SignalCommand),
		Files:    map[string]string{"/usr/bin/nineply-mount": filepath.Join(programs, "nineply-mount")},
		Services: map[int]string{5640: "unix:" + daemon.Socket()},
		OnSignal: func(string) string {
			daemon.Kill()
			daemon.Start(t)
			return "done"
		},
	})
	if err != nil || result.Status != 0 {
		t.Fatalf("guest: status %d: %v\n%.4000s\n%.4000s", result.Status, err, result.Output, result.Console)
	}
	out := string(result.Output)
	sums := make(map[string]string)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && (f[0] == "v9fs" || f[0] == "fuse") {
			sums[f[0]] = f[1]
		}
	}
	if strings.Contains(out, "FAILED") || strings.Count(out, greeting) != 2 || sums["v9fs"] == "" || sums["v9fs"] != sums["fuse"] {
		t.Errorf("guest said:\n%s", out)
	}
	t.Logf("took %v", result.Elapsed)
}
