package e2e_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/coldstart"
	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/demoimage"
)

// containerds are the versions that everything has to work with.
var containerds = map[string]func(testing.TB, *harness.Plugin, ...string) *harness.Containerd{
	"1.6": harness.StartContainerd1, "1.7": harness.StartContainerd17, "2.x": harness.StartContainerd2,
}

const greeting = "hello from python 3"

// TestContainerStartsFromImageNeverPulled is the main job: a container prints
// its line after a fraction of the image was fetched, containerd downloads no
// layer, pulling mounts nothing, and removing the image leaves nothing.
func TestContainerStartsFromImageNeverPulled(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	for version, run := range containerds {
		t.Run(version, func(t *testing.T) {
			daemon := site.daemon(t, "")
			c := run(t, daemon.Plugin(), site.proxy.Addr)
			site.proxy.Reset()
			var atLine int64
			res, err := coldstart.Run(t.Context(), coldstart.Spec{
				Address: c.Address, Namespace: "one", Snapshotter: "nineply", Ref: site.ref("lazy"), PlainHTTP: true, Keep: true,
				AtPull: func() {
					if mounts := status(t, daemon).Mounts; len(mounts) > 0 {
						t.Errorf("pulling made mounts: %+v", mounts)
					}
				},
				AtLine: func() { atLine = site.proxy.Counts().BlobBytes() },
			})
			must(t, err)
			if !strings.HasPrefix(res.Line, greeting) {
				t.Errorf("it printed %q", res.Line)
			}
			if total := site.image.Size(); atLine == 0 || atLine > total/4 {
				t.Errorf("%d of %d bytes fetched when the line was printed", atLine, total)
			}
			t.Logf("%d of %d bytes, %+v", atLine, site.image.Size(), res)
			noLayers(t, c, "one", site.image)
			again(t, c, daemon, site)
		})
	}
}

// again starts the image in a second namespace, where the layers are known, and
// then takes it away from both.
func again(t *testing.T, c *harness.Containerd, daemon *harness.Daemon, site *site) {
	t.Helper()
	spec := coldstart.Spec{Address: c.Address, Namespace: "two", Snapshotter: "nineply", Ref: site.ref("lazy"), PlainHTTP: true}
	_, err := coldstart.Run(t.Context(), spec)
	must(t, err)
	noLayers(t, c, "two", site.image)
	spec.Namespace = "one"
	must(t, coldstart.Remove(t.Context(), spec))
	eventually(t, "mounts and snapshots are gone", func() bool {
		snapshots := harness.Run(t, c.CtrPath(), "--address", c.Address, "--namespace", "one", "snapshots", "--snapshotter", "nineply", "ls")
		return len(status(t, daemon).Mounts) == 0 && strings.Count(strings.TrimSpace(snapshots), "\n") == 0
	})
}

// noLayers fails the test for every layer blob that containerd downloaded.
func noLayers(t *testing.T, c *harness.Containerd, namespace string, im *demoimage.Image) {
	t.Helper()
	if blobs := c.Content(t, namespace); len(blobs) > 2 { // manifest and config
		t.Errorf("containerd downloaded %d blobs of an image with %d layers: %v", len(blobs), len(im.Layers), blobs)
	}
}

// TestLayersThatAreNotLazy: an image as any builder makes it, and one in which
// only some layers were converted, start as well, and containerd downloads none
// of their layers.
func TestLayersThatAreNotLazy(t *testing.T) {
	start(t)
	site := newSite(t, debian(t), harness.Shape{})
	site.mix(t, "mixed")
	for version, run := range containerds {
		t.Run(version, func(t *testing.T) {
			daemon := site.daemon(t, "")
			c := run(t, daemon.Plugin(), site.proxy.Addr)
			for _, name := range []string{"mixed", "plain"} {
				res, err := coldstart.Run(t.Context(), coldstart.Spec{
					Address: c.Address, Namespace: name, Snapshotter: "nineply", Ref: site.ref(name), PlainHTTP: true, Keep: true,
				})
				must(t, err)
				if !strings.HasPrefix(res.Line, greeting) {
					t.Errorf("%s printed %q", name, res.Line)
				}
				noLayers(t, c, name, site.image)
			}
			reasons := 0
			for _, l := range status(t, daemon).Layers {
				if (!l.Lazy || strings.HasSuffix(l.Format, "+index")) && l.Reason != "" {
					reasons++
				}
			}
			if reasons != len(site.image.Layers) {
				t.Errorf("%d layers say why they were read whole", reasons)
			}
			for _, name := range []string{"mixed", "plain"} {
				must(t, coldstart.Remove(t.Context(), coldstart.Spec{Address: c.Address, Namespace: name, Ref: site.ref(name)}))
			}
			eventually(t, "mounts are gone", func() bool { return len(status(t, daemon).Mounts) == 0 })
		})
	}
}

// TestTransferService: containerd 2.x pulls lazily with its own ctr, which the
// snapshotter is announced to by the configuration alone.
func TestTransferService(t *testing.T) {
	start(t)
	site := newSite(t, small(t), harness.Shape{})
	daemon := site.daemon(t, "")
	c := harness.StartContainerd2(t, daemon.Plugin(), site.proxy.Addr)
	c.Ctr(t, "images", "pull", "--hosts-dir", c.HostsDir(), "--snapshotter", "nineply", site.ref("lazy"))
	noLayers(t, c, c.Namespace, site.image)
	if got := c.Ctr(t, "snapshots", "--snapshotter", "nineply", "ls"); strings.Count(got, "Committed") != len(site.image.Layers) {
		t.Errorf("snapshots:\n%s", got)
	}
	c.Ctr(t, "images", "rm", "--sync", site.ref("lazy"))
}

// status asks the daemon.
func status(t *testing.T, d *harness.Daemon) control.Status {
	t.Helper()
	var st control.Status
	must(t, json.Unmarshal([]byte(d.CLI(t, "status", "--json")), &st))
	return st
}

// eventually waits for what happens in the background.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 30 s: %s", what)
		}
	}
}

// mix pushes an image whose lowest layer is plain and whose others are
// converted.
func (s *site) mix(t *testing.T, name string) {
	t.Helper()
	dir := t.TempDir()
	harness.Run(t, "skopeo", "copy", "--quiet", "--src-tls-verify=false", "docker://"+s.registry.Addr+"/plain:latest", "oci:"+dir+"/p:plain")
	harness.Run(t, "skopeo", "copy", "--quiet", "--src-tls-verify=false", "docker://"+s.registry.Addr+"/lazy:latest", "oci:"+dir+"/p:lazy")
	layout := filepath.Join(dir, "p")
	must(t, mixLayout(layout))
	harness.Run(t, "skopeo", "copy", "--quiet", "--dest-tls-verify=false", "oci:"+layout+":mixed", "docker://"+s.registry.Addr+"/"+name+":latest")
}

// mixLayout adds an image "mixed" to a layout that has "plain" and "lazy".
func mixLayout(layout string) error {
	var index struct {
		SchemaVersion int              `json:"schemaVersion"`
		Manifests     []map[string]any `json:"manifests"`
	}
	if err := readJSON(filepath.Join(layout, "index.json"), &index); err != nil {
		return err
	}
	manifests, configs := map[string]map[string]any{}, map[string]map[string]any{}
	for _, m := range index.Manifests {
		name, _ := m["annotations"].(map[string]any)["org.opencontainers.image.ref.name"].(string)
		var manifest, config map[string]any
		if err := readJSON(blobPath(layout, m["digest"]), &manifest); err != nil {
			return err
		}
		if err := readJSON(blobPath(layout, manifest["config"].(map[string]any)["digest"]), &config); err != nil {
			return err
		}
		manifests[name], configs[name] = manifest, config
	}
	mixed, config := manifests["lazy"], configs["lazy"]
	mixed["layers"].([]any)[0] = manifests["plain"]["layers"].([]any)[0]
	config["rootfs"].(map[string]any)["diff_ids"].([]any)[0] = configs["plain"]["rootfs"].(map[string]any)["diff_ids"].([]any)[0]
	digest, size, err := writeBlob(layout, config)
	if err != nil {
		return err
	}
	mixed["config"].(map[string]any)["digest"], mixed["config"].(map[string]any)["size"] = digest, size
	if digest, size, err = writeBlob(layout, mixed); err != nil {
		return err
	}
	index.Manifests = append(index.Manifests, map[string]any{
		"mediaType": mixed["mediaType"], "digest": digest, "size": size,
		"annotations": map[string]any{"org.opencontainers.image.ref.name": "mixed"},
	})
	text, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(layout, "index.json"), text, 0o600)
}
