package soci_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/soci"
)

// readAll parses a zTOC and all that is in it.
func readAll(data []byte, lim soci.Limits) (*soci.ZTOC, []estargz.Entry, error) {
	z, err := soci.Parse(data, lim)
	if err != nil {
		return nil, nil, err
	}
	var list []estargz.Entry
	err = z.Entries(func(e *estargz.Entry) error {
		list = append(list, *e)
		return nil
	})
	return z, list, err
}

func TestOwnWriterIsRead(t *testing.T) {
	z, list, err := readAll(flatten(good()), soci.Limits{})
	if err != nil || len(list) != 1 || list[0].Name != "a" || list[0].Offset != 512 {
		t.Fatalf("%v, %v, %+v", err, z, list)
	}
}

func TestFirstCheckpointLeftOut(t *testing.T) {
	v := good()
	v[5].(fields)[3] = checkpoints(2, point{in: 600, out: 1000, bits: 3})
	z, err := soci.Parse(flatten(v), soci.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	a, b := z.Spans()[0], z.Spans()[1]
	if a.Lo != 10 || a.Hi != 600 || a.Out != 0 || a.Bit != 0 || b.Lo != 599 || b.Bit != 5 || b.Hi != 9000 || b.Out != 1000 {
		t.Errorf("spans %+v and %+v", a, b)
	}
}

// TestChunksEndWithSpans: a file over both spans, cut small.
func TestChunksEndWithSpans(t *testing.T) {
	v := good()
	v[4] = fields{0: refs{fields{0: "a", 1: "reg", 2: int64(512), 3: int64(1300)}}}
	_, list, err := readAll(flatten(v), soci.Limits{ChunkSize: 400})
	if err != nil {
		t.Fatal(err)
	}
	var got [][3]int64
	for _, e := range list {
		got = append(got, [3]int64{e.Offset, e.ChunkOffset, e.ChunkSize})
	}
	want := [][3]int64{{512, 0, 400}, {912, 400, 88}, {1000, 488, 400}, {1400, 888, 400}, {1800, 1288, 12}}
	if len(got) != len(want) {
		t.Fatalf("chunks %v, want %v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("chunk %d is %v, want %v", i, got[i], want[i])
		}
	}
}

// change makes a zTOC that is good but for one thing.
func change(fn func(root, comp, file fields)) []byte {
	v := good()
	fn(v, v[5].(fields), v[4].(fields)[0].(refs)[0].(fields))
	return flatten(v)
}

func TestHostile(t *testing.T) {
	points := func(count int, p ...point) []byte {
		return change(func(_, comp, _ fields) { comp[3] = checkpoints(count, p...) })
	}
	second := func(at int64, name string) []byte {
		return change(func(root, _, _ fields) {
			root[4] = fields{0: refs{goodFile(), fields{0: name, 1: "reg", 2: at, 3: int64(1)}}}
		})
	}
	file := func(field int, v any) []byte {
		return change(func(_, _, file fields) { file[field] = v })
	}
	root := func(field int, v any) []byte { return change(func(root, _, _ fields) { root[field] = v }) }
	record := func(k, v string) []byte { return file(13, refs{fields{0: k, 1: v}}) }
	plain := func(z fields, n int) []byte {
		return change(func(_, comp, _ fields) {
			comp[0], comp[1], comp[2], comp[3] = uint8(2), uint32(n-1), digests(n), string(flatten(z))
		})
	}
	for _, tt := range []struct {
		name string
		data []byte
		want error
	}{
		{"empty", nil, soci.ErrFlatbuffer},
		{"zeros", make([]byte, 100), soci.ErrFlatbuffer},
		{"ones", []byte(strings.Repeat("\xff", 100)), soci.ErrFlatbuffer},
		{"version", root(0, "1.0"), soci.ErrVersion},
		{"no compression info", change(func(root, _, _ fields) { delete(root, 5) }), soci.ErrFlatbuffer},
		{"no files", change(func(root, _, _ fields) { delete(root, 4) }), soci.ErrFlatbuffer},
		{"negative blob", root(2, int64(-1)), soci.ErrEntry},
		{"negative tar", root(3, int64(-1)), soci.ErrEntry},
		{"zstd", change(func(_, comp, _ fields) { comp[0] = uint8(3) }), soci.ErrCompression},
		{"no checkpoints", points(0), soci.ErrCheckpoints},
		{"two missing", points(3, point{in: 10}), soci.ErrCheckpoints},
		{"more than counted", points(1, point{in: 10}, point{in: 600, out: 1}), soci.ErrCheckpoints},
		{"first behind the start", points(2, point{in: 10, out: 1}, point{in: 600, out: 5}), soci.ErrCheckpoints},
		{"before the header", points(2, point{in: 3}, point{in: 600, out: 5}), soci.ErrCheckpoints},
		{"input not rising", points(2, point{in: 600}, point{in: 600, out: 5}), soci.ErrCheckpoints},
		{"output not rising", points(2, point{in: 10}, point{in: 600}), soci.ErrCheckpoints},
		{"behind the blob", points(2, point{in: 10}, point{in: 9001, out: 5}), soci.ErrCheckpoints},
		{"offset of 64 bits", points(2, point{in: 10}, point{in: 1 << 63, out: 5}), soci.ErrCheckpoints},
		{"nine bits", points(2, point{in: 10}, point{in: 600, out: 5, bits: 9}), soci.ErrCheckpoints},
		{"digest missing", change(func(_, comp, _ fields) { comp[2] = digests(1) }), soci.ErrSpanDigests},
		{"no digests", change(func(_, comp, _ fields) { delete(comp, 2) }), soci.ErrSpanDigests},
		{"wrong last span", change(func(_, comp, _ fields) { comp[1] = uint32(7) }), soci.ErrSpanDigests},
		{"md5", change(func(_, comp, _ fields) { comp[2] = refs{"md5:00", "md5:00"} }), soci.ErrSpanDigests},
		{"span size zero", plain(fields{0: uint32(2), 1: int64(0), 2: int64(9000)}, 2), soci.ErrCheckpoints},
		{"span size negative", plain(fields{0: uint32(2), 1: int64(-5), 2: int64(9000)}, 2), soci.ErrCheckpoints},
		{"other size", plain(fields{0: uint32(2), 1: int64(4500), 2: int64(9001)}, 2), soci.ErrCheckpoints},
		{"other number", plain(fields{0: uint32(2), 1: int64(4000), 2: int64(9000)}, 2), soci.ErrCheckpoints},
		{"unknown type", file(1, "door"), soci.ErrEntry},
		{"device", file(11, int64(math.MaxInt64)), soci.ErrEntry},
		{"no header", file(2, int64(511)), soci.ErrOrder},
		{"negative offset", file(2, int64(math.MinInt64)), soci.ErrOrder},
		{"offset near the end", file(2, int64(math.MaxInt64)), soci.ErrOrder},
		{"negative size", file(3, int64(-1)), soci.ErrOrder},
		{"size near the end", file(3, int64(math.MaxInt64)), soci.ErrOrder},
		{"behind the tar", file(3, int64(9000)), soci.ErrOrder},
		{"overlap", second(1024, "b"), soci.ErrOrder},
		{"long name", file(0, strings.Repeat("x", 5000)), soci.ErrName},
		{"long target", file(4, strings.Repeat("x", 5000)), soci.ErrName},
		{"sparse", record("GNU.sparse.major", "1"), soci.ErrSparse},
		{"attributes", record("SCHILY.xattr.user.a", strings.Repeat("x", 300<<10)), soci.ErrXattrs},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := readAll(tt.data, soci.Limits{}); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	huge := change(func(root, _, file fields) { root[3], file[3] = int64(math.MaxInt64), int64(1<<61) })
	for _, tt := range []struct {
		name string
		data []byte
		lim  soci.Limits
		want error
	}{
		{"zTOC", flatten(good()), soci.Limits{ZTOCBytes: 100}, soci.ErrSize},
		{"files", change(func(root, _, _ fields) { root[4] = fields{0: refs{goodFile(), goodFile()}} }), soci.Limits{Entries: 1}, soci.ErrEntries},
		{"span", flatten(good()), soci.Limits{SpanBytes: 1000}, soci.ErrSpan},
		{"spans", flatten(good()), soci.Limits{Spans: 1}, soci.ErrSpans},
		{"chunks", huge, soci.Limits{Chunks: 1000}, soci.ErrChunks},
	} {
		t.Run(tt.name, func(t *testing.T) {
			z, err := soci.Parse(tt.data, tt.lim)
			if err == nil {
				err = z.Entries(func(*estargz.Entry) error { return nil })
			}
			if !errors.Is(err, tt.want) || fserr.KindOf(err) != fserr.TooLarge {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

// TestRepetition: parts that are referred to from everywhere make a short zTOC a
// long read.
func TestRepetition(t *testing.T) {
	file := goodFile()
	file[13] = repeated{20000, fields{0: "k", 1: strings.Repeat("v", 1000)}}
	v := good()
	v[4] = fields{0: refs{file}}
	if _, _, err := readAll(flatten(v), soci.Limits{}); !errors.Is(err, soci.ErrRepeated) {
		t.Errorf("error %v", err)
	}
	v[5].(fields)[2] = repeated{2, digests(1)[0]}
	v[4] = fields{0: refs{goodFile()}}
	if _, _, err := readAll(flatten(v), soci.Limits{}); err != nil {
		t.Errorf("a little repetition: %v", err)
	}
}

func TestCallersErrorComesBack(t *testing.T) {
	z, err := soci.Parse(flatten(good()), soci.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	mine := errors.New("enough")
	if err := z.Entries(func(*estargz.Entry) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("error %v", err)
	}
}
