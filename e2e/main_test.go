package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/demoimage"
	"github.com/nineply/nineply/internal/demoimage/treesum"
)

// programs is the directory of the built programs, made by TestMain.
var programs string

// build builds the programs at their first use.
var build sync.Once

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "nineply-e2e")
	if err != nil {
		panic(err)
	}
	programs = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			code = 1
		}
		os.Exit(code)
	}))
}

// start skips what is not for short runs and builds the programs.
func start(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("end-to-end")
	}
	build.Do(func() { harness.BuildPrograms(t, programs) })
}

// site is a registry behind a proxy, with an image in it, plain and converted.
type site struct {
	registry *harness.Registry
	proxy    *harness.Proxy
	image    *demoimage.Image
}

// newSite pushes the image and its conversion to a fresh registry.
func newSite(t *testing.T, im *demoimage.Image, shape harness.Shape) *site {
	t.Helper()
	s := &site{registry: harness.StartRegistry(t), image: im}
	s.registry.Push(t, im, "plain")
	s.convert(t, "lazy")
	s.proxy = harness.StartProxy(t, s.registry.Addr, shape)
	return s
}

// convert converts the plain image to NAME, in the registry itself.
func (s *site) convert(t *testing.T, name string, flags ...string) {
	t.Helper()
	harness.Run(t, append([]string{
		filepath.Join(programs, "nineply"), "convert",
		s.registry.Addr + "/plain:latest", s.registry.Addr + "/" + name + ":latest",
	}, flags...)...)
}

// ref is an image of the site as seen through the proxy.
func (s *site) ref(name string) string { return s.proxy.Addr + "/" + name + ":latest" }

// daemon starts a daemon that reaches the site.
func (s *site) daemon(t *testing.T, config string) *harness.Daemon {
	t.Helper()
	return harness.StartDaemon(t, programs, harness.DaemonOptions{Config: config, Registries: []string{s.proxy.Addr}})
}

// small is the image of special files alone.
func small(t *testing.T) *demoimage.Image {
	t.Helper()
	im, err := demoimage.BuildSmall(t.Context(), t.TempDir())
	must(t, err)
	return im
}

// debian is the real image.
func debian(t *testing.T) *demoimage.Image {
	t.Helper()
	im, err := demoimage.Build(t.Context(), demoimage.Options{Progress: func(step string) { t.Log(step) }})
	must(t, err)
	return im
}

// reference lists the image as plain extraction of its layers shows it.
func reference(t *testing.T, im *demoimage.Image) []treesum.Node {
	t.Helper()
	dir := t.TempDir()
	var layers []string
	for _, layer := range im.Layers {
		layers = append(layers, layer.Path)
	}
	must(t, demoimage.Untar(t.Context(), layers, dir))
	nodes, err := treesum.Walk(dir, treesum.Options{})
	must(t, err)
	return nodes
}

// same fails the test if two listings differ. The root directory, which no
// layer describes, is left out.
func same(t *testing.T, want, got []treesum.Node, compare treesum.Compare) {
	t.Helper()
	compare.IgnoreRoot = true
	diff := compare.Diff(want, got)
	if len(diff) > 40 {
		diff = append(diff[:40], "...")
	}
	if len(diff) > 0 {
		t.Errorf("trees differ (-extracted +served):\n%s", strings.Join(diff, "\n"))
	}
	t.Log(treesum.Summary(got))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
