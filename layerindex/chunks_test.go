package layerindex_test

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/layerindex"
)

func sum(s string) estargz.Digest { return estargz.Sum([]byte(s)) }

// first and more make the entries of one file.
func first(name string, size, off, inner, chunk int64) estargz.Entry {
	return estargz.Entry{Name: name, Type: estargz.TypeReg, Size: size, Offset: off, InnerOffset: inner,
		ChunkSize: chunk, ChunkDigest: sum(name), HasChunkDigest: true}
}

func more(off, inner, at, chunk int64) estargz.Entry {
	return estargz.Entry{Type: estargz.TypeChunk, Offset: off, InnerOffset: inner, ChunkOffset: at,
		ChunkSize: chunk, ChunkDigest: sum("more"), HasChunkDigest: true}
}

func layer(entries ...estargz.Entry) *toc {
	l := &toc{}
	for _, e := range entries {
		l.entries = append(l.entries, &e)
	}
	return l
}

func chunksOf(x *layerindex.Index) []estargz.Chunk {
	var out []estargz.Chunk
	for i := uint32(0); ; i++ {
		c, ok := x.Chunk(i)
		if !ok {
			return out
		}
		out = append(out, c)
	}
}

func TestChunkTable(t *testing.T) {
	const end = blobSize - 1000
	tests := []struct {
		name  string
		layer *toc
		want  []estargz.Chunk
	}{
		{"member reaches to the next", layer(first("a", 5, 0, 512, 0), first("b", 6, 90, 0, 6)), []estargz.Chunk{
			{Digest: sum("a"), Size: 5, Member: 0, MemberSize: 90, Inner: 512},
			{Digest: sum("b"), Size: 6, Member: 90, MemberSize: end - 90},
		}},
		{"shared members", layer(first("a", 5, 7, 0, 0), first("b", 6, 7, 5, 0), first("c", 1, 7, 1000, 0), first("d", 1, 9, 0, 0)), []estargz.Chunk{
			{Digest: sum("a"), Size: 5, Member: 7, MemberSize: 2},
			{Digest: sum("b"), Size: 6, Member: 7, MemberSize: 2, Inner: 5},
			{Digest: sum("c"), Size: 1, Member: 7, MemberSize: 2, Inner: 1000},
			{Digest: sum("d"), Size: 1, Member: 9, MemberSize: end - 9},
		}},
		{"last chunk without size", layer(first("a", 10, 1, 0, 4), more(20, 0, 4, 4), more(30, 0, 8, 0)), []estargz.Chunk{
			{Digest: sum("a"), Offset: 0, Size: 4, Member: 1, MemberSize: 19},
			{Digest: sum("more"), Offset: 4, Size: 4, Member: 20, MemberSize: 10},
			{Digest: sum("more"), Offset: 8, Size: 2, Member: 30, MemberSize: end - 30},
		}},
		{"replaced files leave no chunks", layer(first("a", 5, 1, 0, 0), first("b", 6, 10, 0, 0), first("a", 7, 20, 0, 0)), []estargz.Chunk{
			{Digest: sum("b"), Size: 6, Member: 10, MemberSize: 10},
			{Digest: sum("a"), Size: 7, Member: 20, MemberSize: end - 20},
		}},
		{"empty file", layer(estargz.Entry{Name: "a", Type: estargz.TypeReg, Offset: 5, HasDigest: true}), nil},
		{"landmark", layer(first(".prefetch.landmark", 1, 1, 0, 0)), nil},
		{"digest of the file", layer(estargz.Entry{Name: "a", Type: estargz.TypeReg, Size: 3, Offset: 5, Digest: sum("file"), HasDigest: true}),
			[]estargz.Chunk{{Digest: sum("file"), Size: 3, Member: 5, MemberSize: end - 5}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, chunksOf(build(t, 0, tt.layer))); diff != "" {
				t.Errorf("chunks (-want +got):\n%s", diff)
			}
		})
	}
}

func TestChunksRefused(t *testing.T) {
	noDigest := first("a", 5, 1, 0, 0)
	noDigest.HasChunkDigest = false
	part := first("a", 5, 1, 0, 3)
	part.HasChunkDigest, part.HasDigest = false, true
	tests := []struct {
		name   string
		layer  *toc
		reason error
	}{
		{"gap", layer(first("a", 10, 1, 0, 4), more(20, 0, 5, 5)), layerindex.ErrChunks},
		{"overlap in the file", layer(first("a", 10, 1, 0, 4), more(20, 0, 3, 7)), layerindex.ErrChunks},
		{"starts late", layer(more(1, 0, 0, 5)), layerindex.ErrChunks},
		{"file starts late", layer(estargz.Entry{Name: "a", Type: estargz.TypeReg, Size: 9, ChunkOffset: 1, HasDigest: true}), layerindex.ErrChunks},
		{"too long", layer(first("a", 10, 1, 0, 11)), layerindex.ErrChunks},
		{"negative", layer(first("a", 10, 1, 0, -1)), layerindex.ErrChunks},
		{"file ends early", layer(first("a", 10, 1, 0, 4)), layerindex.ErrChunks},
		{"file ends early before another", layer(first("a", 10, 1, 0, 4), first("b", 1, 9, 0, 0)), layerindex.ErrChunks},
		{"chunk behind the end", layer(first("a", 10, 1, 0, 10), more(20, 0, 10, 0)), layerindex.ErrChunks},
		{"chunk of an empty file", layer(estargz.Entry{Name: "a", Type: estargz.TypeReg}, more(20, 0, 0, 1)), layerindex.ErrChunks},
		{"chunk of a directory", layer(estargz.Entry{Name: "a", Type: estargz.TypeDir}, more(20, 0, 0, 1)), layerindex.ErrChunks},
		{"blob order", layer(first("a", 1, 10, 0, 0), first("b", 1, 9, 0, 0)), layerindex.ErrChunks},
		{"overlap in a member", layer(first("a", 5, 10, 0, 0), first("b", 1, 10, 4, 0)), layerindex.ErrChunks},
		{"behind the data", layer(first("a", 5, blobSize-1000, 0, 0)), layerindex.ErrChunks},
		{"negative offset", layer(first("a", 5, -1, 0, 0)), layerindex.ErrChunks},
		{"negative inner offset", layer(first("a", 5, 1, -1, 0)), layerindex.ErrChunks},
		{"huge inner offset", layer(first("a", 5, 1, 1<<50, 0)), layerindex.ErrLimit},
		{"huge chunk", layer(first("a", math.MaxInt64, 1, 0, 0)), layerindex.ErrLimit},
		{"many tiny chunks are not made up", layer(first("a", 1<<40, 1, 0, 1)), layerindex.ErrChunks},
		{"no digest", layer(noDigest), layerindex.ErrNoDigest},
		{"digest of the file for a part", layer(part), layerindex.ErrNoDigest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := buildErr(t, layerOf(0), tt.layer.entries); !errors.Is(err, tt.reason) {
				t.Errorf("got %v, want %v", err, tt.reason)
			}
		})
	}
}

func TestMemberTooLarge(t *testing.T) {
	info := layerOf(0)
	info.BlobSize, info.DataEnd = 1<<40, 0
	if _, err := buildErr(t, info, words("f a").entries); !errors.Is(err, layerindex.ErrLimit) {
		t.Errorf("got %v", err)
	}
	info.BlobSize = 0
	if _, err := buildErr(t, info, words("f a").entries); !errors.Is(err, layerindex.ErrChunks) {
		t.Errorf("no size known: got %v", err)
	}
}

func TestPrefetchEnd(t *testing.T) {
	landmark := layer(first("a", 1, 100, 0, 0), first(".prefetch.landmark", 1, 200, 0, 0), first("b", 1, 300, 0, 0))
	none := layer(first(".no.prefetch.landmark", 1, 100, 0, 0), first(".prefetch.landmark", 1, 200, 0, 0))
	elsewhere := layer(first("d/.prefetch.landmark", 1, 200, 0, 0))
	for name, tt := range map[string]struct {
		layer *toc
		want  int64
	}{"landmark": {landmark, 200}, "no landmark": {words("f a"), 0}, "advice against": {none, 0}, "not in the root": {elsewhere, 0}} {
		x := build(t, 0, tt.layer)
		if got := x.Info().PrefetchEnd; got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
}

func TestStreamLayer(t *testing.T) {
	info := layerindex.LayerInfo{Digest: sum("blob"), BlobSize: 50, DataEnd: 4096, Format: layerindex.FormatStream, PrefetchEnd: 7}
	good := layer(first("a", 5, 512, 99, 0), first("b", 20, 1536, 0, 10), more(1546, 0, 10, 0), first(".prefetch.landmark", 1, 3000, 0, 0))
	x, err := buildErr(t, info, good.entries)
	if err != nil {
		t.Fatal(err)
	}
	want := []estargz.Chunk{
		{Digest: sum("a"), Size: 5, Member: 512},
		{Digest: sum("b"), Size: 10, Member: 1536},
		{Digest: sum("more"), Offset: 10, Size: 10, Member: 1546},
	}
	if diff := cmp.Diff(want, chunksOf(x)); diff != "" {
		t.Errorf("chunks (-want +got):\n%s", diff)
	}
	info.PrefetchEnd = 0
	if diff := cmp.Diff(info, x.Info()); diff != "" {
		t.Errorf("info (-want +got):\n%s", diff)
	}
	for name, l := range map[string]*toc{
		"overlap": layer(first("a", 5, 512, 0, 0), first("b", 5, 516, 0, 0)),
		"end":     layer(first("a", 5, 4096, 0, 0)),
	} {
		if _, err := buildErr(t, info, l.entries); !errors.Is(err, layerindex.ErrChunks) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	info.DataEnd = 0
	const most = 1<<63 - 1<<32
	for off, ok := range map[int64]bool{most: true, most + 1: false, math.MaxInt64 - 2: false} {
		if _, err := buildErr(t, info, layer(first("a", 5, off, 0, 0)).entries); (err == nil) != ok || err != nil && !errors.Is(err, layerindex.ErrChunks) {
			t.Errorf("offset %d: got %v", off, err)
		}
	}
}

func TestFindChunk(t *testing.T) {
	l := words("f a", "f b").chunked("big", 5, 100).chunked("bigger", 3, 1000)
	x := build(t, 0, l)
	m := merge(t, x)
	c, err := m.Content(resolve(t, m, "big"))
	if err != nil {
		t.Fatal(err)
	}
	for off := range c.Size {
		n := x.FindChunk(c, off)
		if ch, ok := x.Chunk(n); !ok || int64(off) < ch.Offset || int64(off) >= ch.Offset+ch.Size || n != c.First+uint32(off/100) {
			t.Fatalf("offset %d is in chunk %d: %+v", off, n, ch)
		}
		if x.ChunkNode(n) != resolve(t, x, "big") {
			t.Fatalf("chunk %d belongs to node %d", n, x.ChunkNode(n))
		}
	}
	for _, off := range []uint64{c.Size, math.MaxUint64} {
		if n := x.FindChunk(c, off); n != layerindex.NoChunk {
			t.Errorf("offset %d is in chunk %d", off, n)
		}
	}
	strange := layerindex.Content{First: math.MaxUint32, Count: 7, Size: 1}
	if n := x.FindChunk(strange, 0); n != layerindex.NoChunk {
		t.Errorf("strange content has chunk %d", n)
	}
	if n := x.ChunkNode(layerindex.NoChunk); n != 0 {
		t.Errorf("no chunk belongs to %d", n)
	}
	if m.NumChunks() != 0 || x.NumChunks() != 10 {
		t.Errorf("%d and %d chunks", m.NumChunks(), x.NumChunks())
	}
}

func TestChunksFrom(t *testing.T) {
	x := build(t, 0, layer(first("a", 1, 10, 0, 0), first("b", 1, 10, 5, 0), first("c", 1, 20, 0, 0)))
	for member, want := range map[int64]uint32{-5: 0, 0: 0, 10: 0, 11: 2, 20: 2, 21: 3, math.MaxInt64: 3} {
		if got := x.ChunksFrom(member); got != want {
			t.Errorf("ChunksFrom(%d) = %d, want %d", member, got, want)
		}
	}
}
