package layerindex_test

import (
	"fmt"
	"path"
	"sort"
	"strings"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/layerindex"
)

// mnode is a node of the reference implementation: a tree of maps, merged two
// layers at a time, with no regard for cost.
type mnode struct {
	typ     estargz.EntryType
	attrs   string // mode, ids, time, size, target, device, attributes, digests
	target  string
	kids    map[string]*mnode
	implied bool
	opaque  bool
	gone    map[string]bool // whiteouts
}

func mdir() *mnode {
	return &mnode{typ: estargz.TypeDir, attrs: mattrs(&estargz.Entry{Mode: 0o755}), kids: map[string]*mnode{}, implied: true}
}

func mattrs(e *estargz.Entry) string {
	sec := int64(0)
	if !e.ModTime.IsZero() {
		sec = e.ModTime.Unix()
	}
	s := fmt.Sprintf("%o %d:%d @%d", e.Mode&0o7777, e.UID, e.GID, sec)
	var keys []string
	for k := range e.Xattrs {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		s += fmt.Sprintf(" %s=%q", k, e.Xattrs[k])
	}
	return s
}

// mlayer applies entries in order. It returns nil if a hard link is bad.
func mlayer(entries []*estargz.Entry) *mnode {
	root := mdir()
	var pending []*mnode
	for _, e := range entries {
		parts := mclean(e.Name)
		if len(parts) == 0 {
			root.attrs, root.implied = mattrs(e), false
			continue
		}
		dir, name := mparent(root, parts, true)
		if dir == nil {
			return nil
		}
		n := &mnode{typ: e.Type, attrs: mattrs(e)}
		switch e.Type {
		case estargz.TypeDir:
			n.kids = map[string]*mnode{}
			if old := dir.kids[name]; old != nil && old.typ == estargz.TypeDir {
				n.kids = old.kids
				// Others may hold the old node.
				old.attrs, old.implied = n.attrs, false
				continue
			}
		case estargz.TypeSymlink:
			n.target = e.LinkName
		case estargz.TypeReg:
			if e.Size > 0 {
				n.attrs += fmt.Sprintf(" %d bytes %v", e.Size, e.ChunkDigest)
			}
		case estargz.TypeHardlink:
			n.target = e.LinkName
			if d, last := mparent(root, mclean(e.LinkName), false); d != nil {
				if d.kids[last] != nil {
					n = d.kids[last]
				}
			}
			if n.typ == estargz.TypeDir || len(mclean(e.LinkName)) == 0 {
				return nil
			}
		}
		if n.typ == estargz.TypeHardlink {
			pending = append(pending, n)
		}
		dir.kids[name] = n
	}
	resolved := map[*mnode]*mnode{}
	for _, n := range pending {
		if resolved[n] = mresolve(root, n); resolved[n] == nil {
			return nil
		}
	}
	mlinks(root, resolved)
	mmarks(root, true)
	return root
}

func mclean(name string) []string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}

// mparent walks to the directory of the last part.
func mparent(root *mnode, parts []string, create bool) (*mnode, string) {
	if len(parts) == 0 {
		return nil, ""
	}
	trail := []*mnode{root}
	rest := append([]string(nil), parts[:len(parts)-1]...)
	for hops := 0; len(rest) > 0; {
		cur := trail[len(trail)-1]
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			if len(trail) > 1 {
				trail = trail[:len(trail)-1]
			}
			continue
		}
		next := cur.kids[name]
		if next != nil && next.typ == estargz.TypeSymlink {
			if hops++; hops > 40 {
				return nil, ""
			}
			var target []string
			for _, p := range strings.Split(next.target, "/") {
				if p != "" && p != "." {
					target = append(target, p)
				}
			}
			if next.target[0] == '/' {
				trail = trail[:1]
			}
			rest = append(target, rest...)
			continue
		}
		if next == nil || next.typ != estargz.TypeDir {
			if !create {
				return nil, ""
			}
			next = mdir()
			cur.kids[name] = next
		}
		trail = append(trail, next)
	}
	return trail[len(trail)-1], parts[len(parts)-1]
}

// mresolve finds what hard link n leads to in the end.
func mresolve(root, n *mnode) *mnode {
	for hops := 0; n.typ == estargz.TypeHardlink; hops++ {
		d, last := mparent(root, mclean(n.target), false)
		if d == nil || d.kids[last] == nil || d.kids[last].typ == estargz.TypeDir || hops > 1000 {
			return nil
		}
		n = d.kids[last]
	}
	return n
}

// mlinks replaces hard links that were ahead of their target.
func mlinks(dir *mnode, resolved map[*mnode]*mnode) {
	for name, n := range dir.kids {
		if n.typ == estargz.TypeDir {
			mlinks(n, resolved)
		}
		if n.typ == estargz.TypeHardlink {
			dir.kids[name] = resolved[n]
		}
	}
}

// mmarks turns the whiteout files into marks.
func mmarks(dir *mnode, root bool) {
	dir.gone = map[string]bool{}
	for name, n := range dir.kids {
		hidden, mark := strings.CutPrefix(name, ".wh.")
		switch {
		case name == ".wh..wh..opq":
			dir.opaque = true
		case mark && !strings.HasPrefix(hidden, ".wh.") && hidden != "" && hidden != "." && hidden != "..":
			dir.gone[hidden] = true
		case mark:
		case root && (name == "stargz.index.json" || name == ".prefetch.landmark" || name == ".no.prefetch.landmark"):
		default:
			if n.typ == estargz.TypeDir {
				mmarks(n, false)
			}
			continue
		}
		delete(dir.kids, name)
	}
}

// mover lays upper on lower.
func mover(upper, lower *mnode) *mnode {
	if lower == nil || upper.typ != estargz.TypeDir || lower.typ != estargz.TypeDir {
		if upper.typ != estargz.TypeDir {
			return upper
		}
		lower = &mnode{attrs: upper.attrs, implied: upper.implied}
	}
	out := &mnode{typ: estargz.TypeDir, attrs: upper.attrs, implied: upper.implied, kids: map[string]*mnode{}}
	if upper.implied {
		out.attrs, out.implied = lower.attrs, lower.implied
	}
	below := map[string]*mnode{}
	if !upper.opaque {
		for name, n := range lower.kids {
			if !upper.gone[name] {
				below[name] = n
				out.kids[name] = n
			}
		}
	}
	for name, n := range upper.kids {
		up := *n
		if n.typ == estargz.TypeDir {
			if upper.gone[name] {
				up.implied = false
			}
			out.kids[name] = mover(&up, below[name])
			continue
		}
		out.kids[name] = n
	}
	return out
}

// mdump lists path: attributes of a model tree.
func mdump(root *mnode) map[string]string {
	count := map[*mnode]int{}
	first := map[*mnode]string{}
	var all []string
	nodes := map[string]*mnode{}
	var visit func(p string, n *mnode)
	visit = func(p string, n *mnode) {
		nodes[p] = n
		all = append(all, p)
		count[n]++
		for name, k := range n.kids {
			visit(strings.TrimPrefix(p+"/"+name, "/"), k)
		}
	}
	visit("", root)
	sort.Strings(all)
	out := map[string]string{}
	for _, p := range all {
		n := nodes[p]
		if first[n] == "" {
			first[n] = p
		}
		links := count[n]
		if n.typ == estargz.TypeDir {
			links = 2
			for _, k := range n.kids {
				if k.typ == estargz.TypeDir {
					links++
				}
			}
		}
		out[p] = fmt.Sprintf("%d %s %q links %d same as %q", n.typ, n.attrs, n.target, links, first[n])
	}
	return out
}

// dump lists an index the same way. layers are those merged.
func dump(t testing.TB, x *layerindex.Index, layers []*layerindex.Index) map[string]string {
	t.Helper()
	inos := map[string]layerindex.Ino{"": layerindex.RootIno}
	paths := []string{""}
	walk(t, x, func(p string, d layerindex.Dirent) {
		inos[p] = d.Ino
		paths = append(paths, p)
	})
	sort.Strings(paths)
	first := map[layerindex.Ino]string{}
	out := map[string]string{}
	for _, p := range paths {
		n := inos[p]
		if _, ok := first[n]; !ok {
			first[n] = p
		}
		out[p] = describe(t, x, layers, n) + fmt.Sprintf(" same as %q", first[n])
	}
	return out
}

// describe gives all a tree knows of a node, in the words of the model.
func describe(t testing.TB, x *layerindex.Index, layers []*layerindex.Index, n layerindex.Ino) string {
	t.Helper()
	a, err := x.Attr(n)
	if err != nil {
		t.Fatal(err)
	}
	types := map[uint32]estargz.EntryType{
		layerindex.ModeDir: estargz.TypeDir, layerindex.ModeReg: estargz.TypeReg, layerindex.ModeSymlink: estargz.TypeSymlink,
		layerindex.ModeChar: estargz.TypeChar, layerindex.ModeBlock: estargz.TypeBlock, layerindex.ModeFifo: estargz.TypeFifo,
	}
	typ := types[a.Mode&layerindex.ModeTypeMask]
	s := fmt.Sprintf("%d %o %d:%d @%d", typ, a.Mode&0o7777, a.UID, a.GID, a.Mtime)
	err = x.XattrNames(n, func(name []byte) bool {
		v, err := x.Xattr(n, name)
		if err != nil {
			t.Fatal(err)
		}
		s += fmt.Sprintf(" %s=%q", name, v)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	target := ""
	switch typ {
	case estargz.TypeReg:
		c, err := x.Content(n)
		if err != nil {
			t.Fatal(err)
		}
		if c.Size > 0 {
			ch, ok := layers[c.Layer].Chunk(layers[c.Layer].FindChunk(c, 0))
			if !ok {
				t.Fatalf("node %d has no chunk", n)
			}
			s += fmt.Sprintf(" %d bytes %v", c.Size, ch.Digest)
		}
	case estargz.TypeSymlink:
		p, err := x.Readlink(n)
		if err != nil {
			t.Fatal(err)
		}
		target = string(p)
	}
	return s + fmt.Sprintf(" %q links %d", target, a.NLink)
}
