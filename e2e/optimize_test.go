package e2e_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nineply/nineply/e2e/harness"
)

// optimized is what optimize --json prints, as far as the tests look at it.
type optimized struct {
	Ref       string
	Digest    string
	From      string
	Files     int
	First     int
	Prefetch  int64
	Rewritten int
	Layers    int

	LargeFiles []string
	Run        *struct {
		Args    []string
		Exit    int
		Stopped bool
	}
}

// optimize runs "nineply optimize --json" against the daemon, or against none.
func optimize(t *testing.T, d *harness.Daemon, args ...string) optimized {
	t.Helper()
	args = append([]string{"optimize", "--json", "--level", "1"}, args...)
	var text string
	if d == nil {
		text = nineply(t, append([]string{"--state", t.TempDir()}, args...)...)
	} else {
		text = d.CLI(t, args...)
	}
	var res optimized
	must(t, json.Unmarshal([]byte(text), &res))
	return res
}

// withoutProfiles has a daemon neither record nor use profiles: what it fetches
// ahead, it does because of the landmarks.
const withoutProfiles = "\n[profiles]\nrecord = false\nuse = false\n"

// coldRun starts the image's program on a daemon that never saw the image, when
// what the landmarks name has come, and gives what it printed and how many requests
// for chunks were made because somebody waited.
func coldRun(t *testing.T, s *site, name string) (line string, waited, ahead int64) {
	t.Helper()
	d := s.daemon(t, withoutProfiles)
	dir := d.Mount(t, s.ref(name))
	eventually(t, "nothing is being fetched", func() bool {
		st := status(t, d)
		return st.Fetch.Active == 0 && st.Fetch.Queued == 0
	})
	before := status(t, d).Fetch
	line = harness.Run(t, "chroot", dir, "/usr/bin/python3", "/app/hello.py")
	after := status(t, d).Fetch
	harness.Run(t, "umount", dir)
	return line, after.Requests["demand"] - before.Requests["demand"], before.Requests["prefetch"]
}

// TestOptimizedStartWaitsForLess: an image ordered by a run of its command starts
// on a node that has no profile of it, and that has fetched what its landmarks name,
// with hardly a request that somebody waits for. The same image, converted without
// an order, makes one after the other.
func TestOptimizedStartWaitsForLess(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	plainLine, plainWaited, plainAhead := coldRun(t, site, "lazy")
	if plainAhead != 0 || plainWaited < 5 {
		t.Errorf("without an order %d requests were made ahead, and %d by readers", plainAhead, plainWaited)
	}
	for name, flags := range map[string][]string{"estargz": nil, "zstd": {"--format", "zstd:chunked"}} {
		t.Run(name, func(t *testing.T) {
			target := site.registry.Addr + "/fast-" + name + ":latest"
			res := optimize(t, nil, append(flags, "--run", site.registry.Addr+"/plain:latest", target)...)
			if res.From != "run" || res.Files < 20 || res.First != res.Files || res.Rewritten != 3 || res.Run == nil || res.Run.Exit != 0 || res.Run.Stopped {
				t.Errorf("%+v", res)
			}
			nineply(t, "verify", target)
			line, waited, ahead := coldRun(t, site, "fast-"+name)
			if line != plainLine {
				t.Errorf("it printed %q instead of %q", line, plainLine)
			}
			if ahead == 0 || waited != 0 {
				t.Errorf("%d requests ahead, %d by readers, who made %d without an order", ahead, waited, plainWaited)
			}
			t.Logf("%d files, %d bytes ahead; requests that somebody waited for: %d instead of %d", res.Files, res.Prefetch, waited, plainWaited)
		})
	}
}

// TestOptimizeThroughTheRunningDaemon: a run through a daemon leaves its profiles
// as they were; with the image in use there, it has a daemon of its own. What the
// daemon recorded, and what was pushed, is used where nothing is run.
func TestOptimizeThroughTheRunningDaemon(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	d := site.daemon(t, "")
	source, target := site.ref("lazy"), site.ref("fast")
	profiles := func() string { return d.CLI(t, "profile", "ls", "--json") }

	first := optimize(t, d, "--run", source, target)
	if list := profiles(); strings.TrimSpace(list) != "" || first.First == 0 {
		t.Errorf("after a run the daemon has profiles: %s (%+v)", list, first)
	}
	again := optimize(t, d, target, site.ref("again"), "--", "python3", "/app/hello.py")
	if again.Rewritten != 0 || again.Digest != first.Digest {
		t.Errorf("optimized again: %+v, first %+v", again, first)
	}

	dir := d.Mount(t, source)
	harness.Run(t, "cat", filepath.Join(dir, "etc/debian_version"))
	busy := optimize(t, d, "--run", source, target)
	harness.Run(t, "umount", dir)
	if busy.Digest != first.Digest {
		t.Errorf("while it was in use: %+v, before %+v", busy, first)
	}

	eventually(t, "the read of one file is recorded", func() bool { return strings.TrimSpace(profiles()) != "" })
	recorded := optimize(t, d, source, target)
	if recorded.From != "daemon" || recorded.Files != 1 || recorded.First != 1 {
		t.Errorf("by what the daemon recorded: %+v", recorded)
	}
	kept := d.CLI(t, "profile", "export", source)
	optimize(t, d, "--run", source, target)
	if d.CLI(t, "profile", "export", source) != kept {
		t.Error("a run changed the profile that the daemon had")
	}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, []byte(kept), 0o600))
	for _, from := range [][]string{{"--profile", file}, {"--private"}} {
		if from[0] == "--private" {
			d.CLI(t, "profile", "push", source)
		}
		res := optimize(t, d, append(from, source, target)...)
		if res.Digest != recorded.Digest || res.From == "daemon" {
			t.Errorf("%v: %+v, recorded %+v", from, res, recorded)
		}
	}
}

// TestOptimizeRunsAsItIsTold: user, directory, environment, mounts and network of
// the command, the end of one that goes on, and the failure of one that fails.
func TestOptimizeRunsAsItIsTold(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	source, target := site.registry.Addr+"/lazy:latest", site.registry.Addr+"/fast:latest"
	host, state := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(host, "script"), []byte(`set -eu
[ "$(id -u):$(id -g)" = 65534:65534 ]
[ "$(pwd):$NAME" = /app:value ]
[ "$(tail -n +3 /proc/net/dev | wc -l)" = 1 ]
echo written >/tmp/file
! echo x 2>/dev/null >/host/file
head -c 1000 /app/data/random >/dev/null
`), 0o600))
	must(t, os.Chmod(filepath.Join(host, "script"), 0o644)) //nolint:gosec // the container's user reads it
	must(t, os.Chmod(host, 0o755))                          //nolint:gosec // likewise
	told := optimize(t, nil, "--user", "nobody", "--workdir", "/app", "--env", "NAME=value", "--mount", host+":/host:ro", "--entrypoint", "/bin/sh -x", source, target, "--", "/host/script")
	if !slices.Equal(told.LargeFiles, []string{"app/data/random"}) || told.Prefetch > 8<<20 {
		t.Errorf("little of a large file was read: %+v", told)
	}

	res := optimize(t, nil, "--period", "1s", "--net", "host", source, target, "--", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
	if res.Run == nil || !res.Run.Stopped || res.Digest == "" {
		t.Errorf("%+v", res)
	}
	before := digestIn(t, nineply(t, "convert", "-q", "--level", "1", source, target))
	out, err := harness.TryRun(t, filepath.Join(programs, "nineply"), "--state", state, "optimize", source, target, "--", "sh", "-c", "echo last words; exit 7")
	if err == nil || !strings.Contains(err.Error(), "status 7") || !strings.Contains(err.Error(), "last words") {
		t.Errorf("a command that fails: %q, %v", out, err)
	}
	if after := nineply(t, "inspect", "--json", target); !strings.Contains(after, before) {
		t.Errorf("a failure wrote the target: %s instead of %s", after, before)
	}
	optimize(t, nil, "--any-exit", source, target, "--", "sh", "-c", "exit 7")
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	if strings.Contains(string(mounts), "nineply-optimize-") {
		t.Errorf("mounts are left:\n%s", mounts)
	}
}

// TestOptimizeLeavesNothing: a run that is killed leaves a container and mounts,
// which the next one takes away. That one goes on until it is told to end.
func TestOptimizeLeavesNothing(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	dir := harness.Dir(t)
	loop := "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done"
	run := func(name string, flags ...string) *harness.Process {
		p := harness.Start(t, dir, name, nil, slices.Concat([]string{
			filepath.Join(programs, "nineply"), "--state", dir + "/none", "optimize", "--level", "1", "--temp-dir", dir}, flags,
			[]string{site.registry.Addr + "/lazy:latest", site.registry.Addr + "/fast:latest", "--", "/bin/sh", "-c", loop})...)
		p.Await(t, func() error {
			if !strings.Contains("\n"+p.Tail(), "\nup\n") {
				return errors.New("the command has not begun")
			}
			return nil
		})
		return p
	}
	killed := run("killed")
	left, err := filepath.Glob(dir + "/nineply-optimize-*")
	must(t, err)
	killed.Kill()
	waiting := run("waiting", "--wait-on-signal", "--period", "1ms", "--record-out", dir+"/record.json")
	for _, path := range left {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
	must(t, syscall.Kill(waiting.PID(), syscall.SIGINT))
	eventually(t, "it ends when it is told to", func() bool { return !waiting.Running() })
	if !strings.Contains(waiting.Tail(), site.registry.Addr+"/fast:latest@sha256:") {
		t.Errorf("it ended with\n%s", waiting.Tail())
	}
	record, err := os.ReadFile(dir + "/record.json")
	if err != nil || !strings.Contains(string(record), `bin/dash","manifestDigest":"sha256:`) {
		t.Errorf("recorded: %s, %v", record, err)
	}
}
