package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/demoimage"
	"github.com/nineply/nineply/internal/testreg"
	"github.com/nineply/nineply/vm/vmtest"
)

// owners prints who owns the files of busybox, as the container sees it.
const owners = "stat -c %u:%g / /data/root /data/joe /data/big; cat /data/root; touch /tmp/x && stat -c %u /tmp/x"

func wantOwners(t *testing.T, out string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for i, want := range []string{"0:0", "0:0", "1000:1001", "7:0", "of root", "0"} {
		if i >= len(lines) || !strings.HasSuffix(lines[i], want) {
			t.Fatalf("line %d is not %q in:\n%s", i, want, out)
		}
	}
}

// wantSmall fails the test if a container's own layer holds a copy of its image.
func wantSmall(t *testing.T, c *harness.Containerd, namespace, key string) {
	t.Helper()
	usage := harness.Run(t, c.CtrPath(), "--address", c.Address, "--namespace", namespace, "snapshots", "--snapshotter", "nineply", "usage", "-b", key)
	fields := strings.Fields(usage[strings.LastIndex(strings.TrimSpace(usage), "\n")+1:])
	if len(fields) != 3 {
		t.Fatalf("usage: %q", usage)
	}
	if size, err := strconv.Atoi(fields[1]); err != nil || size > 64<<10 {
		t.Errorf("the container's own layer has %s bytes, %v", fields[1], err)
	}
}

// wantNoCopy fails the test if a snapshot was made to hold a shifted copy.
func wantNoCopy(t *testing.T, c *harness.Containerd, namespace string) {
	t.Helper()
	list := harness.Run(t, c.CtrPath(), "--address", c.Address, "--namespace", namespace, "snapshots", "--snapshotter", "nineply", "ls")
	committed := 0
	for line := range strings.Lines(list) {
		if strings.Contains(line, "Committed") {
			committed++
		}
	}
	if committed > 2 { // the layer of each image
		t.Errorf("a copy was made:\n%s", list)
	}
}

// TestUserNamespace: the files of a container in a user namespace have the owners
// that its image gives them, whatever the mapping, and not one is copied for it.
func TestUserNamespace(t *testing.T) {
	start(t)
	reg := testreg.New(t)
	busybox(t, reg, "app")
	daemon := harness.StartDaemon(t, programs, harness.DaemonOptions{Registries: []string{reg.Host()}})
	newRunc(t)
	c := harness.StartContainerd2(t, daemon.Plugin(), reg.Host())
	passable(t, c)
	ref := reg.Ref("app", "latest")
	c.Ctr(t, "images", "pull", "--hosts-dir", c.HostsDir(), "--snapshotter", "nineply", ref)
	for i, base := range []int{100000, 300000, 100000} {
		name := fmt.Sprintf("c%d", i)
		mapping := fmt.Sprintf("0:%d:65536", base)
		out := c.Ctr(t, "run", "--snapshotter", "nineply", "--uidmap", mapping, "--gidmap", mapping, "--remap-labels",
			ref, name, "/bin/sh", "-c", owners)
		wantOwners(t, out)
		wantSmall(t, c, c.Namespace, name)
		c.Ctr(t, "containers", "rm", name)
	}
	wantNoCopy(t, c, c.Namespace)
	c.Ctr(t, "images", "rm", "--sync", ref)
	eventually(t, "mounts are gone", func() bool { return len(status(t, daemon).Mounts) == 0 })
}

// TestUserNamespacedPod is the same with a pod, as Kubernetes makes it with
// hostUsers: false.
func TestUserNamespacedPod(t *testing.T) {
	start(t)
	reg := testreg.New(t)
	busybox(t, reg, "app")
	newRunc(t)
	n := newNode(t, harness.StartContainerd2, reg)
	passable(t, n.c)
	mapping := sub(2, num(1, 200000), num(2, 0), num(3, 65536))
	gids := append([]byte{3 << 3 & 0xff}, mapping[1:]...)
	gids[0] |= 2 // the same message in field 3
	n.userns = sub(5, num(1, 0), mapping, gids)
	ref := reg.Ref("app", "latest")
	must(t, n.pull(ref, "", ""))
	out := n.run(ref, []string{"/bin/sh", "-c", owners}, nil, func(id string) { wantSmall(t, n.c, "k8s.io", id) })
	wantOwners(t, out)
	wantNoCopy(t, n.c, "k8s.io")
	n.removeImage(ref)
	eventually(t, "mounts are gone", func() bool { return len(status(t, n.daemon).Mounts) == 0 })
}

// newRunc puts a runc that knows mapped mounts first in PATH; Debian's does not.
func newRunc(t *testing.T) {
	t.Helper()
	cache, err := demoimage.CacheDir()
	must(t, err)
	found, err := filepath.Glob(filepath.Join(cache, "runc-v*", "bin", "runc"))
	must(t, err)
	if len(found) == 0 {
		vmtest.Require(t, fmt.Errorf("no runc in %s: run deploy/install-deps.sh test", cache))
	}
	t.Setenv("PATH", filepath.Dir(found[len(found)-1])+":"+os.Getenv("PATH"))
}

// passable lets the root of a container reach its root file system.
func passable(t *testing.T, c *harness.Containerd) {
	t.Helper()
	must(t, os.Chmod(filepath.Dir(c.Address), 0o711)) //nolint:gosec // it has to be passable
}
