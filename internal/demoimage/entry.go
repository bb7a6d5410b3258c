package demoimage

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/demoimage/treesum"
)

// entry is one member of a layer: a header and, for regular files, content.
type entry struct {
	header tar.Header
	open   func() (io.ReadCloser, error)
}

// xattrRecord starts the PAX record that carries an extended attribute.
const xattrRecord = "SCHILY.xattr."

// setXattr adds an extended attribute to the entry.
func (e *entry) setXattr(name, value string) {
	if e.header.PAXRecords == nil {
		e.header.PAXRecords = map[string]string{}
	}
	e.header.PAXRecords[xattrRecord+name] = value
}

// sorted orders entries by path, so that directories precede what is in them
// and the same tree always gives the same layer.
func sorted(entries []entry) []entry {
	slices.SortStableFunc(entries, func(a, b entry) int {
		return strings.Compare(strings.TrimSuffix(a.header.Name, "/"), strings.TrimSuffix(b.header.Name, "/"))
	})
	return entries
}

// memory is the content of an entry held in memory.
func memory(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// inode identifies a file for finding its hard links.
type inode struct{ dev, ino uint64 }

// treeEntries turns the nodes of a tree on disk into entries. Names of one
// file become hard links to the first of them; sockets and the root directory
// are left out. Times lose their fraction of a second, as in most layers.
func treeEntries(root string, nodes []treesum.Node) ([]entry, error) {
	first := map[inode]string{}
	entries := make([]entry, 0, len(nodes))
	for i := range nodes {
		node := &nodes[i]
		if node.Path == "." || node.Mode&unix.S_IFMT == unix.S_IFSOCK {
			continue
		}
		e, err := treeEntry(root, node)
		if err != nil {
			return nil, err
		}
		if node.NLink > 1 && e.header.Typeflag == tar.TypeReg {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(root, node.Path), &st); err != nil {
				return nil, fmt.Errorf("layer entry %s: %w", node.Path, err)
			}
			id := inode{st.Dev, st.Ino}
			if target, ok := first[id]; ok {
				e.header.Typeflag, e.header.Linkname, e.header.Size = tar.TypeLink, target, 0
				e.header.PAXRecords, e.open = nil, nil
			} else {
				first[id] = node.Path
			}
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func treeEntry(root string, node *treesum.Node) (entry, error) {
	e := entry{header: tar.Header{
		Name: node.Path, Mode: int64(node.Mode & 0o7777), Uid: int(node.UID), Gid: int(node.GID),
		ModTime: time.Unix(node.Sec, 0), Format: tar.FormatPAX,
	}}
	switch node.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.header.Typeflag = tar.TypeDir
		e.header.Name += "/"
	case unix.S_IFREG:
		e.header.Typeflag, e.header.Size = tar.TypeReg, node.Size
		e.open = func() (io.ReadCloser, error) { return os.Open(filepath.Join(root, node.Path)) }
	case unix.S_IFLNK:
		e.header.Typeflag, e.header.Linkname = tar.TypeSymlink, node.Target
	case unix.S_IFCHR:
		e.header.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		e.header.Typeflag = tar.TypeBlock
	case unix.S_IFIFO:
		e.header.Typeflag = tar.TypeFifo
	default:
		return e, fmt.Errorf("layer entry %s: file type %o", node.Path, node.Mode&unix.S_IFMT)
	}
	e.header.Devmajor, e.header.Devminor = int64(node.Major), int64(node.Minor)
	for name, value := range node.Xattrs {
		e.setXattr(name, value)
	}
	return e, nil
}

// changes returns what a layer must hold to turn the tree before into the tree
// after: nodes that are new or different, and whiteouts of the topmost paths
// that are gone. The directories around them are in it too, as in a layer that
// a container engine makes.
func changes(before, after []treesum.Node) (changed []treesum.Node, gone []entry) {
	old := make(map[string]string, len(before))
	for i := range before {
		old[before[i].Path] = before[i].String()
	}
	left, touched := make(map[string]bool, len(after)), map[string]bool{}
	for i := range after {
		path := after[i].Path
		left[path] = true
		if old[path] != after[i].String() {
			touch(touched, path)
		}
	}
	for i := range before {
		path := before[i].Path
		if !left[path] && left[filepath.Dir(path)] {
			touch(touched, filepath.Dir(path))
			gone = append(gone, whiteout(path))
		}
	}
	for i := range after {
		if touched[after[i].Path] {
			changed = append(changed, after[i])
		}
	}
	return changed, gone
}

// touch adds path and the directories above it to the set.
func touch(set map[string]bool, path string) {
	for ; !set[path]; path = filepath.Dir(path) {
		set[path] = true
	}
}

// whiteout is the entry that hides path of the layers below.
func whiteout(path string) entry {
	dir, name := filepath.Split(path)
	return entry{
		header: tar.Header{Typeflag: tar.TypeReg, Name: dir + ".wh." + name, ModTime: epoch(), Format: tar.FormatPAX},
		open:   memory(nil),
	}
}
