package estargz_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"math"
	"testing"
	"unicode/utf8"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// stored wraps p as a gzip member without compressing it, so that the fuzzer's
// changes reach the parser. The checksum is not there; reading does not get to it.
func stored(p []byte) []byte {
	m := []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")
	for len(p) > 0 {
		n := min(len(p), math.MaxUint16)
		m = append(m, 0, byte(n), byte(n>>8), ^byte(n), ^byte(n>>8))
		m = append(m, p[:n]...)
		p = p[n:]
	}
	return append(m, 1, 0, 0, 0xff, 0xff)
}

// FuzzReadTOC feeds JSON to the parser. What it accepts has to be JSON for
// encoding/json too, and the entries have to keep what ReadTOC promises.
func FuzzReadTOC(f *testing.F) {
	for _, h := range hostileTOCs() {
		if len(h.json) < 2000 {
			f.Add([]byte(h.json))
		}
	}
	f.Add([]byte(entries(`{"name":"a","type":"reg","size":5,`+chunkKeys(9, 0, 0, 3)+`}`,
		`{"type":"chunk",`+chunkKeys(9, 3, 3, 0)+`}`,
		`{"name":"b\u00e9","type":"char","devMajor":1,"mode":420,"xattrs":{"user.a":"AA=="},"modtime":"2024-01-02T03:04:05Z","x":[{}]}`)))
	f.Fuzz(func(t *testing.T, text []byte) {
		member := stored(tarOf(t, file{Header: tarHeader(estargz.TOCName), Body: string(text)}))
		got, d, err := readAll(member, estargz.Limits{Entries: 1000})
		if err != nil {
			switch kind := fserr.KindOf(err); kind {
			case fserr.Corrupt, fserr.TooLarge, fserr.Unsupported:
			default:
				t.Fatalf("%v is of kind %v", err, kind)
			}
			return
		}
		if d != estargz.Sum(text) {
			t.Fatal("digest is not that of the input")
		}
		checkPromises(t, got)
		checkJSON(t, text, got)
	})
}

func checkPromises(t *testing.T, list []estargz.Entry) {
	t.Helper()
	var size, covered, member, inner int64
	for _, e := range list {
		if e.Type != estargz.TypeChunk {
			if covered != size {
				t.Fatalf("%q begins before the file before it ends", e.Name)
			}
			size, covered = e.Size, 0
		}
		if e.ChunkSize == 0 {
			continue
		}
		if e.ChunkOffset != covered || !e.HasChunkDigest && !e.Hole || e.Offset < member || e.Offset >= tocOffset ||
			e.Offset == member && e.InnerOffset < inner || e.ChunkSize < 0 || e.InnerOffset < 0 {
			t.Fatalf("%q: bad chunk %+v", e.Name, e)
		}
		covered += e.ChunkSize
		member, inner = e.Offset, math.MaxInt64
		if e.ChunkSize < math.MaxInt64-e.InnerOffset {
			inner = e.InnerOffset + e.ChunkSize
		}
	}
	if covered != size {
		t.Fatal("last file is not complete")
	}
}

// checkJSON compares with the standard library, where it is as strict: numbers
// under unknown keys are not looked at closely, and bytes that are not UTF-8 are
// kept.
func checkJSON(t *testing.T, text []byte, got []estargz.Entry) {
	t.Helper()
	if !utf8.Valid(text) {
		return
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(text, &top); err != nil {
		if !bytes.ContainsAny(text, "0123456789") {
			t.Fatalf("encoding/json refuses it: %v", err)
		}
		return
	}
	list := []map[string]json.RawMessage{}
	if raw, ok := top["entries"]; ok {
		if err := json.Unmarshal(raw, &list); err != nil {
			t.Fatalf("encoding/json refuses the entries: %v", err)
		}
	}
	if len(list) != len(got) {
		t.Fatalf("%d entries, encoding/json has %d", len(got), len(list))
	}
	for i, e := range got {
		raw, ok := list[i]["name"]
		if !ok || e.Type == estargz.TypeChunk {
			continue
		}
		var name string
		if err := json.Unmarshal(raw, &name); err != nil || name != e.Name {
			t.Fatalf("name %q, encoding/json has %q, %v", e.Name, name, err)
		}
	}
}

// FuzzDecodeMember holds DecodeMember against compress/gzip.
func FuzzDecodeMember(f *testing.F) {
	data := bytes.Repeat([]byte("some text and some more of it. "), 100)
	f.Add(pack(f, data), uint32(0), uint32(100), uint32(7), uint32(2000))
	f.Add(stored(data), uint32(10), uint32(100), uint32(0), uint32(1))
	f.Fuzz(func(t *testing.T, member []byte, at, size, gap, size2 uint32) {
		at, size, gap, size2 = at%(6<<20), size%(1<<20), gap%(1<<20), size2%(1<<20)
		end := at + size + gap + size2
		if len(member) > 3 && member[3]&0xe0 != 0 {
			return // compress/gzip does not mind reserved flags
		}
		plain := make([]byte, end)
		zr, err := gzip.NewReader(bytes.NewReader(member))
		if err == nil {
			zr.Multistream(false)
			_, err = io.ReadFull(zr, plain)
		}
		chunk := func(from, n uint32) estargz.Chunk {
			return estargz.Chunk{Digest: estargz.Sum(plain[from : from+n]), Inner: int64(from), Size: int64(n)}
		}
		want := []estargz.Chunk{chunk(at, size), chunk(at+size+gap, size2)}
		got, gotErr := decode(member, want)
		if size == 0 || size2 == 0 {
			if fserr.KindOf(gotErr) != fserr.Invalid {
				t.Fatalf("empty chunk: %v", gotErr)
			}
			return
		}
		if err == nil && gotErr != nil {
			t.Fatalf("%v, compress/gzip has no objection", gotErr)
		}
		// What was decoded matched the digests, so it is what compress/gzip got
		// even if that failed later, or earlier and zeros had to come.
		if gotErr == nil && (!bytes.Equal(got[0], plain[at:at+size]) || !bytes.Equal(got[1], plain[end-size2:])) {
			t.Fatal("differs")
		}
	})
}

// FuzzWriter makes layers of arbitrary tars: what the writer takes, the reader
// reads, and making a layer again of what it unpacks to comes to rest.
func FuzzWriter(f *testing.F) {
	for _, files := range [][]file{
		{dir("d/"), reg("d/a", "hello"), hardlink("l", "d/a"), reg("d/a", "again")},
		sampleFiles()[:14],
		{reg(estargz.TOCName, "x"), reg("b", "0123456789abcdef0123456789abcdef0123456789abcdef")},
	} {
		f.Add(tarOf(f, files...), "d/a")
	}
	f.Fuzz(func(t *testing.T, src []byte, first string) {
		opts := estargz.WriterOptions{ChunkSize: 16 << 10, MinMemberSize: 8 << 10, Workers: 2,
			Limits: estargz.Limits{Entries: 200}}
		if first != "" {
			opts.Prioritized = []string{first}
		}
		blob, res, err := tryBuild(opts, bytes.NewReader(src))
		if err != nil {
			if kind := fserr.KindOf(err); kind == fserr.Internal {
				t.Fatalf("%v has no kind", err)
			}
			return
		}
		if _, _, b := contents(t, blob); b.TOCDigest() != res.TOCDigest {
			t.Fatal("TOC digest differs")
		}
		opts.Prioritized = nil
		again, once, err := tryBuild(opts, bytes.NewReader(gunzip(t, blob)))
		if err != nil {
			t.Fatalf("converting again: %v", err)
		}
		if _, twice, err := tryBuild(opts, bytes.NewReader(gunzip(t, again))); err != nil || once.BlobDigest != twice.BlobDigest {
			t.Fatalf("converting once more changes the layer: %v", err)
		}
	})
}
