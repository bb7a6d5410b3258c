package treesum_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/demoimage/treesum"
)

// nodes are every kind of line a listing can have.
func nodes() []treesum.Node {
	return []treesum.Node{
		{Path: ".", Mode: unix.S_IFDIR | 0o755, NLink: 3},
		{
			Path: "a b\n\xff\"", Mode: unix.S_IFREG | 0o4755, UID: 1 << 31, GID: 7, NLink: 2, Size: 3, Sec: -5, Nsec: 999_999_999,
			Sum: strings.Repeat("0a", 32), Xattrs: map[string]string{"user.x y": "\x00\xff", "user.empty": ""},
		},
		{Path: "dev", Mode: unix.S_IFCHR | 0o600, NLink: 1, Major: 511, Minor: 1<<20 - 1},
		{Path: "link", Mode: unix.S_IFLNK | 0o777, NLink: 1, Size: 4, Target: "no \\such"},
	}
}

func TestListingSurvivesItsText(t *testing.T) {
	var text bytes.Buffer
	if err := treesum.Write(&text, nodes()); err != nil {
		t.Fatal(err)
	}
	got, err := treesum.Read(&text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(nodes(), got); diff != "" {
		t.Errorf("-wrote +read:\n%s", diff)
	}
}

func TestReadRefusesDamage(t *testing.T) {
	line := nodes()[1]
	line.Xattrs = nil
	text := line.String()
	for cut := 1; cut < len(text); cut++ {
		if _, err := treesum.Read(strings.NewReader(text[:cut])); err == nil {
			t.Errorf("accepted %q", text[:cut])
		}
	}
	for _, attribute := range []string{` "user.x"`, ` "user.x`, ` "user.x"=0`, ` "user.x"=zz`, ` user.x=00`} {
		if _, err := treesum.Read(strings.NewReader(text + attribute)); err == nil {
			t.Errorf("accepted attribute %q", attribute)
		}
	}
}

func TestDiffNamesEveryChange(t *testing.T) {
	if diff := (treesum.Compare{}).Diff(nodes(), nodes()); diff != nil {
		t.Errorf("equal listings differ: %q", diff)
	}
	for _, test := range []struct {
		name    string
		change  func(n []treesum.Node) []treesum.Node
		compare treesum.Compare
		lines   int
	}{
		{"removed", func(n []treesum.Node) []treesum.Node { return slices.Delete(n, 2, 3) }, treesum.Compare{}, 1},
		{"added", func(n []treesum.Node) []treesum.Node { return append(n, treesum.Node{Path: "z"}) }, treesum.Compare{}, 1},
		{"mode", func(n []treesum.Node) []treesum.Node { n[1].Mode ^= 1; return n }, treesum.Compare{}, 2},
		{"xattr", func(n []treesum.Node) []treesum.Node { n[1].Xattrs["user.empty"] = "1"; return n }, treesum.Compare{}, 2},
		{"ignored xattr", func(n []treesum.Node) []treesum.Node { n[1].Xattrs["user.empty"] = "1"; return n }, treesum.Compare{IgnoreXattr: []string{"user.e"}}, 0},
		{"all xattrs ignored", func(n []treesum.Node) []treesum.Node { n[1].Xattrs = nil; return n }, treesum.Compare{IgnoreXattrs: true}, 0},
		{"root", func(n []treesum.Node) []treesum.Node { n[0].UID++; return n }, treesum.Compare{IgnoreRoot: true}, 0},
		{"directory links", func(n []treesum.Node) []treesum.Node { n[0].NLink++; return n }, treesum.Compare{IgnoreDirLinks: true}, 0},
		{"file links", func(n []treesum.Node) []treesum.Node { n[1].NLink++; return n }, treesum.Compare{IgnoreDirLinks: true}, 2},
		{"fraction", func(n []treesum.Node) []treesum.Node { n[1].Nsec = 0; return n }, treesum.Compare{IgnoreNsec: true}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.compare.Diff(nodes(), test.change(nodes())); len(got) != test.lines {
				t.Errorf("%d lines, want %d: %q", len(got), test.lines, got)
			}
		})
	}
}

func TestWalkSeesWhatIsThere(t *testing.T) {
	root := t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "file"), []byte("abc"), 0o640))
	must(t, os.Link(filepath.Join(root, "file"), filepath.Join(root, "hard")))
	must(t, os.Symlink("nowhere", filepath.Join(root, "dangling")))
	must(t, unix.Mkfifo(filepath.Join(root, "fifo"), 0o600))
	must(t, os.Mkdir(filepath.Join(root, "dir"), 0o700))
	big := bytes.Repeat([]byte("x"), 3000)
	if err := unix.Setxattr(filepath.Join(root, "file"), "user.big", big, 0); err != nil {
		big = nil // no user attributes on this file system: the rest still counts
	}
	got, err := treesum.Walk(root, treesum.Options{})
	must(t, err)
	paths := make([]string, len(got))
	byPath := map[string]treesum.Node{}
	for i, node := range got {
		paths[i], byPath[node.Path] = node.Path, node
	}
	if diff := cmp.Diff([]string{".", "dangling", "dir", "fifo", "file", "hard"}, paths); diff != "" {
		t.Errorf("paths:\n%s", diff)
	}
	file := byPath["file"]
	if file.NLink != 2 || file.Size != 3 || file.Sum != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("file: %s", &file)
	}
	if file.Xattrs["user.big"] != string(big) {
		t.Errorf("xattr of %d bytes, want %d", len(file.Xattrs["user.big"]), len(big))
	}
	if got := byPath["dangling"].Target; got != "nowhere" {
		t.Errorf("symlink target %q", got)
	}
	if got := byPath["fifo"].Mode; got != unix.S_IFIFO|0o600 {
		t.Errorf("fifo mode %o", got)
	}
	if _, err := treesum.Walk(filepath.Join(root, "none"), treesum.Options{}); err == nil {
		t.Error("a tree that is not there was listed")
	}
}

func FuzzRead(f *testing.F) {
	for _, node := range nodes() {
		f.Add(node.String())
	}
	f.Fuzz(func(t *testing.T, line string) {
		read, err := treesum.Read(strings.NewReader(line))
		if err != nil {
			return
		}
		var text bytes.Buffer
		must(t, treesum.Write(&text, read))
		again, err := treesum.Read(&text)
		must(t, err)
		if diff := cmp.Diff(read, again); diff != "" {
			t.Errorf("-first +second reading:\n%s", diff)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
