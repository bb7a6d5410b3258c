package e2e_test

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/demoimage"
	"github.com/nineply/nineply/internal/demoimage/treesum"
	"github.com/nineply/nineply/vm/vmtest"
)

// TestTreesAreIdentical: an image read through the product is to the last bit
// what plain extraction of its layers gives: names, types, contents, owners,
// modes, times, links, devices and extended attributes.
func TestTreesAreIdentical(t *testing.T) {
	start(t)
	for name, image := range map[string]func(*testing.T) *demoimage.Image{"special": small, "debian": debian} {
		t.Run(name, func(t *testing.T) {
			im := image(t)
			want := reference(t, im)
			site := newSite(t, im, harness.Shape{})
			daemon := site.daemon(t, "")
			t.Run("host mount", func(t *testing.T) {
				got, err := treesum.Walk(daemon.Mount(t, site.ref("lazy")), treesum.Options{})
				must(t, err)
				same(t, want, got, treesum.Compare{})
			})
			t.Run("host mount of the unconverted image", func(t *testing.T) {
				got, err := treesum.Walk(daemon.Mount(t, site.ref("plain")), treesum.Options{})
				must(t, err)
				same(t, want, got, treesum.Compare{})
			})
			t.Run("uml guest", func(t *testing.T) {
				same(t, want, guestTree(t, vmtest.RunUML, daemon, site.ref("lazy")), treesum.Compare{})
			})
			t.Run("qemu guest", func(t *testing.T) {
				same(t, want, guestTree(t, vmtest.RunQEMU, daemon, site.ref("lazy")), treesum.Compare{})
			})
		})
	}
}

// guestTree lists an image that the kernel of a guest mounts.
func guestTree(t *testing.T, run runner, d *harness.Daemon, ref string) []treesum.Node {
	t.Helper()
	result := inGuest(t, run, d, `mkdir /image
mount -t 9p -o trans=tcp,port=5640,version=9p2000.L,cache=loose,access=any,msize=262168,ro,aname=image/`+ref+` $NINEPLY_HOST /image
/treesum /image
`, nil)
	nodes, err := treesum.Read(bytes.NewReader(result.Output))
	if err != nil {
		t.Fatalf("%v\n%.2000s", err, result.Output)
	}
	return nodes
}

type runner = func(ctx context.Context, t testing.TB, g vmtest.Guest) (*vmtest.Result, error)

// inGuest runs a script in a guest that reaches the daemon at port 5640 and has
// the treesum program; the script must succeed.
func inGuest(t *testing.T, run runner, d *harness.Daemon, script string, onSignal func(string) string) *vmtest.Result {
	t.Helper()
	result, err := run(t.Context(), t, vmtest.Guest{
		Script:   "set -e\n" + script,
		Files:    map[string]string{"/treesum": filepath.Join(programs, "treesum")},
		Services: map[int]string{5640: "unix:" + d.Socket()},
		OnSignal: onSignal,
	})
	if err != nil || result.Status != 0 {
		t.Fatalf("guest: status %d: %v\n%.4000s\n%s", result.Status, err, result.Output, result.Console)
	}
	return result
}
