package conformance_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/demoimage"
	"github.com/nineply/nineply/internal/demoimage/treesum"
)

// modes are the ways in which our writer writes.
var modes = map[string]estargz.WriterOptions{
	"estargz":              {},
	"estargz-files":        {MinMemberSize: -1},
	"estargz-chunks":       {ChunkSize: 64 << 10, MinMemberSize: 32 << 10},
	"estargz-first":        {Prioritized: []string{"app/hello.py", "srv/lower/kept"}},
	"estargz-keep":         {KeepDiffID: true},
	"zstdchunked":          {Format: estargz.FormatZstdChunked},
	"zstdchunked-files":    {Format: estargz.FormatZstdChunked, MinMemberSize: -1},
	"zstdchunked-chunks":   {Format: estargz.FormatZstdChunked, ChunkSize: 64 << 10, MinMemberSize: 32 << 10},
	"zstdchunked-first":    {Format: estargz.FormatZstdChunked, Prioritized: []string{"app/hello.py", "srv/lower/kept"}},
	"zstdchunked-keep":     {Format: estargz.FormatZstdChunked, KeepDiffID: true},
	"zstdchunked-fast":     {Format: estargz.FormatZstdChunked, Level: 1},
	"containers":           {Format: estargz.FormatZstdChunked, Dialect: estargz.DialectContainers},
	"containers-keep":      {Format: estargz.FormatZstdChunked, Dialect: estargz.DialectContainers, KeepDiffID: true},
	"containers-in-chunks": {Format: estargz.FormatZstdChunked, Dialect: estargz.DialectContainers, ChunkSize: 64 << 10},
}

// blob is a layer written by us.
type blob struct {
	estargz.Result
	bytes []byte
}

func (b *blob) section() *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b.bytes), 0, int64(len(b.bytes)))
}

// write writes a layer in one of the modes.
func write(t testing.TB, text []byte, mode string) *blob {
	t.Helper()
	var out bytes.Buffer
	w := estargz.NewWriter(&out, modes[mode])
	must(t, w.AppendTar(t.Context(), bytes.NewReader(text)))
	res, err := w.Close()
	must(t, err)
	if want := sha256.Sum256(text); modes[mode].KeepDiffID && res.DiffID != want {
		t.Errorf("%s changed the DiffID", mode)
	}
	return &blob{res, out.Bytes()}
}

// smallImage is the image of special files, made once.
var smallImage = sync.OnceValues(func() (*demoimage.Image, error) {
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return nil, err
	}
	madeDirs = append(madeDirs, dir)
	return demoimage.BuildSmall(context.Background(), dir)
})

// sources are the tars of its layers, bottom first.
func sources(t testing.TB) [][]byte {
	t.Helper()
	im, err := smallImage()
	must(t, err)
	var tars [][]byte
	for _, l := range im.Layers {
		packed, err := os.ReadFile(l.Path)
		must(t, err)
		zr, err := gzip.NewReader(bytes.NewReader(packed))
		must(t, err)
		text, err := io.ReadAll(zr)
		must(t, err)
		tars = append(tars, text)
	}
	return tars
}

// eachBlob runs a test on every layer in every mode that is wanted.
func eachBlob(t *testing.T, want func(estargz.WriterOptions) bool, fn func(t *testing.T, text []byte, b *blob)) {
	tars := sources(t)
	for _, mode := range slices.Sorted(maps.Keys(modes)) {
		if !want(modes[mode]) {
			continue
		}
		t.Run(mode, func(t *testing.T) {
			for _, text := range tars {
				fn(t, text, write(t, text, mode))
			}
		})
	}
}

// ownFiles are those that formats add to a layer.
func ownFile(name string) bool {
	return name == estargz.TOCName || name == estargz.PrefetchLandmark || name == estargz.NoPrefetchLandmark
}

// treeOfTar lists what a tar holds, as the standard library reads it.
func treeOfTar(t testing.TB, r io.Reader) []treesum.Node {
	t.Helper()
	tree := map[string]*treesum.Node{".": {Path: ".", Mode: unix.S_IFDIR | 0o755, NLink: 2}}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		name := path.Clean("/" + h.Name)[1:]
		if ownFile(name) || name == "" {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			tree[name] = tree[path.Clean("/" + h.Linkname)[1:]]
			tree[name].NLink++
			continue
		}
		n := nodeOf(t, h, tr)
		if old := tree[name]; old != nil && h.Typeflag == tar.TypeDir {
			n.NLink = old.NLink
			*old = *n
			continue
		}
		put(tree, name, n)
	}
	return flatten(tree)
}

// put adds a node, and the directories that lead to it.
func put(tree map[string]*treesum.Node, name string, n *treesum.Node) {
	dir := path.Dir(name)
	if tree[dir] == nil {
		put(tree, dir, &treesum.Node{Mode: unix.S_IFDIR | 0o755, NLink: 2})
	}
	if n.Mode&unix.S_IFMT == unix.S_IFDIR {
		tree[dir].NLink++
	}
	tree[name] = n
}

// flatten gives every name a node of its own, sorted.
func flatten(tree map[string]*treesum.Node) []treesum.Node {
	var nodes []treesum.Node
	for name, n := range tree {
		named := *n
		named.Path = name
		nodes = append(nodes, named)
	}
	slices.SortFunc(nodes, func(a, b treesum.Node) int { return strings.Compare(a.Path, b.Path) })
	return nodes
}

var tarKinds = map[byte]uint32{
	tar.TypeReg: unix.S_IFREG, tar.TypeDir: unix.S_IFDIR, tar.TypeSymlink: unix.S_IFLNK,
	tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO,
}

func nodeOf(t testing.TB, h *tar.Header, content io.Reader) *treesum.Node {
	t.Helper()
	kind, ok := tarKinds[h.Typeflag]
	if !ok {
		t.Fatalf("%s has type %q", h.Name, h.Typeflag)
	}
	n := &treesum.Node{
		Mode: kind | uint32(h.Mode)&0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid), NLink: 1,
		Sec: h.ModTime.Unix(), Target: h.Linkname, Major: uint32(h.Devmajor), Minor: uint32(h.Devminor),
	}
	switch kind {
	case unix.S_IFDIR:
		n.NLink = 2
	case unix.S_IFLNK:
		n.Size = int64(len(h.Linkname))
	case unix.S_IFREG:
		n.Size = h.Size
		sum := sha256.New()
		_, err := io.Copy(sum, content)
		must(t, err)
		n.Sum = hex.EncodeToString(sum.Sum(nil))
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			if n.Xattrs == nil {
				n.Xattrs = map[string]string{}
			}
			n.Xattrs[name] = value
		}
	}
	return n
}

// same fails the test if two listings differ. Formats keep whole seconds; the
// root is nobody's.
func same(t testing.TB, want, got []treesum.Node) {
	t.Helper()
	diff := treesum.Compare{IgnoreRoot: true, IgnoreNsec: true}.Diff(want, got)
	if len(diff) > 20 {
		diff = append(diff[:20], "...")
	}
	if len(diff) > 0 {
		t.Errorf("trees differ:\n%s", strings.Join(diff, "\n"))
	}
	if len(want) < 2 {
		t.Error("there is nothing to compare")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
