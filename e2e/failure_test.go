package e2e_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/image"
)

// layerDigests lists the layers of an image of the site, bottom first.
func (s *site) layerDigests(t *testing.T, name string) []string {
	t.Helper()
	var report image.Report
	out := harness.Run(t, filepath.Join(programs, "nineply"), "inspect", "--json", s.registry.Addr+"/"+name+":latest")
	must(t, json.Unmarshal([]byte(out), &report))
	var digests []string
	for _, l := range report.Layers {
		digests = append(digests, l.Digest)
	}
	return digests
}

// TestRegistryFailures: whatever a registry answers, the user is told which
// image and layer it was about and why, nothing hangs, and the next try works.
func TestRegistryFailures(t *testing.T) {
	start(t)
	site := newSite(t, small(t), harness.Shape{})
	site.convert(t, "good", "--chunk-size", "64KiB")
	layers := site.layerDigests(t, "lazy")
	layer := layers[len(layers)-1] // not in the other image, whose chunks are smaller
	daemon := site.daemon(t, "")
	healthy := daemon.Mount(t, site.ref("good"))
	for name, tt := range map[string]struct {
		fault harness.Fault
		cause string
		exit  int
	}{
		"404": {harness.Fault{Status: 404}, "404", 1},
		"401": {harness.Fault{Status: 401}, "401", 4},
		"403": {harness.Fault{Status: 403}, "403", 4},
		"429": {harness.Fault{Status: 429}, "429", 4},
		"500": {harness.Fault{Status: 500}, "500", 4},
		"cut": {harness.Fault{CutAfter: 100}, "", 4},
	} {
		t.Run(name, func(t *testing.T) {
			site.proxy.SetFault(func(r *http.Request) harness.Fault {
				if strings.HasSuffix(r.URL.Path, layer) {
					return tt.fault
				}
				return harness.Fault{}
			})
			defer site.proxy.SetFault(nil)
			dir := t.TempDir()
			out, err := daemon.Try(t, "mount", site.ref("lazy"), dir)
			if err == nil {
				t.Fatal("mounted")
			}
			text := out + err.Error()
			for _, part := range []string{layer, site.proxy.Addr + "/lazy", tt.cause} {
				if !strings.Contains(text, part) {
					t.Errorf("%q is not in:\n%s", part, text)
				}
			}
			if want := "exit status " + strconv.Itoa(tt.exit); !strings.Contains(text, want) {
				t.Errorf("not %s:\n%s", want, text)
			}
			if _, err := os.ReadFile(filepath.Join(healthy, "app/data/text")); err != nil {
				t.Errorf("another image: %v", err)
			}
		})
	}
	daemon.Mount(t, site.ref("lazy")) // all is forgotten
}

// TestRegistryIsDown: what was mounted once is mounted again without a
// registry, also by a daemon that was started without one.
func TestRegistryIsDown(t *testing.T) {
	start(t)
	site := newSite(t, small(t), harness.Shape{})
	daemon := site.daemon(t, "")
	read := func(dir string) {
		t.Helper()
		if _, err := os.ReadFile(filepath.Join(dir, "app/hello.py")); err != nil {
			t.Error(err)
		}
	}
	dir := daemon.Mount(t, site.ref("lazy"))
	read(dir)
	daemon.CLI(t, "umount", dir)
	daemon.Stop(t)
	site.registry.Stop(t)
	daemon.Start(t)
	read(daemon.Mount(t, site.ref("lazy")))
}

// TestNothingIsLeft: mounting and unmounting over and over leaves no open file
// in the daemon and in the keeper.
func TestNothingIsLeft(t *testing.T) {
	start(t)
	site := newSite(t, small(t), harness.Shape{})
	daemon := site.daemon(t, "")
	cycle := func() {
		dir := daemon.Mount(t, site.ref("lazy"))
		if _, err := os.ReadFile(filepath.Join(dir, "app/hello.py")); err != nil {
			t.Error(err)
		}
		daemon.CLI(t, "umount", dir)
	}
	for range 3 {
		cycle()
	}
	files := func(pid int) int {
		entries, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
		must(t, err)
		return len(entries)
	}
	d, k := files(daemon.PID()), files(daemon.Keeper.PID())
	for range 20 {
		cycle()
	}
	eventually(t, "files are closed", func() bool { return files(daemon.PID()) <= d && files(daemon.Keeper.PID()) <= k })
	if st := status(t, daemon); len(st.Mounts) > 0 || st.Sessions > 0 {
		t.Errorf("left: %+v", st)
	}
}
