package layerindex_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
)

// FuzzOpen feeds arbitrary files, with their checksums repaired so that the
// structure is what decides.
func FuzzOpen(f *testing.F) {
	layer, merged := sampleFiles(f)
	f.Add(layer)
	f.Add(merged)
	empty, err := encodeMerged()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(empty)
	f.Fuzz(func(t *testing.T, file []byte) {
		file = bytes.Clone(file)
		layerindex.Reseal(file)
		x, err := layerindex.OpenBytes(file)
		if err != nil {
			if !errors.Is(err, layerindex.ErrCorrupt) {
				t.Fatalf("unexpected reason: %v", err)
			}
			return
		}
		useAll(t, x)
		if x.Merged() {
			return
		}
		out, err := encodeMerged(x, x)
		if err != nil {
			t.Fatal(err)
		}
		m, err := layerindex.OpenBytes(out)
		if err != nil {
			t.Fatalf("result of merging an accepted layer: %v", err)
		}
		useAll(t, m)
	})
}

// fuzzEntries reads entries from bytes: arbitrary, but with names that meet.
func fuzzEntries(p []byte) []*estargz.Entry {
	take := func() byte {
		if len(p) == 0 {
			return 0
		}
		b := p[0]
		p = p[1:]
		return b
	}
	name := func() string {
		var s []byte
		for n := take() % 8; n > 0; n-- {
			s = append(s, []string{"a", "b", "/", "..", ".wh.", ".wh..wh..opq", "./", "\x00", "x", "/.prefetch.landmark", "stargz.index.json"}[take()%11]...)
		}
		return string(s)
	}
	var out []*estargz.Entry
	for len(p) > 0 {
		e := &estargz.Entry{
			Type: estargz.EntryType(take() % 10), Name: name(), Mode: uint32(take()) << 8, UID: uint32(take()),
			Size: int64(int8(take())), Offset: int64(take()) << (take() % 64), InnerOffset: int64(take()),
			ChunkOffset: int64(take()), ChunkSize: int64(int8(take())), HasChunkDigest: take()%4 != 0, HasDigest: take()%2 == 0,
			ModTime: time.Unix(int64(take())<<(take()%64), 0), Hole: take()%8 == 1,
		}
		if e.Hole {
			e.Size, e.ChunkSize = e.Size<<32, e.ChunkSize<<32
		}
		if e.Type == estargz.TypeSymlink || e.Type == estargz.TypeHardlink {
			e.LinkName = name()
		}
		if take()%4 == 0 {
			e.Xattrs = map[string][]byte{name(): []byte(name())}
		}
		out = append(out, e)
	}
	return out
}

// FuzzBuilder feeds arbitrary entries: they are refused for a reason of this
// package, or make an index that verifies, and whose merged view is the same.
func FuzzBuilder(f *testing.F) {
	f.Add([]byte{2, 1, 0, 1, 0, 5, 9, 0, 0, 0, 0, 1, 1, 0, 0, 0}, true)
	f.Add([]byte{1, 2, 0, 1, 0, 5, 9, 0, 0, 0, 0, 1, 1, 0, 0, 0, 4, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0}, false)
	f.Add(bytes.Repeat([]byte{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5}, 30), true)
	f.Fuzz(func(t *testing.T, p []byte, streamed bool) {
		info := layerOf(0)
		if streamed {
			info.Format, info.DataEnd = layerindex.FormatStream, 0
		}
		b, err := addAll(info, fuzzEntries(p))
		var file []byte
		if err == nil {
			file, err = encode(b)
		}
		if err != nil {
			if k := fserr.KindOf(err); k != fserr.Invalid && k != fserr.TooLarge {
				t.Fatalf("refused as %v: %v", k, err)
			}
			return
		}
		x, err := layerindex.OpenBytes(file)
		if err != nil {
			t.Fatalf("own index refused: %v", err)
		}
		useAll(t, x)
		out, err := encodeMerged(x)
		if err != nil {
			t.Fatal(err)
		}
		m, err := layerindex.OpenBytes(out)
		if err != nil {
			t.Fatalf("own merged index refused: %v", err)
		}
		useAll(t, m)
		layers := []*layerindex.Index{x}
		if diff := cmp.Diff(dump(t, x, layers), dump(t, m, layers)); diff != "" {
			t.Fatalf("merged view of one layer differs (-layer +merged):\n%s", diff)
		}
	})
}
