package e2e_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/hugelgupf/p9/p9"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/e2e/harness"
	"github.com/nineply/nineply/internal/demoimage/treesum"
	"github.com/nineply/nineply/internal/p9client"
)

// TestOtherClientsSeeTheSameTree: a 9P client that is not ours finds what plain
// extraction gives. The library cannot read extended attributes; those are read
// with our own client, which the kernel's mounts do not use.
func TestOtherClientsSeeTheSameTree(t *testing.T) {
	start(t)
	im := debian(t)
	want := reference(t, im)
	site := newSite(t, im, harness.Shape{})
	daemon := site.daemon(t, "")
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", daemon.Socket())
	must(t, err)
	client, err := p9.NewClient(conn)
	must(t, err)
	root, err := client.Attach("image/" + site.ref("lazy"))
	must(t, err)
	var got []treesum.Node
	must(t, walkLibrary(root, ".", &got))
	must(t, root.Close())
	must(t, client.Close())
	must(t, addXattrs(t.Context(), daemon.Socket(), "image/"+site.ref("lazy"), got))
	slices.SortFunc(got, func(a, b treesum.Node) int { return strings.Compare(a.Path, b.Path) })
	same(t, want, got, treesum.Compare{})
}

// walkLibrary lists f and all below it with the library's client.
func walkLibrary(f p9.File, path string, nodes *[]treesum.Node) error {
	_, _, a, err := f.GetAttr(p9.AttrMaskAll)
	if err != nil {
		return err
	}
	n := treesum.Node{
		Path: path, Mode: uint32(a.Mode), UID: uint32(a.UID), GID: uint32(a.GID), NLink: uint64(a.NLink),
		Size: int64(a.Size), Sec: int64(a.MTimeSeconds), Nsec: int64(a.MTimeNanoSeconds),
	}
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.Size = 0
	case unix.S_IFCHR, unix.S_IFBLK:
		n.Major, n.Minor = unix.Major(uint64(a.RDev)), unix.Minor(uint64(a.RDev))
	case unix.S_IFLNK:
		n.Target, err = f.Readlink()
	case unix.S_IFREG:
		n.Sum, err = sumLibrary(f)
	}
	*nodes = append(*nodes, n)
	if err != nil || n.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	names, err := namesLibrary(f)
	for _, name := range names {
		_, child, err := f.Walk([]string{name})
		if err != nil {
			return err
		}
		below := path + "/" + name
		if path == "." {
			below = name
		}
		if err := errors.Join(walkLibrary(child, below, nodes), child.Close()); err != nil {
			return err
		}
	}
	return err
}

// opened opens a second fid on the same file: walking from an open one is not
// allowed.
func opened(f p9.File) (p9.File, error) {
	_, again, err := f.Walk(nil)
	if err != nil {
		return nil, err
	}
	if _, _, err := again.Open(p9.ReadOnly); err != nil {
		return nil, errors.Join(err, again.Close())
	}
	return again, nil
}

func sumLibrary(f p9.File) (_ string, err error) {
	f, err = opened(f)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	buf := make([]byte, 512<<10)
	for off := int64(0); ; {
		n, err := f.ReadAt(buf, off)
		if n == 0 && (err == nil || errors.Is(err, io.EOF)) {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
		h.Write(buf[:n])
		off += int64(n)
	}
}

func namesLibrary(f p9.File) (names []string, err error) {
	f, err = opened(f)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for offset := uint64(0); ; {
		entries, err := f.Readdir(offset, 64<<10)
		if err != nil || len(entries) == 0 {
			return names, err
		}
		for _, e := range entries {
			if e.Name != "." && e.Name != ".." {
				names = append(names, e.Name)
			}
			offset = e.Offset
		}
	}
}

// addXattrs reads the extended attributes of every node.
func addXattrs(ctx context.Context, socket, aname string, nodes []treesum.Node) (err error) {
	client, err := p9client.Dial(ctx, "unix:"+socket, p9client.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	root, err := client.Attach(ctx, aname)
	if err != nil {
		return err
	}
	for i := range nodes {
		var path []string
		if nodes[i].Path != "." {
			path = strings.Split(nodes[i].Path, "/")
		}
		f, err := root.Walk(ctx, path...)
		if err != nil {
			return err
		}
		names, err := f.Xattrs(ctx)
		if err != nil {
			return err
		}
		for _, name := range names {
			value, err := f.Xattr(ctx, name)
			if err != nil {
				return err
			}
			if nodes[i].Xattrs == nil {
				nodes[i].Xattrs = map[string]string{}
			}
			nodes[i].Xattrs[name] = string(value)
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}
