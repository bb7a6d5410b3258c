package layerindex_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
)

var update = flag.Bool("update", false, "write golden files")

// sample has something of everything.
func sample() *toc {
	l := words("d ./", "f etc/passwd", "h etc/link -> etc/passwd", "l lib -> usr/lib", "e .wh.gone", "e var/.wh..wh..opq",
		"c dev/null", "f .prefetch.landmark")
	l.add(estargz.Entry{Name: "bin/ping", Type: estargz.TypeReg, Mode: 0o4755, Size: 3, UID: 1, GID: 2, ModTime: day(3),
		Xattrs: map[string][]byte{"security.capability": {1, 2, 3}}})
	return l.chunked("usr/lib/big", 3, 1<<20)
}

func sampleFiles(t testing.TB) (layer, merged []byte) {
	t.Helper()
	b, err := addAll(layerOf(0), sample().entries)
	if err != nil {
		t.Fatal(err)
	}
	if layer, err = encode(b); err != nil {
		t.Fatal(err)
	}
	x, err := layerindex.OpenBytes(layer)
	if err != nil {
		t.Fatal(err)
	}
	if merged, err = encodeMerged(x, x); err != nil {
		t.Fatal(err)
	}
	return layer, merged
}

// TestGolden: the files of a released version are read by the next ones, and a
// change of the format does not go unnoticed.
func TestGolden(t *testing.T) {
	layer, merged := sampleFiles(t)
	for name, got := range map[string][]byte{"layer.golden": layer, "merged.golden": merged} {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if want := readFile(t, path); !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes differ from the %d of the file; a new format needs a new version", name, len(got), len(want))
		}
	}
	m := open(t, filepath.Join("testdata", "merged.golden"))
	if got, want := names(t, m), "bin/ bin/ping dev/ dev/null etc/ etc/link etc/passwd lib usr/ usr/lib/ usr/lib/big var/"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestEveryByteCounts flips each byte of a file: no damage goes unnoticed, and
// none is answered with a panic.
func TestEveryByteCounts(t *testing.T) {
	layer, merged := sampleFiles(t)
	for name, file := range map[string][]byte{"layer": layer, "merged": merged} {
		for i := range file {
			for _, flip := range []byte{1, 0x80, 0xff} {
				file[i] ^= flip
				if x, err := layerindex.OpenBytes(file); !errors.Is(err, layerindex.ErrCorrupt) {
					t.Errorf("%s: byte %d flipped by %#x: %v", name, i, flip, err)
					useAll(t, x)
				}
				file[i] ^= flip
			}
		}
		for n := range file {
			if _, err := layerindex.OpenBytes(file[:n]); !errors.Is(err, layerindex.ErrCorrupt) {
				t.Errorf("%s cut to %d bytes: %v", name, n, err)
			}
		}
		if _, err := layerindex.OpenBytes(append(bytes.Clone(file), make([]byte, 64)...)); !errors.Is(err, layerindex.ErrCorrupt) {
			t.Errorf("%s with more at the end: %v", name, err)
		}
		if _, err := layerindex.OpenBytes(file); err != nil {
			t.Errorf("%s itself: %v", name, err)
		}
	}
}

// TestEveryByteWithChecksum flips each byte and repairs the checksums: what is
// still accepted is a sound tree.
func TestEveryByteWithChecksum(t *testing.T) {
	layer, merged := sampleFiles(t)
	for _, file := range [][]byte{layer, merged} {
		for i := range file {
			for _, flip := range []byte{1, 2, 0x10, 0x80, 0xff} {
				bad := bytes.Clone(file)
				bad[i] ^= flip
				layerindex.Reseal(bad)
				if x, err := layerindex.OpenBytes(bad); err == nil {
					useAll(t, x)
				} else if !errors.Is(err, layerindex.ErrCorrupt) {
					t.Errorf("byte %d flipped by %#x: %v", i, flip, err)
				}
			}
		}
	}
}

// useAll asks everything of every node, and walks the tree, which must end and
// reach every node.
func useAll(t testing.TB, x *layerindex.Index) {
	t.Helper()
	for n := layerindex.Ino(0); n <= layerindex.Ino(x.NumNodes())+1; n++ {
		_ = allErrors(x, n)
		if err := x.XattrNames(n, func(name []byte) bool { _, err := x.Xattr(n, name); return err == nil }); err != nil {
			continue
		}
		c, err := x.Content(n)
		if err != nil {
			continue
		}
		for _, off := range []uint64{0, c.Size / 2, c.Size - 1, c.Size} {
			ch, ok := x.Chunk(x.FindChunk(c, off))
			if !x.Merged() && (ok != (off < c.Size) || ok && (ch.Offset > int64(off) || ch.Offset+ch.Size <= int64(off))) {
				t.Fatalf("node %d: offset %d in %+v", n, off, ch)
			}
		}
	}
	seen := map[layerindex.Ino]bool{1: true}
	walk(t, x, func(path string, d layerindex.Dirent) {
		if d.Type == layerindex.DTDir && seen[d.Ino] {
			t.Fatalf("directory %d has a second name %q", d.Ino, path)
		}
		if p, err := x.Path(d.Ino); err != nil || !seen[d.Ino] && p != path {
			t.Fatalf("node %d is at %q, not %q: %v", d.Ino, p, path, err)
		}
		seen[d.Ino] = true
		if n := resolve(t, x, path); n != d.Ino {
			t.Fatalf("%q is node %d in its directory and %d by lookup", path, d.Ino, n)
		}
	})
	if len(seen) != x.NumNodes() {
		t.Fatalf("%d of %d nodes reached", len(seen), x.NumNodes())
	}
	_ = x.ChunksFrom(1 << 20)
}

// failingReader fails reads behind a place.
type failingReader struct {
	*bytes.Reader
	from int64
}

func (f failingReader) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, syscall.EIO
	}
	return f.Reader.ReadAt(p, off)
}

// TestReadFaults: a disk that fails is not taken for a damaged file.
func TestReadFaults(t *testing.T) {
	layer, _ := sampleFiles(t)
	for from := range int64(len(layer)) {
		err := layerindex.Verify(failingReader{bytes.NewReader(layer), from}, int64(len(layer)))
		if err != nil && (!errors.Is(err, syscall.EIO) || errors.Is(err, layerindex.ErrCorrupt)) {
			t.Errorf("reads fail from %d on: %v", from, err)
		}
	}
	err := layerindex.Verify(failingReader{bytes.NewReader(layer), 100}, int64(len(layer)))
	if !errors.Is(err, syscall.EIO) || fserr.KindOf(err) == fserr.Corrupt {
		t.Errorf("got %v", err)
	}
	// A file that shrinks while it is read.
	if err := layerindex.Verify(io.NewSectionReader(bytes.NewReader(layer), 0, 700), int64(len(layer))); !errors.Is(err, layerindex.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}
