package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/testreg"
)

// node is a machine of a cluster: containerd, the daemon, and who calls both.
type node struct {
	*kubelet
	daemon *harness.Daemon
	c      *harness.Containerd
	pause  *testreg.Registry
}

// newNode starts one whose image service is the daemon, as kubelet's
// --image-service-endpoint has it. The sandbox's image is in a registry of its own
// that wants no password.
func newNode(t *testing.T, run func(testing.TB, *harness.Plugin, ...string) *harness.Containerd, reg *testreg.Registry) *node {
	t.Helper()
	pause := testreg.New(t)
	busybox(t, pause, "pause")
	runtime := filepath.Join(t.TempDir(), "runtime.sock")
	images := filepath.Join(filepath.Dir(runtime), "cri.sock")
	daemon := harness.StartDaemon(t, programs, harness.DaemonOptions{
		Config:     fmt.Sprintf("[registry.cri]\nlisten = 'unix:%s'\nruntime = 'unix:%s'\n", images, runtime),
		Registries: []string{reg.Host(), pause.Host()},
	})
	plugin := daemon.Plugin()
	plugin.Sandbox = pause.Ref("pause", "latest")
	c := run(t, plugin, reg.Host(), pause.Host())
	must(t, os.Symlink(c.Address, runtime))
	return &node{kubelet: newKubelet(t, c.Address, images), daemon: daemon, c: c, pause: pause}
}

// down makes a registry useless.
func down(reg *testreg.Registry) {
	reg.Always(testreg.Match{}, testreg.Status(http.StatusServiceUnavailable))
}

// TestPods: kubelet's calls start pods from images of which containerd has no layer,
// with and without a password, the second time from the cache alone, and what is
// removed is gone.
func TestPods(t *testing.T) {
	start(t)
	for version, run := range containerds {
		for user, options := range map[string][]testreg.Option{"": nil, "joe": {testreg.WithBearer("joe", "hush")}} {
			t.Run(version+"/user="+user, func(t *testing.T) {
				reg := testreg.New(t, options...)
				added := busybox(t, reg, "team/app")
				n := newNode(t, run, reg)
				ref := reg.Ref("team/app", "latest")
				if user != "" && n.pull(ref, user, "wrong") == nil {
					t.Fatal("pulled with a wrong password")
				}
				must(t, n.pull(ref, user, "hush"))
				command := []string{"/bin/sh", "-c", "stat -c %u:%g /data/root /data/joe; cat /data/joe"}
				check := func() {
					t.Helper()
					out := n.run(ref, command, nil, nil)
					for _, want := range []string{" 0:0\n", " 1000:1001\n", " of joe\n"} {
						if !strings.Contains(out, want) {
							t.Errorf("%q is not in %q", want, out)
						}
					}
				}
				check()
				blobs := n.c.Content(t, "k8s.io")
				for _, layer := range added.Layers {
					if slices.Contains(blobs, layer.Digest.String()) {
						t.Errorf("containerd downloaded layer %s", layer.Digest)
					}
				}
				if len(blobs) > 4 { // manifest and config of two images
					t.Errorf("containerd downloaded %v", blobs)
				}
				down(reg)
				down(n.pause)
				check()
				n.removeImage(ref)
				eventually(t, "the image is gone", func() bool {
					left := harness.Run(t, n.c.CtrPath(), "--address", n.c.Address, "--namespace", "k8s.io", "snapshots", "--snapshotter", "nineply", "ls")
					return len(status(t, n.daemon).Mounts) == 0 && strings.Count(left, "Committed") == 1 // the sandbox's
				})
				n.daemon.CLI(t, "cache", "gc", "--all-unused")
				for _, l := range status(t, n.daemon).Layers {
					if l.Digest == added.Layers[0].Digest.String() {
						t.Errorf("the cache still has layer %s", l.Digest)
					}
				}
			})
		}
	}
}

// TestImageVolume: the files of an image are a volume of a container of another,
// and no layer of either is downloaded.
func TestImageVolume(t *testing.T) {
	start(t)
	reg := testreg.New(t)
	busybox(t, reg, "app")
	smallImage(t, reg, "volume", "what the volume holds")
	n := newNode(t, harness.StartContainerd2, reg)
	app, volume := reg.Ref("app", "latest"), reg.Ref("volume", "latest")
	must(t, n.pull(app, "", ""))
	must(t, n.pull(volume, "", ""))
	image, _ := field(t, n.call(n.images, "ImageService/ImageStatus", sub(1, str(1, volume))), 1)
	id, _ := field(t, image, 1)
	mounts := [][]byte{sub(7, str(1, "/volume"), num(3, 1), sub(9, str(1, string(id))))}
	if out := n.run(app, []string{"/bin/cat", "/volume/file"}, mounts, nil); !strings.Contains(out, "what the volume holds") {
		t.Errorf("it printed %q", out)
	}
	if blobs := n.c.Content(t, "k8s.io"); len(blobs) > 6 {
		t.Errorf("containerd downloaded %v", blobs)
	}
	n.removeImage(app)
	n.removeImage(volume)
	eventually(t, "mounts are gone", func() bool { return len(status(t, n.daemon).Mounts) == 0 })
}
