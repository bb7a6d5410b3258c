package demoimage

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/demoimage/treesum"
)

func TestChangesAreWhatALayerNeeds(t *testing.T) {
	dir := func(path string) treesum.Node { return treesum.Node{Path: path, Mode: unix.S_IFDIR | 0o755} }
	file := func(path, sum string) treesum.Node {
		return treesum.Node{Path: path, Mode: unix.S_IFREG | 0o644, Sum: sum}
	}
	before := []treesum.Node{dir("."), dir("a"), file("a/gone", "1"), file("a/same", "1"), dir("b"), dir("b/c"), file("b/c/d", "1"), dir("e"), file("x", "1")}
	after := []treesum.Node{dir("."), dir("a"), file("a/new", "1"), file("a/same", "1"), dir("e"), file("x", "2")}
	changed, gone := changes(before, after)
	if diff := cmp.Diff([]treesum.Node{dir("."), dir("a"), file("a/new", "1"), file("x", "2")}, changed); diff != "" {
		t.Errorf("changed:\n%s", diff)
	}
	names := make([]string, len(gone))
	for i := range gone {
		names[i] = gone[i].header.Name
	}
	if diff := cmp.Diff([]string{"a/.wh.gone", ".wh.b"}, names); diff != "" {
		t.Errorf("whiteouts:\n%s", diff)
	}
}
