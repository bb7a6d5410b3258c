package e2e_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/demoimage/treesum"
)

// conversions are the formats that nineply convert writes, and its flags for them.
var conversions = map[string][]string{
	"estargz":      nil,
	"estargz-kept": {"--keep-diff-id"},
	"zstd":         {"--format", "zstd:chunked"},
	"containers":   {"--format", "zstd:chunked", "--dialect", "containers"},
}

// nineply runs the command, which must succeed, and returns what it printed.
func nineply(t *testing.T, args ...string) string {
	t.Helper()
	return harness.Run(t, append([]string{filepath.Join(programs, "nineply")}, args...)...)
}

// TestEveryFormatIsServedLazily: whatever an image was converted to, every digest
// in it is right, and mounted it is to the last bit what plain extraction of the
// source gives, without a layer that had to be read whole.
func TestEveryFormatIsServedLazily(t *testing.T) {
	start(t)
	im := debian(t)
	want := reference(t, im)
	site := newSite(t, im, harness.Shape{})
	daemon := site.daemon(t, "")
	for name, flags := range conversions {
		t.Run(name, func(t *testing.T) {
			site.convert(t, name, flags...)
			nineply(t, "verify", site.registry.Addr+"/"+name+":latest")
			got, err := treesum.Walk(daemon.Mount(t, site.ref(name)), treesum.Options{})
			must(t, err)
			same(t, want, got, treesum.Compare{})
		})
	}
	for _, l := range status(t, daemon).Layers {
		if !l.Lazy || l.Reason != "" {
			t.Errorf("%+v", l)
		}
	}
}

// TestContainerdsStore: an image goes from a registry and from a layout into the
// store of a containerd, which unpacks it and runs containers from it, and out of
// it again.
func TestContainerdsStore(t *testing.T) {
	start(t)
	im := debian(t)
	registry := harness.StartRegistry(t)
	registry.Push(t, im, "plain")
	plain, layout := registry.Addr+"/plain:latest", "oci:"+t.TempDir()+":"
	digests := map[string]string{}
	for name, flags := range conversions {
		digests[name] = nineply(t, slices.Concat([]string{"convert", "-q", "--level", "1", plain, layout + name}, flags)...)
	}
	for version, run := range containerds {
		t.Run(version, func(t *testing.T) {
			c := run(t, nil, registry.Addr)
			store := []string{"--containerd-address", c.Address, "--containerd-namespace", c.Namespace}
			// First of all: later on containerd 2 would not fetch layers whose chain IDs
			// it has, which are those of the image that keeps them.
			c.Ctr(t, "images", "pull", "--plain-http", "--snapshotter", "overlayfs", plain)
			for name, flags := range conversions {
				image := registry.Addr + "/converted/" + name + ":v1"
				nineply(t, slices.Concat([]string{"convert", "-q", "--reuse", "--level", "1", layout + name, "containerd:" + image}, flags, store)...)
				line := c.Ctr(t, "run", "--rm", "--net-host", "--snapshotter", "overlayfs", image, name,
					"/usr/bin/python3", "-c", "import sys; print('python', sys.version_info.major)")
				if strings.TrimSpace(line) != "python 3" {
					t.Errorf("%s: the container printed %q", name, line)
				}
			}
			fromContainerd(t, c, plain, digestIn(t, digests["estargz"]), store)
		})
	}
}

// fromContainerd converts what containerd pulled itself, and what was put there,
// to places outside.
func fromContainerd(t *testing.T, c *harness.Containerd, plain, want string, store []string) {
	t.Helper()
	archive := "oci-archive:" + filepath.Join(t.TempDir(), "a.tar") + ":v1"
	out := nineply(t, slices.Concat([]string{"convert", "-q", "--level", "1", "containerd:" + plain, archive}, store)...)
	if got := digestIn(t, out); got != want {
		t.Errorf("out of containerd came %s, out of the registry %s", got, want)
	}
	nineply(t, "verify", archive)
	// The lease is gone and the labels hold: the collector leaves what has a name.
	if left := strings.TrimSpace(c.Ctr(t, "leases", "ls", "--quiet")); left != "" {
		t.Errorf("leases left behind: %s", left)
	}
	c.Ctr(t, "leases", "rm", "--sync", strings.TrimSpace(c.Ctr(t, "leases", "create")))
	image := strings.Replace(plain, "/plain:latest", "/converted/zstd:v1", 1)
	nineply(t, slices.Concat([]string{"verify", "containerd://" + c.Namespace + "/" + image}, store)...)
}

// digestIn is the digest in what convert printed.
func digestIn(t *testing.T, printed string) string {
	t.Helper()
	_, d, ok := strings.Cut(strings.TrimSpace(printed), "@")
	if !ok {
		t.Fatalf("no digest in %q", printed)
	}
	return d
}
