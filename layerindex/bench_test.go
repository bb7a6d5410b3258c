package layerindex_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/layerindex"
)

// bigTOC resembles a distribution: of n entries, one in ten is a directory, one
// in fifteen a symlink, one in forty a hard link, some files have two chunks.
func bigTOC(n, seed int) []*estargz.Entry {
	l := &toc{}
	l.dir("./", 0o755)
	dir := ""
	for i := range n {
		switch name := fmt.Sprintf("lib%s-%d.so", []string{"crypto", "x", "python", "z"}[i%4], i^seed); {
		case i%10 == 0:
			dir = fmt.Sprintf("usr/share/pkg%d/v%d/", i/100, i/10%10)
			l.dir(dir, 0o755)
		case i%15 == 3:
			l.symlink(dir+name, "../"+name)
		case i%40 == 5:
			l.link(dir+name, l.entries[len(l.entries)-1].Name)
		case i%50 == 7:
			l.chunked(dir+name, 2, 4<<20)
		default:
			l.reg(dir+name, int64(i%9000))
		}
	}
	return l.entries
}

func bigLayer(b *testing.B, n, seed int) *layerindex.Index {
	b.Helper()
	x, err := buildErr(b, layerOf(seed), bigTOC(n, seed))
	if err != nil {
		b.Fatal(err)
	}
	return x
}

func BenchmarkBuild100k(b *testing.B) {
	entries := bigTOC(100_000, 0)
	path := filepath.Join(b.TempDir(), "x")
	b.ReportAllocs()
	for b.Loop() {
		x, err := addAll(layerOf(0), entries)
		if err != nil {
			b.Fatal(err)
		}
		if err := x.WriteFile(path); err != nil {
			b.Fatal(err)
		}
	}
	reportSize(b, path)
}

func reportSize(b *testing.B, path string) {
	b.Helper()
	st, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(st.Size())/1e6, "MB")
}

func BenchmarkMerge5x20k(b *testing.B) {
	var layers []*layerindex.Index
	for i := range 5 {
		layers = append(layers, bigLayer(b, 20_000, i))
	}
	path := filepath.Join(b.TempDir(), "x")
	b.ReportAllocs()
	for b.Loop() {
		if err := layerindex.Merge(path, layers); err != nil {
			b.Fatal(err)
		}
	}
	reportSize(b, path)
}

func BenchmarkOpen100k(b *testing.B) {
	x, err := addAll(layerOf(0), bigTOC(100_000, 0))
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "x")
	if err := x.WriteFile(path); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		x, err := layerindex.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := x.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// allNames collects directory and name of every node.
func allNames(b *testing.B, x *layerindex.Index) (dirs []layerindex.Ino, names [][]byte) {
	b.Helper()
	for n := layerindex.Ino(1); n <= layerindex.Ino(x.NumNodes()); n++ {
		if a, err := x.Attr(n); err != nil || a.Mode&layerindex.ModeTypeMask != layerindex.ModeDir {
			continue
		}
		for _, d := range readdir(b, x, n) {
			dirs, names = append(dirs, n), append(names, d.Name)
		}
	}
	return dirs, names
}

func BenchmarkLookup(b *testing.B) {
	x := bigLayer(b, 100_000, 0)
	dirs, names := allNames(b, x)
	for _, hit := range []bool{true, false} {
		b.Run(fmt.Sprintf("hit=%v", hit), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				at := int(uint32(i)*2654435761) % len(dirs)
				dir := dirs[at]
				if !hit {
					dir = dirs[(at+len(dirs)/2)%len(dirs)]
				}
				if _, err := x.Lookup(dir, names[at]); hit && err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLookupWide(b *testing.B) {
	l := words()
	for i := range 50_000 {
		l.reg(fmt.Sprintf("common-prefix-%d", i), 0)
	}
	x := build(b, 0, l)
	_, names := allNames(b, x)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := x.Lookup(1, names[int(uint32(i)*2654435761)%len(names)]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAttr(b *testing.B) {
	x := bigLayer(b, 100_000, 0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := x.Attr(1 + layerindex.Ino(i*7919%x.NumNodes())); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReaddir counts per entry.
func BenchmarkReaddir(b *testing.B) {
	l := words()
	for i := range 10_000 {
		l.reg(fmt.Sprint("file", i), 0)
	}
	x := build(b, 0, l)
	b.ReportAllocs()
	pos := uint64(0)
	for b.Loop() {
		_, next, ok, err := x.Readdir(1, pos)
		if err != nil {
			b.Fatal(err)
		}
		if pos = next; !ok {
			pos = 0
		}
	}
}

func BenchmarkFindChunk(b *testing.B) {
	x := build(b, 0, words().chunked("big", 1000, 1<<20))
	c, err := x.Content(resolve(b, x, "big"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if x.FindChunk(c, uint64(uint32(i)*2654435761)%c.Size) == layerindex.NoChunk {
			b.Fatal("no chunk")
		}
	}
}
