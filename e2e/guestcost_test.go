package e2e_test

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/vm/vmtest"
)

// A start of python may cost a kernel's 9P client this many messages, by what is
// mounted and what is in the kernel's caches. More would mean that it asks twice.
//
// Warm, every one is of a kind that no version before 7.2 caches: 36 opens with a
// walk and a clunk each, three readdirs for each of 9 directories, 14 readlinks, 30
// walks to names that do not exist, and the xattr of the program.
const (
	maxCold        = 483
	maxWarm        = 180
	maxColdOverlay = 526
)

// costScript starts python three times: from the mount, again, and from an overlay
// on a mount that is new to the kernel.
const costScript = `
start() { chroot $1 /usr/bin/python3 -c 'import sys,os,re'; }
note() { %[2]s "$1" > /dev/null; }
m image/%[1]s /run/w/image
note begin; start /run/w/image; note cold; start /run/w/image; note warm
umount /run/w/image
m image/%[1]s /run/w/image
mount -t overlay -o lowerdir=/run/w/image,upperdir=/run/w/u,workdir=/run/w/k overlay /run/w/root
note begin; start /run/w/root; note overlay-cold; start /run/w/root; note overlay-warm
umount /run/w/root; umount /run/w/image
`

// TestGuestMessages: what a start costs in round trips does not depend on how many
// layers the image has, and is no more than the kernel's client has to ask.
func TestGuestMessages(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	daemon := site.daemon(t, "")
	var before map[string]int
	cost := map[string]int{}
	script := fmt.Sprintf(mount9p+costScript, site.ref("lazy"), vmtest.SignalCommand)
	inGuest(t, vmtest.RunUML, daemon, script, func(word string) string {
		now := messages(t, daemon)
		if word = strings.TrimSpace(word); word != "begin" {
			kinds := []string{}
			for _, kind := range slices.Sorted(maps.Keys(now)) {
				if n := now[kind] - before[kind]; n > 0 {
					cost[word] += n
					kinds = append(kinds, fmt.Sprintf("%d %s", n, kind))
				}
			}
			t.Logf("%s: %d messages: %s", word, cost[word], strings.Join(kinds, ", "))
		}
		before = now
		return "done"
	})
	for what, most := range map[string]int{"cold": maxCold, "warm": maxWarm, "overlay-cold": maxColdOverlay} {
		if n := cost[what]; n == 0 || n > most {
			t.Errorf("%s: %d messages, at most %d", what, n, most)
		}
	}
	t.Logf("the image has %d layers", len(site.layerDigests(t, "lazy")))
}

// messages asks a daemon how many 9P messages of each kind it has answered.
func messages(t *testing.T, d *harness.Daemon) map[string]int {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(d.Dir, "state/control.sock"))
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://nineply/metrics", nil)
	must(t, err)
	resp, err := client.Do(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }() // read side
	counts := map[string]int{}
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		kind, n, ok := strings.Cut(strings.TrimPrefix(sc.Text(), `nineply_9p_messages_total{type="`), `"} `)
		if !ok || strings.Contains(kind, "{") || strings.HasPrefix(kind, "#") {
			continue
		}
		v, err := strconv.ParseFloat(n, 64)
		must(t, err)
		counts[kind] = int(v)
	}
	if len(counts) == 0 {
		t.Error("the daemon counts no messages")
	}
	return counts
}
