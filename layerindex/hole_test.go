package layerindex_test

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/layerindex"
)

// holeAt makes the entry of a further chunk that is a hole.
func holeAt(off, inner, at, size int64) estargz.Entry {
	return estargz.Entry{Type: estargz.TypeChunk, Offset: off, InnerOffset: inner, ChunkOffset: at, ChunkSize: size, Hole: true}
}

func TestHoles(t *testing.T) {
	const end, huge = blobSize - 1000, math.MaxInt64 - 11
	all := estargz.Entry{Name: "all", Type: estargz.TypeReg, Size: math.MaxInt64, Offset: 90, Hole: true}
	hole := func(off, at, size int64) estargz.Chunk {
		return estargz.Chunk{Offset: at, Size: size, Member: off, Hole: true}
	}
	tests := []struct {
		name  string
		layer *toc
		want  []estargz.Chunk
	}{
		{"a hole is a member of its own", layer(first("a", huge+11, 7, 0, 5), holeAt(20, 0, 5, huge), more(30, 0, 5+huge, 6), first("b", 1, 90, 0, 0)), []estargz.Chunk{
			{Digest: sum("a"), Size: 5, Member: 7, MemberSize: 13},
			hole(20, 5, huge),
			{Digest: sum("more"), Offset: 5 + huge, Size: 6, Member: 30, MemberSize: 60},
			{Digest: sum("b"), Size: 1, Member: 90, MemberSize: end - 90},
		}},
		{"a hole inside a member", layer(first("a", 30, 7, 0, 5), holeAt(7, 5, 5, 10), more(7, 15, 15, 15)), []estargz.Chunk{
			{Digest: sum("a"), Size: 5, Member: 7, MemberSize: end - 7},
			hole(7, 5, 10),
			{Digest: sum("more"), Offset: 15, Size: 15, Member: 7, MemberSize: end - 7, Inner: 15},
		}},
		{"a hole begins a member", layer(first("a", 5, 7, 0, 0), first("b", 30, 9, 0, 5), holeAt(20, 0, 5, 10), more(20, 10, 15, 15)), []estargz.Chunk{
			{Digest: sum("a"), Size: 5, Member: 7, MemberSize: 2},
			{Digest: sum("b"), Size: 5, Member: 9, MemberSize: 11},
			hole(20, 5, 10),
			{Digest: sum("more"), Offset: 15, Size: 15, Member: 20, MemberSize: end - 20, Inner: 10},
		}},
		{"nothing but a hole", layer(all), []estargz.Chunk{hole(90, 0, math.MaxInt64)}},
		{"a hole after the data", layer(first("a", 15, 7, 0, 5), holeAt(20, 0, 5, 10)), []estargz.Chunk{
			{Digest: sum("a"), Size: 5, Member: 7, MemberSize: 13}, hole(20, 5, 10),
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := addAll(layerOf(0), tt.layer.entries)
			if err != nil {
				t.Fatal(err)
			}
			file, err := encode(b)
			if err != nil {
				t.Fatal(err)
			}
			x, err := layerindex.OpenBytes(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, chunksOf(x)); diff != "" {
				t.Errorf("chunks (-want +got):\n%s", diff)
			}
			useAll(t, x)
			if len(file) > 2400 {
				t.Errorf("the index has %d bytes", len(file))
			}
		})
	}
}

func TestBadHoles(t *testing.T) {
	for name, l := range map[string]*toc{
		"beyond the file":         layer(first("a", 15, 7, 0, 5), holeAt(20, 0, 5, 11)),
		"not where the file is":   layer(first("a", 15, 7, 0, 5), holeAt(20, 0, 6, 9)),
		"before the chunk ahead":  layer(first("a", 15, 7, 0, 5), holeAt(6, 0, 5, 10)),
		"chunk before the hole":   layer(first("a", 30, 7, 0, 5), holeAt(20, 0, 5, 10), more(19, 0, 15, 15)),
		"chunk inside the member": layer(first("a", 30, 7, 0, 5), holeAt(7, 5, 5, 10), more(7, 4, 15, 15)),
		"behind the data":         layer(first("a", 15, 7, 0, 5), holeAt(blobSize, 0, 5, 10)),
		"of a directory":          layer(estargz.Entry{Name: "d", Type: estargz.TypeDir}, holeAt(20, 0, 0, 10)),
		"without end":             layer(first("a", 25, 7, 0, 5), holeAt(20, 0, 5, 10)),
	} {
		b, err := addAll(layerOf(0), l.entries)
		if err == nil {
			_, err = encode(b)
		}
		if !errors.Is(err, layerindex.ErrChunks) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
