package estargz_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/inflate"
)

// tocOffset is where the tests' TOCs claim to be: there is no data before them.
const tocOffset = 1000

// pack compresses p as a gzip member.
func pack(tb testing.TB, p []byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	zw, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := zw.Write(p); err != nil {
		tb.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func tocMember(tb testing.TB, json string) []byte {
	tb.Helper()
	return pack(tb, tarOf(tb, file{tar.Header{Name: estargz.TOCName}, json}))
}

func entries(list ...string) string {
	return `{"version":1,"entries":[` + strings.Join(list, ",") + `]}`
}

func readAll(member []byte, lim estargz.Limits) (got []estargz.Entry, d estargz.Digest, err error) {
	d, err = estargz.ReadTOC(member, estargz.Footer{TOCOffset: tocOffset, Size: 51}, lim, func(e *estargz.Entry) error {
		got = append(got, *e)
		return nil
	})
	return got, d, err
}

var hexD = strings.Repeat("ab", 32)

// chunkKeys are the keys of a chunk at a place.
func chunkKeys(offset, inner, chunkOffset, chunkSize int64) string {
	return fmt.Sprintf(`"offset":%d,"innerOffset":%d,"chunkOffset":%d,"chunkSize":%d,"chunkDigest":"sha256:%s"`,
		offset, inner, chunkOffset, chunkSize, hexD)
}

func TestReadTOC(t *testing.T) {
	digest, err := estargz.ParseDigest("sha256:" + hexD)
	if err != nil {
		t.Fatal(err)
	}
	json := ` { "future" : [ {"a":[1,-2.5e7,true,false,null,"\"\u00e9"]} , {} , [] ] , "version" : 1 , "entries" : [
		{"name":"./","type":"dir","mode":16877,"NumLink":2},
		{"name":"a\/b\u00e9\ud83d\ude00\ud800","type":"reg","size":5,"mode":35309,"uid":4294967295,"gid":7,
		 "modtime":"2024-02-29T23:59:59Z","userName":"u","xattrs":{"user.a":"AAE=","user.b":""},
		 "digest":"sha256:` + hexD + `",` + chunkKeys(90, 0, 0, 3) + `},
		{"name":"ignored","type":"chunk","digest":"sha256:` + hexD + `",` + chunkKeys(90, 3, 3, 0) + `},
		{"name":"l","type":"symlink","linkName":"../x","modtime":"nonsense","size":3},
		{"name":"h","type":"hardlink","linkName":"/a/b","xattrs":null,"digest":""},
		{"name":"c","type":"char","devMajor":1,"devMinor":3,"modtime":"2024-01-02T03:04:05.5+01:00"},
		{"name":"legacy","type":"reg","size":2,"digest":"sha256:` + hexD + `","offset":91}
	] } ` + "\n\t\r "
	got, d, err := readAll(tocMember(t, json), estargz.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if d != estargz.Sum([]byte(json)) {
		t.Error("digest is not that of the tar entry")
	}
	name := "a/bé😀�"
	want := []estargz.Entry{
		{Name: "./", Type: estargz.TypeDir, Mode: 0o755},
		{Name: name, Type: estargz.TypeReg, Size: 5, Mode: 0o4755, UID: 1<<32 - 1, GID: 7,
			ModTime: time.Date(2024, 2, 29, 23, 59, 59, 0, time.UTC),
			Xattrs:  map[string][]byte{"user.a": {0, 1}, "user.b": {}}, Digest: digest, HasDigest: true,
			Offset: 90, ChunkSize: 3, ChunkDigest: digest, HasChunkDigest: true},
		{Name: name, Type: estargz.TypeChunk, Offset: 90, InnerOffset: 3, ChunkOffset: 3, ChunkSize: 2,
			ChunkDigest: digest, HasChunkDigest: true},
		{Name: "l", Type: estargz.TypeSymlink, LinkName: "../x"},
		{Name: "h", Type: estargz.TypeHardlink, LinkName: "/a/b"},
		{Name: "c", Type: estargz.TypeChar, DevMajor: 1, DevMinor: 3,
			ModTime: time.Date(2024, 1, 2, 2, 4, 5, 500_000_000, time.UTC)},
		{Name: "legacy", Type: estargz.TypeReg, Size: 2, Digest: digest, HasDigest: true, Offset: 91,
			ChunkSize: 2, ChunkDigest: digest, HasChunkDigest: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestReadTOCEmptyForms(t *testing.T) {
	for _, json := range []string{
		`{"version":1}`, `{"entries":null,"version":1}`, `{"version":1,"entries":[]}`, entries() + strings.Repeat(" \n", 1<<20),
	} {
		got, d, err := readAll(tocMember(t, json), estargz.Limits{})
		if err != nil || len(got) > 0 || d != estargz.Sum([]byte(json)) {
			t.Errorf("%.40s: %d entries, %v", json, len(got), err)
		}
	}
}

// TestReadTOCAcrossBuffers moves every token over the edges of the read buffers.
func TestReadTOCAcrossBuffers(t *testing.T) {
	value := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("v"), 60_000))
	list := make([]string, 0, 1500)
	for i := range cap(list) {
		list = append(list, fmt.Sprintf(`{"name":"dir/\u0061%d","type":"reg","skip":{"a":[true,"b\n"]},"size":%d,%s}`,
			i, 10, chunkKeys(9, int64(i)*10, 0, 10)))
	}
	list = append(list, `{"name":"x","type":"dir","xattrs":{"user.x":"`+value+`"},"other":"`+strings.Repeat(`\\u`, 100_000)+`"}`)
	for shift := range 40 {
		json := strings.Repeat(" ", shift) + entries(list...)
		got, _, err := readAll(tocMember(t, json), estargz.Limits{})
		if err != nil || len(got) != len(list) {
			t.Fatalf("shift %d: %d entries, %v", shift, len(got), err)
		}
		if got[7].Name != "dir/a7" || len(got[len(got)-1].Xattrs["user.x"]) != 60_000 {
			t.Fatalf("shift %d: %+v", shift, got[7])
		}
	}
}

func TestReadTOCStopsWithCaller(t *testing.T) {
	stop := errors.New("enough")
	n := 0
	_, err := estargz.ReadTOC(tocMember(t, entries(`{"name":"a","type":"dir"}`, `{"name":"b","type":"dir"}`)),
		estargz.Footer{TOCOffset: tocOffset}, estargz.Limits{}, func(*estargz.Entry) error { n++; return stop })
	if err != stop || n != 1 { //nolint:errorlint // it must be the very same
		t.Errorf("%d entries, %v", n, err)
	}
}

// hostile is a TOC, and the error it must give.
type hostile struct {
	name string
	json string
	want error
}

func reg5(keys string) string { return `{"name":"a","type":"reg","size":5,` + keys + `}` }

func hostileTOCs() []hostile {
	deep := strings.Repeat("a/", 2047)
	whole := chunkKeys(9, 0, 0, 5)
	chunk := func(keys string) string { return `{"name":"a","type":"chunk",` + keys + `}` }
	dirWith := func(keys string) string { return entries(`{"name":"a","type":"dir",` + keys + `}`) }
	return []hostile{
		{"no JSON", "", estargz.ErrTOCSyntax},
		{"not an object", `[]`, estargz.ErrTOCSyntax},
		{"cut", `{"version":1,"entries":[{"name":"a"`, estargz.ErrTOCSyntax},
		{"cut in a string", `{"version":1,"entries":[{"name":"a`, estargz.ErrTOCSyntax},
		{"missing comma", entries(`{"name":"a","type":"dir"}{"name":"b","type":"dir"}`), estargz.ErrTOCSyntax},
		{"trailing comma", entries(`{"name":"a","type":"dir"},`), estargz.ErrTOCSyntax},
		{"control character", entries("{\"name\":\"a\n\",\"type\":\"dir\"}"), estargz.ErrTOCSyntax},
		{"control character skipped", entries("{\"x\":\"a\n\",\"type\":\"dir\"}"), estargz.ErrTOCSyntax},
		{"bad escape", dirWith(`"linkName":"\x41"`), estargz.ErrTOCSyntax},
		{"bad unicode escape", dirWith(`"linkName":"\u00g1"`), estargz.ErrTOCSyntax},
		{"bad literal", dirWith(`"x":nul`), estargz.ErrTOCSyntax},
		{"fraction", dirWith(`"uid":1.5`), estargz.ErrTOCSyntax},
		{"exponent", dirWith(`"uid":1e3`), estargz.ErrTOCSyntax},
		{"leading zero", dirWith(`"uid":01`), estargz.ErrTOCSyntax},
		{"number as string", dirWith(`"uid":"1"`), estargz.ErrTOCSyntax},
		{"two lists", `{"version":1,"entries":[],"entries":[]}`, estargz.ErrTOCSyntax},
		{"trailing value", entries() + "{}", estargz.ErrTOCTrailing},
		{"trailing zero byte", entries() + "\x00", estargz.ErrTOCTrailing},
		{"version 99", `{"version":99,"entries":[]}`, estargz.ErrTOCVersion},
		{"no version", `{"entries":[]}`, estargz.ErrTOCVersion},
		{"no type", entries(`{"name":"a"}`), estargz.ErrEntryType},
		{"null entry", entries(`null`), estargz.ErrEntryType},
		{"unknown type", entries(`{"name":"a","type":"door"}`), estargz.ErrEntryType},
		{"zero byte in a name", entries(`{"name":"a\u0000b","type":"dir"}`), estargz.ErrName},
		{"file as root", entries(`{"name":"/","type":"reg"}`), estargz.ErrName},
		{"file as root by dots", entries(`{"name":"a/../..","type":"symlink","linkName":"x"}`), estargz.ErrName},
		{"hard link without target", entries(`{"name":"a","type":"hardlink"}`), estargz.ErrLink},
		{"hard link to itself", entries(`{"name":"a","type":"hardlink","linkName":"./b/../a"}`), estargz.ErrLink},
		{"negative owner", dirWith(`"uid":-1`), estargz.ErrNumber},
		{"owner of 33 bits", dirWith(`"gid":4294967296`), estargz.ErrNumber},
		{"negative size", entries(`{"name":"a","type":"reg","size":-1}`), estargz.ErrNumber},
		{"number of 20 digits", dirWith(`"size":99999999999999999999`), estargz.ErrNumber},
		{"chunk first", entries(chunk(whole)), estargz.ErrStrayChunk},
		{"chunk of a directory", entries(`{"name":"a","type":"dir"}`, chunk(whole)), estargz.ErrStrayChunk},
		{"one chunk too many", entries(reg5(whole), chunk(chunkKeys(10, 0, 5, 1))), estargz.ErrStrayChunk},
		{"size 2^40, chunk size 1", entries(`{"name":"a","type":"reg","size":1099511627776,` + chunkKeys(9, 0, 0, 1) + `}`), estargz.ErrTiling},
		{"chunk gap", entries(reg5(chunkKeys(9, 0, 0, 2)), chunk(chunkKeys(10, 0, 3, 2))), estargz.ErrTiling},
		{"chunk overlap", entries(reg5(chunkKeys(9, 0, 0, 2)), chunk(chunkKeys(10, 0, 1, 4))), estargz.ErrTiling},
		{"chunk beyond the file", entries(reg5(chunkKeys(9, 0, 0, 6))), estargz.ErrTiling},
		{"first chunk not at 0", entries(reg5(chunkKeys(9, 0, 1, 4))), estargz.ErrTiling},
		{"negative chunk size", entries(reg5(`"chunkSize":-5`)), estargz.ErrNumber},
		{"negative offset", entries(reg5(`"offset":-1`)), estargz.ErrNumber},
		{"negative inner offset", entries(reg5(`"innerOffset":-1`)), estargz.ErrNumber},
		{"offset 2^40", entries(reg5(chunkKeys(1<<40, 0, 0, 5))), estargz.ErrOffset},
		{"offset of the TOC", entries(reg5(chunkKeys(tocOffset, 0, 0, 5))), estargz.ErrOffset},
		{"offset going back", entries(reg5(whole), reg5(chunkKeys(8, 0, 0, 5))), estargz.ErrOffset},
		{"inner offset going back", entries(reg5(whole), reg5(chunkKeys(9, 4, 0, 5))), estargz.ErrOffset},
		{"digest text", entries(reg5(`"chunkDigest":"sha256:xyz"`)), estargz.ErrDigestText},
		{"digest digits", entries(reg5(`"chunkDigest":"sha256:` + hexD[:63] + `g"`)), estargz.ErrDigestText},
		{"digest algorithm", entries(reg5(`"digest":"sha512:` + hexD + hexD + `"`)), estargz.ErrDigestText},
		{"no digest", entries(reg5(`"offset":9`)), estargz.ErrNoChunkDigest},
		{"only the file's digest", entries(reg5(`"digest":"sha256:` + hexD + `","chunkSize":3`)), estargz.ErrNoChunkDigest},
		{"xattr base64", dirWith(`"xattrs":{"user.a":"?"}`), estargz.ErrXattr},
		{"xattr without name", dirWith(`"xattrs":{"":"AA=="}`), estargz.ErrXattr},
		{"200,000 components", entries(`{"name":"` + strings.Repeat("a/", 200_000) + `","type":"dir"}`), estargz.ErrTokenSize},
		{"2,047 components", entries(`{"name":"` + deep + `","type":"dir"}`), estargz.ErrDepth},
		{"long name", entries(`{"name":"` + deep + `aaa","type":"dir"}`), estargz.ErrNameSize},
		{"long component", entries(`{"name":"` + strings.Repeat("a", 256) + `","type":"dir"}`), estargz.ErrComponentSize},
		{"long link", entries(`{"name":"a","type":"symlink","linkName":"` + strings.Repeat("a", 4097) + `"}`), estargz.ErrLinkSize},
		{"endless escapes", entries(`{"name":"` + strings.Repeat(`\n`, 200_000) + `","type":"dir"}`), estargz.ErrTokenSize},
		{"size 2^62", entries(`{"name":"a","type":"reg","size":4611686018427387904,` + chunkKeys(9, 0, 0, 0) + `}`), estargz.ErrChunkSize},
		{"chunk of 65 MiB", entries(`{"name":"a","type":"reg","size":68157440,` + chunkKeys(9, 0, 0, 0) + `}`), estargz.ErrChunkSize},
		{"inner offset 2^50", entries(reg5(chunkKeys(9, 1<<50, 0, 5))), estargz.ErrInnerOffset},
		{"large xattrs", dirWith(`"xattrs":{"user.a":"` + strings.Repeat("AAAA", 21_846) + `"}`), estargz.ErrXattrSize},
		{"deep nesting", dirWith(`"x":` + strings.Repeat("[", 100_000)), estargz.ErrNesting},
		{"deep nesting of objects", dirWith(`"x":` + strings.Repeat(`{"a":`, 100_000)), estargz.ErrNesting},
	}
}

func TestReadTOCHostile(t *testing.T) {
	for _, tt := range hostileTOCs() {
		t.Run(tt.name, func(t *testing.T) { memberRefused(t, tocMember(t, tt.json), tt.want) })
	}
}

// allocated is how many bytes fn allocates.
func allocated(fn func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// refused checks the error of fn, its kind, and that it takes at most so many
// bytes of memory.
func refused(t *testing.T, fn func() error, want error, limit int64) {
	t.Helper()
	var err error
	n := allocated(func() { err = fn() })
	if !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
	}
	switch fserr.KindOf(err) {
	case fserr.Corrupt, fserr.TooLarge, fserr.Unsupported:
	default:
		t.Errorf("%v is of kind %v", err, fserr.KindOf(err))
	}
	if n > limit {
		t.Errorf("%d bytes allocated", n)
	}
}

func memberRefused(t *testing.T, member []byte, want error) {
	t.Helper()
	refused(t, func() error { _, _, err := readAll(member, estargz.Limits{}); return err }, want, 8<<20)
}

func TestReadTOCHostileMember(t *testing.T) {
	toc := tarOf(t, file{tar.Header{Name: estargz.TOCName}, entries()})
	edit := func(at int, text string, sum bool) []byte {
		p := bytes.Clone(toc)
		copy(p[at:], text)
		if sum {
			p = fixChecksum(p)
		}
		return pack(t, p)
	}
	tests := []struct {
		name   string
		member []byte
		want   error
	}{
		{"empty", nil, inflate.ErrHeader},
		{"not gzip", []byte("hello, hello, hello"), inflate.ErrHeader},
		{"gzip cut", pack(t, toc)[:20], inflate.ErrTruncated},
		{"tar header cut", pack(t, toc[:511]), estargz.ErrTOCHeader},
		{"entry cut", pack(t, toc[:520]), inflate.ErrShort},
		{"checksum", edit(0, "x", false), estargz.ErrTOCHeader},
		{"other name", edit(0, "x", true), estargz.ErrTOCHeader},
		{"other type", edit(156, "5", true), estargz.ErrTOCHeader},
		{"size is no number", edit(124, "9", true), estargz.ErrTOCHeader},
		{"512 MiB", edit(124, "04000000000\x00", true), estargz.ErrTOCSize},
		{"zeros", pack(t, make([]byte, 1024)), estargz.ErrTOCHeader},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { memberRefused(t, tt.member, tt.want) })
	}
}

func TestReadTOCLimits(t *testing.T) {
	a, b := `{"name":"a/b/c","type":"symlink","linkName":"xyz","xattrs":{"u":"AAAA"}}`, reg5(chunkKeys(9, 7, 0, 5))
	member := tocMember(t, entries(a, b))
	tests := []struct {
		name string
		lim  estargz.Limits
		want error
	}{
		{"all at the edge", estargz.Limits{TOCCompressed: int64(len(member)), TOCSize: int64(len(entries(a, b))), Entries: 2,
			NameBytes: 5, ComponentBytes: 1, Depth: 3, LinkBytes: 3, ChunkSize: 5, InnerOffset: 7, XattrBytes: 4}, nil},
		{"compressed", estargz.Limits{TOCCompressed: int64(len(member)) - 1}, estargz.ErrTOCCompressedSize},
		{"size", estargz.Limits{TOCSize: int64(len(entries(a, b))) - 1}, estargz.ErrTOCSize},
		{"entries", estargz.Limits{Entries: 1}, estargz.ErrEntries},
		{"name", estargz.Limits{NameBytes: 4}, estargz.ErrNameSize},
		{"depth", estargz.Limits{Depth: 2}, estargz.ErrDepth},
		{"link", estargz.Limits{LinkBytes: 2}, estargz.ErrLinkSize},
		{"chunk", estargz.Limits{ChunkSize: 4}, estargz.ErrChunkSize},
		{"inner", estargz.Limits{InnerOffset: 6}, estargz.ErrInnerOffset},
		{"xattrs", estargz.Limits{XattrBytes: 3}, estargz.ErrXattrSize},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, _, err := readAll(member, tt.lim); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestOpenHostile(t *testing.T) {
	member := string(tocMember(t, entries()))
	tests := []struct {
		name string
		blob string
		want error
	}{
		{"good", member + currentFooter(0), nil},
		{"empty", "", estargz.ErrNotEStargz},
		{"footer alone", currentFooter(0), estargz.ErrTOCOffset},
		{"TOC offset beyond the blob", member + currentFooter(1<<40), estargz.ErrTOCOffset},
		{"TOC offset in the footer", member + currentFooter(int64(len(member))+1), estargz.ErrTOCOffset},
		{"TOC offset in the middle", member + currentFooter(5), inflate.ErrHeader},
		{"external", member + externalFooter, estargz.ErrExternalTOC},
		{"legacy", member + legacyFooter(0), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := estargz.Open(strings.NewReader(tt.blob), int64(len(tt.blob)), estargz.Limits{})
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
	if _, err := estargz.Open(strings.NewReader("short"), 100, estargz.Limits{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("size beyond the reader: %v", err)
	}
}
