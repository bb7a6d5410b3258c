package e2e_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/demoimage/treesum"
)

// filling has the daemon begin at once.
const filling = "[fetch]\nbackground_delay = '100ms'\nbackground_share = 100\n"

// layer finds one layer in the daemon's status.
func layerStatus(t *testing.T, d *harness.Daemon, digest string) control.LayerStatus {
	t.Helper()
	for _, l := range status(t, d).Layers {
		if l.Digest == digest {
			return l
		}
	}
	return control.LayerStatus{}
}

// biggest is the largest layer of an image of the site.
func (s *site) biggest(t *testing.T, d *harness.Daemon, name string) control.LayerStatus {
	t.Helper()
	digests := s.layerDigests(t, name)
	layers := slices.DeleteFunc(status(t, d).Layers, func(l control.LayerStatus) bool { return !slices.Contains(digests, l.Digest) })
	return slices.MaxFunc(layers, func(a, b control.LayerStatus) int { return int(a.Size - b.Size) })
}

// TestBackgroundFill: an image that is in use comes as a whole, while the daemon is
// killed and started again, and is served without its registry then.
func TestBackgroundFill(t *testing.T) {
	start(t)
	im := debian(t)
	want := reference(t, im)
	site := newSite(t, im, harness.Shape{})
	daemon := site.daemon(t, filling+"background_rate = '25MB'\n")
	dir := daemon.Mount(t, site.ref("lazy"))
	big := site.biggest(t, daemon, "lazy")
	eventually(t, "the largest layer is half there", func() bool { return layerStatus(t, daemon, big.Digest).Done > big.Size/2 })
	daemon.Kill()
	before := site.proxy.Counts().Blobs[big.Digest].Bytes
	daemon.Start(t)
	for _, digest := range site.layerDigests(t, "lazy") {
		eventually(t, digest+" is verified", func() bool { return layerStatus(t, daemon, digest).State == "verified" })
	}
	after := site.proxy.Counts().Blobs[big.Digest].Bytes
	t.Logf("largest layer: %d bytes, %d fetched before the daemon was killed, %d afterwards", big.Size, before, after-before)
	// It goes on from the last checkpoint, at most 8 MiB and a request ago.
	if most := big.Size - before + 24<<20; after-before > most {
		t.Errorf("%d of %d bytes were fetched again", after-before, big.Size)
	}
	site.proxy.SetFault(func(*http.Request) harness.Fault { return harness.Fault{Status: 500} })
	got, err := treesum.Walk(dir, treesum.Options{})
	must(t, err)
	same(t, want, got, treesum.Compare{})
	if out := daemon.CLI(t, "status"); !strings.Contains(out, " verified ") {
		t.Errorf("status says nothing of it:\n%s", out)
	}
	if out := daemon.CLI(t, "events"); strings.Count(out, "verified") == 0 || strings.Contains(out, "poisoned") {
		t.Errorf("events:\n%s", out)
	}
}

// misname pushes an image whose config claims another DiffID for its top layer.
func (s *site) misname(t *testing.T, from, name string) {
	t.Helper()
	dir := t.TempDir()
	harness.Run(t, "skopeo", "copy", "--quiet", "--src-tls-verify=false", "docker://"+s.registry.Addr+"/"+from+":latest", "oci:"+dir+"/p:x")
	layout := filepath.Join(dir, "p")
	var index, manifest, config map[string]any
	must(t, readJSON(filepath.Join(layout, "index.json"), &index))
	entry := index["manifests"].([]any)[0].(map[string]any)
	must(t, readJSON(blobPath(layout, entry["digest"]), &manifest))
	desc := manifest["config"].(map[string]any)
	must(t, readJSON(blobPath(layout, desc["digest"]), &config))
	ids := config["rootfs"].(map[string]any)["diff_ids"].([]any)
	ids[len(ids)-1] = "sha256:" + strings.Repeat("0123456789abcdef", 4)
	var err error
	desc["digest"], desc["size"], err = writeBlob(layout, config)
	must(t, err)
	entry["digest"], entry["size"], err = writeBlob(layout, manifest)
	must(t, err)
	text, err := json.Marshal(index)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(layout, "index.json"), text, 0o600))
	harness.Run(t, "skopeo", "copy", "--quiet", "--dest-tls-verify=false", "oci:"+layout+":x", "docker://"+s.registry.Addr+"/"+name+":latest")
}

// TestPoisonedImage: an image whose config lies about a layer is served until that is
// found out, and not any longer. Another one of the same layers is none the worse.
func TestPoisonedImage(t *testing.T) {
	start(t)
	site := newSite(t, small(t), harness.Shape{})
	site.misname(t, "lazy", "lying")
	daemon := site.daemon(t, filling)
	lying := daemon.Mount(t, site.ref("lying"))
	healthy := daemon.Mount(t, site.ref("lazy"))
	digests := site.layerDigests(t, "lying")
	top := digests[len(digests)-1]
	eventually(t, "the layer is poisoned", func() bool { return layerStatus(t, daemon, top).State == "poisoned" })
	if l := layerStatus(t, daemon, top); !strings.Contains(l.StateReason, "diff ID") {
		t.Errorf("%+v", l)
	}
	if _, err := os.ReadFile(filepath.Join(lying, "app/hello.py")); !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v, want EIO", err)
	}
	if _, err := os.ReadFile(filepath.Join(healthy, "app/hello.py")); err != nil {
		t.Errorf("another image of the same layers: %v", err)
	}
	if out, err := daemon.Try(t, "mount", site.ref("lying"), t.TempDir()); err == nil || !strings.Contains(out+err.Error(), "exit status 3") || !strings.Contains(out+err.Error(), "poisoned") {
		t.Errorf("mounted again: %s, %v", out, err)
	}
	var poisoned []control.Event
	for line := range strings.Lines(daemon.CLI(t, "events", "--json")) {
		var e control.Event
		must(t, json.Unmarshal([]byte(line), &e))
		if e.Kind == "poisoned" {
			poisoned = append(poisoned, e)
		}
	}
	if len(poisoned) != 1 || poisoned[0].Layer != top {
		t.Errorf("events %+v", poisoned)
	}
	// A restart knows it, too.
	daemon.Kill()
	daemon.Start(t)
	if _, err := daemon.Try(t, "mount", site.ref("lying"), t.TempDir()); err == nil {
		t.Error("mounted after a restart")
	}
}

// TestBackgroundIsCancelled: nothing is fetched of an image that nobody uses.
func TestBackgroundIsCancelled(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	daemon := site.daemon(t, filling+"background_rate = '1MB'\n")
	dir := daemon.Mount(t, site.ref("lazy"))
	filling := func() bool {
		return slices.ContainsFunc(status(t, daemon).Layers, func(l control.LayerStatus) bool { return l.State == "filling" && l.Done > 0 })
	}
	eventually(t, "a layer is being filled", filling)
	daemon.CLI(t, "umount", dir)
	eventually(t, "nothing is filled", func() bool { return !filling() })
	before := site.proxy.Counts().BlobBytes()
	time.Sleep(3 * time.Second) // three requests at that rate
	if after := site.proxy.Counts().BlobBytes(); after != before {
		t.Errorf("%d bytes were fetched of an image that nobody uses", after-before)
	}
}

// TestBackgroundVerifiesForeignFormats: whoever wrote an image with a table of
// contents, it is found to be what it is.
func TestBackgroundVerifiesForeignFormats(t *testing.T) {
	start(t)
	for name, args := range map[string][]string{"special": {"small"}, "python": {"-layer", "1", "demo"}} {
		c := newCorpus(t, args...)
		s := &site{registry: harness.StartRegistry(t)}
		s.proxy = harness.StartProxy(t, s.registry.Addr, harness.Shape{})
		c.push(t, s)
		daemon := s.daemon(t, filling)
		for _, v := range append(c.variants, c.debianVariants(t, s)...) {
			t.Run(name+"/"+v.name, func(t *testing.T) {
				daemon.Mount(t, s.ref(v.name))
				for _, digest := range s.layerDigests(t, v.name) {
					var last control.LayerStatus
					eventually(t, "the layer is verified or poisoned", func() bool {
						last = layerStatus(t, daemon, digest)
						return last.State == "verified" || last.State == "poisoned" || last.State == "failed"
					})
					if last.State != "verified" {
						t.Errorf("%+v", last)
					}
				}
			})
		}
	}
}
