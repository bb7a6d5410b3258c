package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/demoimage/treesum"
	"github.com/nineply/nineply/vm/vmtest"
)

// deathsInShort is how often the daemon dies when NINEPLY_DEATHS does not say.
const deathsInShort = 10

// deathScript starts two readers of a v9fs mount in the guest, has the host kill
// the daemon again and again, and prints what the readers saw.
const deathScript = `
mkdir -p /g && mount -t tmpfs tmpfs /g && mkdir /g/m
nineply-mount mount --connect tcp:$NINEPLY_HOST:5640 --mode v9fs --wait 30s --daemon image/%[1]s /g/m
for i in 1 2; do ( checker /g/m /sums /g/stop > /g/out$i 2>&1 || true; ) & done
%[2]s ready > /dev/null
i=0; while [ $i -lt %[3]d ]; do %[2]s kill > /dev/null; i=$((i+1)); done
touch /g/stop; wait
echo; for i in 1 2; do echo "READER $(cat /g/out$i)"; done
umount /g/m || nineply-mount umount /g/m
`

// seen is what a reader reports.
type seen struct {
	Files  int
	Bytes  int64
	Errors []string
	Wrong  []string
	Pauses []float64 // milliseconds
}

// TestDeaths: the daemon dies at random moments under two readers of a FUSE mount
// and two of a guest's v9fs mount, all of which compare every byte. NINEPLY_DEATHS
// says how often.
func TestDeaths(t *testing.T) {
	start(t)
	deaths := deathsInShort
	if text := os.Getenv("NINEPLY_DEATHS"); text != "" {
		n, err := strconv.Atoi(text)
		must(t, err)
		deaths = n
	}
	im := small(t)
	site := newSite(t, im, harness.Shape{})
	daemon := site.daemon(t, "")
	sums := filepath.Join(daemon.Dir, "sums")
	must(t, os.WriteFile(sums, sumsOf(reference(t, im)), 0o600))
	dir := daemon.Mount(t, site.ref("lazy"))
	stop := filepath.Join(daemon.Dir, "stop")
	var readers sync.WaitGroup
	outputs := make([]bytes.Buffer, 2)
	begin := func() {
		for i := range outputs {
			cmd := exec.CommandContext(t.Context(), filepath.Join(programs, "checker"), dir, sums, stop)
			cmd.Stdout, cmd.Stderr = &outputs[i], &outputs[i]
			readers.Go(func() { _ = cmd.Run() }) // what it printed tells
		}
	}
	result, err := vmtest.RunUML(t.Context(), t, vmtest.Guest{
		Script: "set -e\n" + fmt.Sprintf(deathScript, site.ref("lazy"), vmtest.SignalCommand, deaths),
		Files: map[string]string{
			"/usr/bin/nineply-mount": filepath.Join(programs, "nineply-mount"),
			"/usr/bin/checker":       filepath.Join(programs, "checker"),
			"/sums":                  sums,
		},
		Services: map[int]string{5640: "unix:" + daemon.Socket()},
		Timeout:  3*time.Minute + time.Duration(deaths)*5*time.Second,
		OnSignal: func(word string) string {
			if strings.TrimSpace(word) == "ready" {
				begin()
				return "done"
			}
			time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // the moment is the point
			daemon.Kill()
			daemon.Start(t)
			return "done"
		},
	})
	must(t, os.WriteFile(stop, nil, 0o600))
	readers.Wait()
	if err != nil || result.Status != 0 {
		t.Fatalf("guest: status %d: %v\n%.4000s\n%.4000s", result.Status, err, result.Output, result.Console)
	}
	judge(t, "FUSE", deaths, outputs[0].String(), outputs[1].String())
	var inGuest []string
	for line := range strings.Lines(string(result.Output)) {
		if text, ok := strings.CutPrefix(line, "READER "); ok {
			inGuest = append(inGuest, text)
		}
	}
	if len(inGuest) != 2 {
		t.Fatalf("the guest's readers said nothing:\n%.4000s", result.Output)
	}
	judge(t, "v9fs", deaths, inGuest...)
}

// judge fails unless the readers of a mount read, and read nothing wrong.
func judge(t *testing.T, mount string, deaths int, reports ...string) {
	t.Helper()
	var all seen
	for _, text := range reports {
		var s seen
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Errorf("%s: a reader ended with %v: %.2000s", mount, err, text)
			continue
		}
		if s.Files == 0 {
			t.Errorf("%s: a reader read nothing", mount)
		}
		all.Files, all.Bytes = all.Files+s.Files, all.Bytes+s.Bytes
		all.Errors, all.Wrong = append(all.Errors, s.Errors...), append(all.Wrong, s.Wrong...)
		all.Pauses = append(all.Pauses, s.Pauses...)
	}
	if len(all.Errors)+len(all.Wrong) > 0 {
		t.Errorf("%s: %d errors, %d files with WRONG BYTES: %.2000q %.2000q", mount, len(all.Errors), len(all.Wrong), all.Errors, all.Wrong)
	}
	slices.Sort(all.Pauses)
	at := func(q float64) float64 {
		if len(all.Pauses) == 0 {
			return 0
		}
		return all.Pauses[int(q*float64(len(all.Pauses)-1))]
	}
	t.Logf("%s: %d deaths, %d files and %d bytes read, %d errors, %d wrong; %d pauses, p50 %.0f ms, p99 %.0f ms, longest %.0f ms",
		mount, deaths, all.Files, all.Bytes, len(all.Errors), len(all.Wrong), len(all.Pauses), at(0.5), at(0.99), at(1))
}

// sumsOf lists the regular files as sha256sum does.
func sumsOf(nodes []treesum.Node) []byte {
	var list []byte
	for _, n := range nodes {
		if n.Sum != "" && !strings.ContainsAny(n.Path, "\n\\") {
			list = fmt.Appendf(list, "%s  %s\n", n.Sum, n.Path)
		}
	}
	return list
}
