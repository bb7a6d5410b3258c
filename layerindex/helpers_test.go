package layerindex_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/layerindex"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const blobSize = 1 << 30

// layerOf names a layer; its digests follow from the number.
func layerOf(n int) layerindex.LayerInfo {
	return layerindex.LayerInfo{
		Digest:    estargz.Sum(fmt.Append(nil, "blob", n)),
		TOCDigest: estargz.Sum(fmt.Append(nil, "toc", n)),
		BlobSize:  blobSize, DataEnd: blobSize - 1000, Format: layerindex.FormatEStargz,
	}
}

// toc builds entries whose chunks lie one after the other.
type toc struct {
	entries []*estargz.Entry
	off     int64
}

func (l *toc) add(e estargz.Entry) *toc {
	if e.Type == estargz.TypeReg && e.Size > 0 && e.Offset == 0 {
		l.off += 100
		e.Offset = l.off
		if !e.HasChunkDigest && !e.HasDigest {
			e.ChunkDigest, e.HasChunkDigest = estargz.Sum([]byte(e.Name)), true
		}
	}
	l.entries = append(l.entries, &e)
	return l
}

func (l *toc) dir(name string, mode uint32) *toc {
	return l.add(estargz.Entry{Name: name, Type: estargz.TypeDir, Mode: mode})
}

func (l *toc) reg(name string, size int64) *toc {
	return l.add(estargz.Entry{Name: name, Type: estargz.TypeReg, Mode: 0o644, Size: size})
}

func (l *toc) symlink(name, target string) *toc {
	return l.add(estargz.Entry{Name: name, Type: estargz.TypeSymlink, Mode: 0o777, LinkName: target})
}

func (l *toc) link(name, target string) *toc {
	return l.add(estargz.Entry{Name: name, Type: estargz.TypeHardlink, LinkName: target})
}

// chunked adds a file of n chunks of size bytes.
func (l *toc) chunked(name string, n int, size int64) *toc {
	for i := range n {
		l.off += 100
		e := estargz.Entry{
			Name: name, Type: estargz.TypeChunk, Offset: l.off, ChunkOffset: int64(i) * size, ChunkSize: size,
			ChunkDigest: estargz.Sum(fmt.Append(nil, name, i)), HasChunkDigest: true,
		}
		if i == 0 {
			e.Type, e.Mode, e.Size = estargz.TypeReg, 0o600, int64(n)*size
		}
		l.entries = append(l.entries, &e)
	}
	return l
}

// entries reads a layer in words: "d etc", "f etc/passwd", "l a -> b" (symbolic
// link), "h a -> b" (hard link).
func words(lines ...string) *toc {
	l := &toc{}
	for _, line := range lines {
		kind, rest, _ := strings.Cut(line, " ")
		name, target, _ := strings.Cut(rest, " -> ")
		switch kind {
		case "d":
			l.dir(name, 0o755)
		case "f":
			l.reg(name, 10)
		case "e":
			l.reg(name, 0)
		case "l":
			l.symlink(name, target)
		case "h":
			l.link(name, target)
		case "c":
			l.add(estargz.Entry{Name: name, Type: estargz.TypeChar, Mode: 0o600})
		default:
			panic("unknown kind " + kind)
		}
	}
	return l
}

func addAll(info layerindex.LayerInfo, entries []*estargz.Entry) (*layerindex.Builder, error) {
	b := layerindex.NewBuilder(info, layerindex.Limits{})
	for _, e := range entries {
		if err := b.Add(e); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// buildErr writes a layer index and opens it.
func buildErr(t testing.TB, info layerindex.LayerInfo, entries []*estargz.Entry) (*layerindex.Index, error) {
	t.Helper()
	b, err := addAll(info, entries)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(t.TempDir(), "layer")
	if err := b.WriteFile(path); err != nil {
		return nil, err
	}
	return open(t, path), nil
}

func build(t testing.TB, n int, l *toc) *layerindex.Index {
	t.Helper()
	x, err := buildErr(t, layerOf(n), l.entries)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func open(t testing.TB, path string) *layerindex.Index {
	t.Helper()
	x, err := layerindex.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return x
}

func merge(t testing.TB, layers ...*layerindex.Index) *layerindex.Index {
	t.Helper()
	path := filepath.Join(t.TempDir(), "merged")
	if err := layerindex.Merge(path, layers); err != nil {
		t.Fatal(err)
	}
	return open(t, path)
}

// view builds the layers, bottom first, and merges them.
func view(t testing.TB, layers ...*toc) (*layerindex.Index, []*layerindex.Index) {
	t.Helper()
	var built []*layerindex.Index
	for i, l := range layers {
		built = append(built, build(t, i, l))
	}
	return merge(t, built...), built
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// readdir lists a directory.
func readdir(t testing.TB, x *layerindex.Index, dir layerindex.Ino) []layerindex.Dirent {
	t.Helper()
	var out []layerindex.Dirent
	for pos := uint64(0); ; {
		d, next, ok, err := x.Readdir(dir, pos)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return out
		}
		if next <= pos {
			t.Fatalf("readdir of %d does not advance from %d", dir, pos)
		}
		out = append(out, d)
		pos = next
	}
}

// walk calls fn for every name below the root, with its path; parents first.
func walk(t testing.TB, x *layerindex.Index, fn func(path string, d layerindex.Dirent)) {
	t.Helper()
	type dir struct {
		path string
		ino  layerindex.Ino
	}
	for todo := []dir{{"", layerindex.RootIno}}; len(todo) > 0; todo = todo[1:] {
		at := todo[0]
		for _, d := range readdir(t, x, at.ino) {
			path := strings.TrimPrefix(at.path+"/"+string(d.Name), "/")
			fn(path, d)
			if d.Type == layerindex.DTDir {
				todo = append(todo, dir{path, d.Ino})
			}
		}
	}
}

// names lists all paths of a tree, directories with a slash at the end.
func names(t testing.TB, x *layerindex.Index) string {
	t.Helper()
	var out []string
	walk(t, x, func(path string, d layerindex.Dirent) {
		if d.Type == layerindex.DTDir {
			path += "/"
		}
		out = append(out, path)
	})
	sort.Strings(out)
	return strings.Join(out, " ")
}

// resolve walks a path without following links.
func resolve(t testing.TB, x *layerindex.Index, path string) layerindex.Ino {
	t.Helper()
	n := layerindex.RootIno
	for part := range strings.SplitSeq(path, "/") {
		if part == "" {
			continue
		}
		next, err := x.Lookup(n, []byte(part))
		if err != nil {
			t.Fatalf("lookup %s of %s: %v", part, path, err)
		}
		n = next
	}
	return n
}

func attr(t testing.TB, x *layerindex.Index, path string) layerindex.Attr {
	t.Helper()
	a, err := x.Attr(resolve(t, x, path))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func day(n int) time.Time { return time.Date(2024, 1, n, 0, 0, 0, 0, time.UTC) }
