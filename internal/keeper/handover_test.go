package keeper_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/keeper"
)

// A keeper without mounts, and one whose mounts cannot be handed over.
func TestUpgrade(t *testing.T) {
	_, socket := serveTree(t)
	p := startProcess(t, "--connect", "unix:"+socket)
	ctx := testCtx(t)
	before, err := p.client.Health(ctx)
	must(t, err)
	control := p.args[2]
	status, out, errs := run(t, "upgrade", "--socket", control)
	if status != 0 || !strings.Contains(out, "holds the mounts now") {
		t.Fatalf("status %d: %s%s", status, out, errs)
	}
	must(t, p.cmd.Wait())
	after, err := p.client.Health(ctx)
	must(t, err)
	t.Cleanup(func() { killProcess(t, after.PID) })
	if after.PID == before.PID {
		t.Errorf("process %d still serves", after.PID)
	}

	target := filepath.Join(t.TempDir(), "m")
	cleanMount(t, target)
	_, err = p.client.Mount(ctx, "chain/a", target, "") // the server has no host link
	must(t, err)
	status, _, errs = run(t, "upgrade", "--socket", control)
	if status != 1 || !strings.Contains(errs, "without taking over") {
		t.Errorf("status %d: %s", status, errs)
	}
	again, err := p.client.Health(ctx)
	if err != nil || again.PID != after.PID || again.Mounts != 1 {
		t.Errorf("after a failed upgrade: %+v, %v", again, err)
	}
	if got := content(t, target); got != "hello\n" {
		t.Errorf("read %q", got)
	}
	must(t, p.client.Unmount(ctx, target, false))
}

func killProcess(t testing.TB, pid int) {
	t.Helper()
	proc, err := os.FindProcess(pid)
	must(t, err)
	must(t, proc.Kill())
	waitFor(t, func() bool { return gone(pid) })
}

// Without a keeper to take over from, serve --takeover starts as it always does.
func TestTakeoverOfNothing(t *testing.T) {
	_, socket := serveTree(t)
	p := startProcess(t, "--connect", "unix:"+socket, "--takeover")
	if status, _, errs := run(t, "upgrade", "--socket", "/nonexistent"); status != 3 {
		t.Errorf("status %d: %s", status, errs)
	}
	if _, err := p.client.Health(testCtx(t)); err != nil {
		t.Error(err)
	}
}

func FuzzHandover(f *testing.F) {
	for _, seed := range []string{
		`{"version":1}`, `{"version":1,"mounts":2}`, `{"version":1,"kind":"busy","error":"x"}`, `{"version":2,"mounts":-1}`,
		`{"request":{"aname":"image/x","target":"/m"},"mount":{"target":"/m","flags":1,"id":7,"pending":[{"Unique":2,"Node":1,"Off":0,"Size":4096,"pid":9}]}}`,
		`{"request":{"aname":"image/x","target":"/m"},"mount":{"target":"/n"},"more":true}`,
		`{"request":{"aname":"image/x","target":"/m"},"mount":{"target":"/m","pending":[{"Off":-1,"Size":0}]}}`, "", "[",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		reads, err := keeper.ParseHandover(b)
		if err == nil && reads > 256 {
			t.Errorf("%d reads in a packet", reads)
		}
		if err != nil && fserr.KindOf(err) == 0 && err.Error() == "" {
			t.Error("an error without words")
		}
	})
}

func TestHandoverPackets(t *testing.T) {
	good := `{"request":{"aname":"image/x","target":"/m"},"mount":{"target":"/m","pending":[{"Unique":2,"Node":1,"Off":0,"Size":4096,"pid":9}]}}`
	if n, err := keeper.ParseHandover([]byte(good)); n != 1 || err != nil {
		t.Errorf("%d reads, %v", n, err)
	}
	many := strings.Replace(good, `"pending":[`, `"pending":[`+strings.Repeat(`{"Size":1},`, 256), 1)
	for name, text := range map[string]string{
		"another target":  strings.Replace(good, `"target":"/m","pending"`, `"target":"/n","pending"`, 1),
		"relative target": strings.ReplaceAll(good, `"/m"`, `"m"`),
		"negative":        strings.Replace(good, `"Off":0`, `"Off":-1`, 1),
		"too large":       strings.Replace(good, `4096`, `1048577`, 1),
		"too many":        many,
		"no JSON":         "{",
		"nothing":         "",
		"long":            good + strings.Repeat(" ", 64<<10),
	} {
		if _, err := keeper.ParseHandover([]byte(text)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
