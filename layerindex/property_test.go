package layerindex_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/layerindex"
)

// drawName makes names that collide, repeat, climb and mark whiteouts.
func drawName(t *rapid.T) string {
	part := rapid.SampledFrom([]string{
		"a", "b", "c", "longname", "longnamf", ".wh.a", ".wh.b", ".wh.longname", ".wh..wh..opq", ".wh.", ".wh..wh.x", "..", ".",
	})
	parts := rapid.SliceOfN(part, 1, 4).Draw(t, "name")
	return rapid.SampledFrom([]string{"", "/", "./"}).Draw(t, "lead") + strings.Join(parts, "/")
}

// drawEntry makes an entry that may follow those before it.
func drawEntry(t *rapid.T, off *int64, before []*estargz.Entry) *estargz.Entry {
	e := &estargz.Entry{
		Name: drawName(t),
		Type: rapid.SampledFrom([]estargz.EntryType{
			estargz.TypeDir, estargz.TypeDir, estargz.TypeReg, estargz.TypeReg, estargz.TypeSymlink,
			estargz.TypeHardlink, estargz.TypeChar, estargz.TypeFifo,
		}).Draw(t, "type"),
		Mode:    rapid.SampledFrom([]uint32{0o644, 0o755, 0o4755, 0o1777}).Draw(t, "mode"),
		UID:     rapid.Uint32Range(0, 2).Draw(t, "uid"),
		ModTime: time.Unix(rapid.Int64Range(0, 3).Draw(t, "mtime"), 0),
	}
	if rapid.Bool().Draw(t, "xattr") {
		e.Xattrs = map[string][]byte{"user.x": []byte(rapid.SampledFrom([]string{"", "1"}).Draw(t, "value")), "a": nil}
	}
	switch e.Type {
	case estargz.TypeReg:
		if e.Size = rapid.Int64Range(0, 2).Draw(t, "size"); e.Size > 0 {
			*off += 10
			e.Offset, e.HasChunkDigest = *off, true
			e.ChunkDigest = estargz.Sum(fmt.Append(nil, *off))
		}
	case estargz.TypeSymlink:
		e.LinkName = drawName(t)
	case estargz.TypeHardlink:
		// Most hard links should be good ones.
		if i := rapid.IntRange(-1, 4*len(before)-1).Draw(t, "target"); i < 0 {
			e.LinkName = drawName(t)
		} else {
			e.LinkName = before[i/4].Name
		}
	}
	return e
}

func isRoot(e *estargz.Entry) bool { return len(mclean(e.Name)) == 0 && e.Type != estargz.TypeDir }

// TestMergeAgreesWithReference lays random layers on each other and compares
// every name of the result with the reference implementation.
func TestMergeAgreesWithReference(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		var layers []*layerindex.Index
		defer func() {
			for _, x := range layers {
				_ = x.Close()
			}
		}()
		var want *mnode
		for i := range rapid.IntRange(1, 4).Draw(rt, "layers") {
			var entries []*estargz.Entry
			var off int64
			for range rapid.IntRange(0, 12).Draw(rt, "entries") {
				if e := drawEntry(rt, &off, entries); !isRoot(e) {
					entries = append(entries, e)
				}
			}
			model := mlayer(entries)
			x, err := writeAndOpen(filepath.Join(dir, "layer"), i, entries)
			if (err != nil) != (model == nil) {
				rt.Fatalf("layer %d: %v, model refuses: %v", i, err, model == nil)
			}
			if err != nil {
				return
			}
			layers = append(layers, x)
			want = mover(model, want)
		}
		path := filepath.Join(dir, "merged")
		if err := layerindex.Merge(path, layers); err != nil {
			rt.Fatal(err)
		}
		x, err := layerindex.Open(path)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = x.Close() }()
		if diff := cmp.Diff(mdump(want), dump(t, x, layers)); diff != "" {
			rt.Fatalf("merged tree differs (-want +got):\n%s", diff)
		}
	})
}

// writeAndOpen unlinks the file at once; the mapping stays.
func writeAndOpen(path string, n int, entries []*estargz.Entry) (*layerindex.Index, error) {
	b, err := addAll(layerOf(n), entries)
	if err != nil {
		return nil, err
	}
	if err := b.WriteFile(path); err != nil {
		return nil, err
	}
	x, err := layerindex.Open(path)
	if err != nil {
		return nil, err
	}
	return x, os.Remove(path)
}
