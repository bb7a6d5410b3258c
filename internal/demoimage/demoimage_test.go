package demoimage_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/demoimage"
	"github.com/nineply/nineply/internal/demoimage/treesum"
)

func TestSmallImageIsDeterministic(t *testing.T) {
	a, err := demoimage.BuildSmall(t.Context(), t.TempDir())
	must(t, err)
	b, err := demoimage.BuildSmall(t.Context(), t.TempDir())
	must(t, err)
	if a.Digest != b.Digest {
		t.Errorf("two builds differ: %s and %s", a.Digest, b.Digest)
	}
	if len(a.Layers) != 2 || a.Size() <= 0 {
		t.Errorf("layers: %+v", a.Layers)
	}
}

// TestSmallImageIsAnImage: a tool of others reads the layout, all of it.
func TestSmallImageIsAnImage(t *testing.T) {
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip(err)
	}
	im, err := demoimage.BuildSmall(t.Context(), t.TempDir())
	must(t, err)
	to := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "skopeo", "--insecure-policy", "copy", "oci:"+im.Dir+":"+im.Tag, "dir:"+to).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, layer := range im.Layers {
		if _, err := os.Stat(filepath.Join(to, layer.Digest.Encoded())); err != nil {
			t.Error(err)
		}
	}
}

// wantSmall describes paths of the extracted small image: octal mode and what
// else matters, or "gone".
var wantSmall = map[string]string{
	"srv/lower/kept":               "100644 kept\n",
	"srv/lower/removed":            "gone",
	"srv/lower/removed-dir":        "gone",
	"srv/lower/opaque":             "40711",
	"srv/lower/opaque/hidden":      "gone",
	"srv/lower/opaque/new":         "100644 new\n",
	"srv/lower/opaque/both":        "40700",
	"srv/lower/opaque/both/hidden": "gone",
	"srv/lower/opaque/both/new":    "100644 new\n",
	"srv/lower/file-to-dir":        "40755",
	"srv/lower/file-to-dir/new":    "100644 new\n",
	"srv/lower/dir-to-file":        "100600 file now\n",
	"srv/lower/dir-to-link":        "120777 -> opaque",
	"srv/lower/link-to-dir/new":    "100644 new\n",
	"srv/lower/replaced":           "100640 new and longer\n",
	"srv/lower/changed-dir":        "42750 user.upper",
	"srv/lower/changed-dir/kept":   "100644 kept\n",
	"srv/lower/merged/from-lower":  "100644 lower\n",
	"srv/lower/merged/from-upper":  "100644 upper\n",
	"srv/lower/back":               "100644 removed and back\n",
	"app/secret":                   "100600 only with the capability\n",
	"app/inodes/odd-owner":         "104751 owner\n",
	"app/inodes/sticky":            "41777",
	"app/inodes/no-rights-dir":     "40000",
	"app/inodes/xattr-dir":         "40755 user.dir",
	"app/inodes/null":              "20666 1:3",
	"app/inodes/loop0":             "60660 7:0",
	"app/inodes/big-numbers":       "20600 4095:1048575",
	"app/inodes/fifo":              "10620",
	"app/links/dangling":           "120777 -> no/such/file",
	"app/names/new\nline":          "100644 new\nline",
	"app/inodes/hard-b":            "100640 one file, three names\n",
}

func TestUntarOfSmallImage(t *testing.T) {
	dir := untarSmall(t)
	nodes, err := treesum.Walk(dir, treesum.Options{})
	must(t, err)
	byPath := map[string]*treesum.Node{}
	for i := range nodes {
		byPath[nodes[i].Path] = &nodes[i]
	}
	got := map[string]string{}
	for path := range wantSmall {
		got[path] = describe(t, dir, byPath[path])
	}
	if diff := cmp.Diff(wantSmall, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for path, check := range map[string]bool{
		"owner":       byPath["app/inodes/odd-owner"].UID == 3_000_000_000 && byPath["app/inodes/odd-owner"].GID == 123_456,
		"hard links":  byPath["app/links/hard-c"].NLink == 3,
		"1970":        byPath["app/inodes/1970"].Sec == 0,
		"2100":        byPath["app/inodes/2100"].Sec > 4_100_000_000,
		"trusted":     byPath["app/inodes/xattrs"].Xattrs["trusted.nineply"] != "",
		"binary":      byPath["app/inodes/xattrs"].Xattrs["user.binary"] == "\x00\xff=\n\x00",
		"4mib":        byPath["app/data/4mib-and-one"].Size == 4<<20+1,
		"long name":   byPath["app/names/"+strings.Repeat("n", 255)] != nil,
		"no whiteout": byPath["srv/lower/.wh.removed"] == nil,
	} {
		if !check {
			t.Errorf("%s is wrong", path)
		}
	}
}

// describe is a node in the notation of wantSmall.
func describe(t *testing.T, dir string, n *treesum.Node) string {
	t.Helper()
	if n == nil {
		return "gone"
	}
	mode := strconv.FormatUint(uint64(n.Mode), 8)
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		content, err := os.ReadFile(filepath.Join(dir, n.Path))
		must(t, err)
		return mode + " " + string(content)
	case unix.S_IFLNK:
		return mode + " -> " + n.Target
	case unix.S_IFCHR, unix.S_IFBLK:
		return fmt.Sprintf("%s %d:%d", mode, n.Major, n.Minor)
	}
	for name := range n.Xattrs {
		mode += " " + name
	}
	return mode
}

func untarSmall(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("extracting owners and devices needs root")
	}
	im, err := demoimage.BuildSmall(t.Context(), t.TempDir())
	must(t, err)
	dir := t.TempDir()
	must(t, demoimage.Untar(t.Context(), paths(im), dir))
	return dir
}

func paths(im *demoimage.Image) []string {
	var list []string
	for _, layer := range im.Layers {
		list = append(list, layer.Path)
	}
	return list
}

// TestDebianImageRuns makes the real image and runs what is special about it
// in the extracted root.
func TestDebianImageRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a Debian root")
	}
	if _, err := exec.LookPath("debootstrap"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and debootstrap")
	}
	im, err := demoimage.Build(t.Context(), demoimage.Options{Progress: func(step string) { t.Log(step) }})
	must(t, err)
	if im.Size() < 100<<20 {
		t.Errorf("the image has %d bytes, want at least 100 MiB", im.Size())
	}
	dir := t.TempDir()
	must(t, demoimage.Untar(t.Context(), paths(im), dir))
	for _, test := range []struct{ name, user, want string }{
		{"python3 /app/hello.py", "0", "hello from python"},
		{"/app/bin/id-setuid", "65534", "euid=0"},
		{"/app/bin/cat-capable /app/secret", "65534", "only with the capability"},
	} {
		got := inRoot(t.Context(), dir, test.user, test.name)
		if !strings.Contains(got, test.want) {
			t.Errorf("%s printed %q, want %q", test.name, got, test.want)
		}
	}
}

func inRoot(ctx context.Context, dir, user, command string) string {
	args := append([]string{"--userspec=" + user + ":" + user, dir}, strings.Fields(command)...)
	out, err := exec.CommandContext(ctx, "chroot", args...).CombinedOutput()
	if err != nil {
		return err.Error() + ": " + string(out)
	}
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
