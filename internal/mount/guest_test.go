package mount_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/p9server/p9test"
	"github.com/nineply/nineply/vm/vmtest"
)

// guestScript mounts in each mode, reads while the test kills the server, runs
// a program from an overlay on the mount, and takes everything away again.
const guestScript = `
set -e
fail() { echo "FAILED: $*"; exit 1; }
want=$(cat /want)
mkdir -p /t && mount -t tmpfs tmpfs /t
cp /want /t/here
for mode in v9fs fuse; do
	m=/t/$mode; mkdir -p $m /t/$mode-u /t/$mode-w /t/$mode-o
	nineply-mount mount --connect tcp:$NINEPLY_HOST:5640 --mode $mode --wait 20s --daemon image/test $m
	grep -q " $m .*ro" /proc/mounts || fail "$mode: not mounted"
	[ "$(sha256sum < $m/big)" = "$want" ] || fail "$mode: wrong bytes"
	rm -f /t/stop
	( while [ ! -e /t/stop ]; do
		echo 3 > /proc/sys/vm/drop_caches
		[ "$(sha256sum < $m/big)" = "$want" ] || echo "FAILED: $mode: wrong bytes or an error under restarts"
		[ $(cat $m/many/* | wc -c) = 4000 ] || echo "FAILED: $mode: many files"
		[ ! -e $m/absent ] || echo "FAILED: $mode: absent file"
	done ) &
	reader=$!
	for i in 1 2 3 4 5 6 7 8; do ` + vmtest.SignalCommand + ` restart > /dev/null; sleep 0.2; done
	touch /t/stop; wait $reader
	mount -t overlay -o lowerdir=$m,upperdir=/t/$mode-u,workdir=/t/$mode-w overlay /t/$mode-o
	/t/$mode-o/prog || fail "$mode: exec through the overlay"
	echo more >> /t/$mode-o/etc/conf || fail "$mode: copy-up"
	[ "$(cat /t/$mode-o/etc/conf)" = "$(printf 'conf\nmore')" ] || fail "$mode: copied-up content"
	chmod 700 /t/$mode-o/etc || fail "$mode: copy-up of a directory"
	umount /t/$mode-o
	` + vmtest.SignalCommand + ` stop > /dev/null
	sleep 0.2
	nineply-mount umount $m || fail "$mode: umount without a server"
	` + vmtest.SignalCommand + ` start > /dev/null
	echo "$mode done"
done
m=/t/direct; mkdir -p $m
nineply-mount mount --connect tcp:$NINEPLY_HOST:5640 --mode v9fs --direct --daemon image/test $m
[ "$(sha256sum < $m/big)" = "$want" ] || fail "direct: wrong bytes"
umount $m
echo direct done
`

// TestGuestMounts: the command in a guest of another kernel, with that kernel's
// 9p client behind the relay and with FUSE, and a server on the host that dies.
func TestGuestMounts(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a guest")
	}
	big := string(pattern(4<<20+99, 7))
	files := []p9test.File{
		{Path: "/big", Mode: unix.S_IFREG | 0o644, Data: big},
		{Path: "/prog", Mode: unix.S_IFREG | 0o755, Data: "#!/bin/sh\nexit 0\n"},
		{Path: "/etc", Mode: unix.S_IFDIR | 0o755},
		{Path: "/etc/conf", Mode: unix.S_IFREG | 0o644, Data: "conf\n"},
		{Path: "/many", Mode: unix.S_IFDIR | 0o755},
	}
	for i := range 400 {
		files = append(files, p9test.File{
			Path: fmt.Sprintf("/many/%d", i), Mode: unix.S_IFREG | 0o644, Data: "0123456789",
		})
	}
	p := productTree(t, files)
	prog, err := vmtest.BuildStatic(t.Context(), t.TempDir(), "github.com/nineply/nineply/cmd/nineply-mount")
	must(t, err)
	want := filepath.Join(t.TempDir(), "want")
	must(t, writeSum(want, big))
	result, err := vmtest.RunUML(t.Context(), t, vmtest.Guest{
		Script:   guestScript,
		Files:    map[string]string{"/usr/bin/nineply-mount": prog, "/want": want},
		Services: map[int]string{5640: "unix:" + p.socket},
		Modules:  []string{"fuse"},
		OnSignal: func(words string) string {
			if words != "start" {
				p.stop()
			}
			if words != "stop" {
				p.start()
			}
			return "done"
		},
	})
	if err != nil || result.Status != 0 {
		t.Fatalf("status %d: %v\n%s\n%s", result.Status, err, result.Output, result.Console)
	}
	out := string(result.Output)
	if strings.Contains(out, "FAILED") || !strings.HasSuffix(out, "direct done\n") {
		t.Errorf("guest said:\n%s", out)
	}
	t.Logf("took %v", result.Elapsed)
}
