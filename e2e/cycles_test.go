package e2e_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/coldstart"
)

// cyclesInShort is how many cycles there are when NINEPLY_CYCLES does not say.
const cyclesInShort = 5

// footprint is what a daemon, its keeper and containerd hold.
type footprint struct {
	Mounts, Snapshots     int
	DaemonFDs, KeeperFDs  int
	Trees, Journal, Index int   // trees in use, files of the snapshotter's journal, index files
	Chunks, Disk          int64 // in the cache, and bytes below the daemon's root
}

// TestCycles pulls, runs and removes an image over and over. What is held afterwards is
// what was held after the first cycle.
func TestCycles(t *testing.T) {
	start(t)
	cycles := cyclesInShort
	if text := os.Getenv("NINEPLY_CYCLES"); text != "" {
		n, err := strconv.Atoi(text)
		must(t, err)
		cycles = n
	}
	site := newSite(t, debian(t), harness.Shape{})
	daemon := site.daemon(t, "")
	c := harness.StartContainerd2(t, daemon.Plugin(), site.proxy.Addr)
	cycle := func() {
		t.Helper()
		res, err := coldstart.Run(t.Context(), coldstart.Spec{
			Address: c.Address, Namespace: "cycle", Snapshotter: "nineply", Ref: site.ref("lazy"), PlainHTTP: true,
		})
		must(t, err)
		if !strings.HasPrefix(res.Line, greeting) {
			t.Fatalf("it printed %q", res.Line)
		}
		eventually(t, "mounts and snapshots are gone", func() bool {
			f := footprintOf(t, daemon, c)
			return f.Mounts == 0 && f.Snapshots == 0 && f.Journal == 0 && f.Trees == 0
		})
		daemon.CLI(t, "cache", "gc", "--all-unused")
	}
	cycle()
	cycle() // what is made once and kept is there now
	base := footprintOf(t, daemon, c)
	for range cycles {
		cycle()
	}
	eventually(t, "connections are closed", func() bool {
		f := footprintOf(t, daemon, c)
		return f.DaemonFDs <= base.DaemonFDs+spareFiles && f.KeeperFDs <= base.KeeperFDs+spareFiles
	})
	got := footprintOf(t, daemon, c)
	t.Logf("after %d cycles: %+v, at first %+v", cycles, got, base)
	if got.Chunks > base.Chunks || got.Index > base.Index {
		t.Errorf("after %d cycles: %+v, at first %+v", cycles, got, base)
	}
	// Logs and tables of the records are written again in their own time.
	if got.Disk > base.Disk+8<<20 {
		t.Errorf("%d bytes on disk, %d at first", got.Disk, base.Disk)
	}
}

func footprintOf(t *testing.T, d *harness.Daemon, c *harness.Containerd) footprint {
	t.Helper()
	st := status(t, d)
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(filepath.Join(d.Dir, "root")))
	must(t, err)
	list := harness.Run(t, c.CtrPath(), "--address", c.Address, "--namespace", "cycle", "snapshots", "--snapshotter", "nineply", "ls")
	f := footprint{
		Mounts: len(mounts) + len(st.Mounts), Snapshots: strings.Count(strings.TrimSpace(list), "\n"),
		DaemonFDs: openFiles(t, d.PID()), KeeperFDs: openFiles(t, d.Keeper.PID()), Chunks: st.Cache.Chunks,
	}
	for _, tree := range st.Trees {
		f.Trees += tree.Users
	}
	root := filepath.Join(d.Dir, "root")
	must(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if os.IsNotExist(err) { // it went meanwhile
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		switch filepath.Base(filepath.Dir(path)) {
		case "layers", "merged":
			f.Index++
		}
		if strings.HasPrefix(path, filepath.Join(root, "snapshotter", "chains")) || strings.HasPrefix(path, filepath.Join(root, "snapshotter", "mounts")) {
			f.Journal++
		}
		if info, err := e.Info(); err == nil {
			f.Disk += info.Size()
		}
		return nil
	}))
	return f
}

// TestForgedDiffIDs: an image that claims the diff IDs of another one for files of its
// own is pulled first. Who pulls the other one in a second namespace gets its own files
// all the same, and in the first namespace the verifier forbids it.
func TestForgedDiffIDs(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	site.forge(t, "forged")
	daemon := site.daemon(t, "")
	c := harness.StartContainerd2(t, daemon.Plugin(), site.proxy.Addr)
	run := func(namespace, name string) error {
		res, err := coldstart.Run(t.Context(), coldstart.Spec{
			Address: c.Address, Namespace: namespace, Snapshotter: "nineply", Ref: site.ref(name), PlainHTTP: true, Keep: true,
		})
		if err == nil && !strings.HasPrefix(res.Line, greeting) {
			t.Errorf("%s printed %q", name, res.Line)
		}
		return err
	}
	if err := run("attacker", "forged"); err == nil {
		t.Error("the forged image has no program, and ran")
	}
	must(t, run("honest", "lazy"))
	forbidden(t, site, daemon, c)
	if out, err := daemon.Try(t, "events"); err != nil || !strings.Contains(out, "poisoned") {
		t.Errorf("%v: %s", err, out)
	}
	for namespace, name := range map[string]string{"attacker": "forged", "honest": "lazy"} {
		must(t, coldstart.Remove(t.Context(), coldstart.Spec{Address: c.Address, Namespace: namespace, Ref: site.ref(name)}))
	}
	must(t, coldstart.Remove(t.Context(), coldstart.Spec{Address: c.Address, Namespace: "attacker", Ref: site.ref("plain")}))
	eventually(t, "mounts are gone", func() bool { return len(status(t, daemon).Mounts) == 0 })
}

// forbidden installs the verifier, which does not let the forged image's namespace
// have the other image, and does not mind a third one.
func forbidden(t *testing.T, site *site, daemon *harness.Daemon, c *harness.Containerd) {
	t.Helper()
	must(t, os.Mkdir(c.VerifierDir(), 0o700))
	script := "#!/bin/sh\nNINEPLY_VERIFIER_TIMEOUT=50s NINEPLY_VERIFIER_REQUIRE=1 NINEPLY_ADDRESS=" + filepath.Join(daemon.Dir, "state/control.sock") +
		" exec " + filepath.Join(programs, "nineply-verifier") + " \"$@\"\n"
	must(t, os.WriteFile(filepath.Join(c.VerifierDir(), "nineply"), []byte(script), 0o700)) //nolint:gosec // to be executed
	pull := func(name string) (string, error) {
		return harness.TryRun(t, c.CtrPath(), "--address", c.Address, "--namespace", "attacker", "images", "pull",
			"--hosts-dir", c.HostsDir(), "--snapshotter", "nineply", site.ref(name))
	}
	if out, err := pull("lazy"); err == nil || !strings.Contains(err.Error()+out, "poisoned") {
		t.Errorf("the verifier lets it pass: %v\n%s", err, out)
	}
	if out, err := pull("plain"); err != nil {
		t.Errorf("the verifier forbids another image: %v\n%s", err, out)
	}
}

// forge pushes an image with the config of "lazy", and so its diff IDs, whose lowest
// layer is the uppermost one of another conversion.
func (s *site) forge(t *testing.T, name string) {
	t.Helper()
	s.convert(t, "other", "--chunk-size", "64KiB")
	layout := filepath.Join(t.TempDir(), "p")
	manifests := map[string]map[string]any{}
	var index struct {
		SchemaVersion int              `json:"schemaVersion"`
		Manifests     []map[string]any `json:"manifests"`
	}
	for i, from := range []string{"other", "lazy"} {
		harness.Run(t, "skopeo", "copy", "--quiet", "--src-tls-verify=false", "docker://"+s.registry.Addr+"/"+from+":latest", "oci:"+layout+":"+from)
		must(t, readJSON(filepath.Join(layout, "index.json"), &index))
		var manifest map[string]any
		must(t, readJSON(blobPath(layout, index.Manifests[i]["digest"]), &manifest))
		manifests[from] = manifest
	}
	others := manifests["other"]["layers"].([]any)
	manifests["lazy"]["layers"].([]any)[0] = others[len(others)-1]
	digest, size, err := writeBlob(layout, manifests["lazy"])
	must(t, err)
	index.Manifests[1]["digest"], index.Manifests[1]["size"] = digest, size
	text, err := json.Marshal(index)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(layout, "index.json"), text, 0o600))
	harness.Run(t, "skopeo", "copy", "--quiet", "--dest-tls-verify=false", "oci:"+layout+":lazy", "docker://"+s.registry.Addr+"/"+name+":latest")
}
