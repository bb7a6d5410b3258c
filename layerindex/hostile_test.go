package layerindex_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
)

// A blob of a few hundred bytes must cost no more than that. Each of these has
// brought a reader down: by a panic, by a loop, or by all the memory there was.

// dataBytes is how much data the blobs claim to have before their TOC.
const dataBytes = 1000

const (
	gzipFooterHead = "\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"
	gzipFooterTail = "\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00"
)

func gzipFooter(offset string) string {
	return gzipFooterHead + "\x1a\x00SG\x16\x00" + offset + "STARGZ" + gzipFooterTail
}

// gzipBlob has a TOC of size bytes, of which some are there.
func gzipBlob(tb testing.TB, toc string, size int64) []byte {
	tb.Helper()
	var head bytes.Buffer
	tw := tar.NewWriter(&head)
	if err := tw.WriteHeader(&tar.Header{Name: estargz.TOCName, Typeflag: tar.TypeReg, Size: size}); err != nil {
		tb.Fatal(err)
	}
	blob := append(make([]byte, dataBytes), "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"...)
	blob = append(blob, deflated(tb, head.String()+toc)...)
	blob = append(blob, 1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0)
	return append(blob, gzipFooter(fmt.Sprintf("%016x", dataBytes))...)
}

// deflated is the blocks of text, without the last one.
func deflated(tb testing.TB, text string) []byte {
	tb.Helper()
	var out bytes.Buffer
	zw, err := flate.NewWriter(&out, flate.BestCompression)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := zw.Write([]byte(text)); err != nil {
		tb.Fatal(err)
	}
	if err := zw.Flush(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func skippable(p []byte) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte("\x50\x2a\x4d\x18"), uint32(len(p))), p...)
}

func zstdFooter(offset, packed, raw uint64) []byte {
	var p []byte
	for _, n := range []uint64{offset, packed, raw, 1} {
		p = binary.LittleEndian.AppendUint64(p, n)
	}
	return skippable(append(p, "GnUlInUx"...))
}

func zstdBlob(tb testing.TB, toc string) []byte {
	tb.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return packedBlob(enc.EncodeAll([]byte(toc), nil), uint64(len(toc)))
}

func packedBlob(packed []byte, raw uint64) []byte {
	blob := append(make([]byte, dataBytes), skippable(packed)...)
	return append(blob, zstdFooter(dataBytes+8, uint64(len(packed)), raw)...)
}

// rleBlocks is a frame of n blocks of 128 KiB of blanks.
func rleBlocks(n int) []byte {
	p := []byte("\x28\xb5\x2f\xfd\x00\x58")
	for i := range n {
		last := byte(0)
		if i == n-1 {
			last = 1
		}
		p = append(p, last|2, 0, 0x10, ' ')
	}
	return p
}

type hostileBlob struct {
	name string
	blob []byte
	want error // nil: it opens
}

// file makes an entry of a regular file; keys may say more.
func fileEntry(name string, size, offset, inner, chunkOffset, chunkSize int64, keys string) string {
	return fmt.Sprintf(`{"name":%q,"type":"reg","size":%d,%s%s}`, name, size, chunkAt(offset, inner, chunkOffset, chunkSize), keys)
}

func chunkAt(offset, inner, chunkOffset, chunkSize int64) string {
	return fmt.Sprintf(`"offset":%d,"innerOffset":%d,"chunkOffset":%d,"chunkSize":%d,"chunkDigest":%q`, offset, inner, chunkOffset, chunkSize, sum("x"))
}

func hostileTOCs() map[string]struct {
	toc  []string
	want error
} {
	deep := make([]string, 2000)
	for i := range deep {
		deep[i] = fmt.Sprintf(`{"name":"%d/%s","type":"dir"}`, i, strings.Repeat("a/", 998))
	}
	return map[string]struct {
		toc  []string
		want error
	}{
		"hard link cycle":         {[]string{`{"name":"a","type":"hardlink","linkName":"b"}`, `{"name":"b","type":"hardlink","linkName":"a"}`}, layerindex.ErrLinkCycle},
		"hard link to its parent": {[]string{`{"name":"d/","type":"dir"}`, `{"name":"d/l","type":"hardlink","linkName":"d"}`}, layerindex.ErrLinkDir},
		"hard link to nothing":    {[]string{`{"name":"a","type":"hardlink","linkName":"b"}`}, layerindex.ErrLinkTarget},
		"200,000 components":      {[]string{`{"name":"` + strings.Repeat("a/", 200_000) + `","type":"dir"}`}, estargz.ErrTokenSize},
		"2 million directories":   {deep, layerindex.ErrLimit},
		"size 2^40, chunk size 1": {[]string{fileEntry("a", 1<<40, 9, 0, 0, 1, "")}, estargz.ErrTiling},
		"negative chunk size":     {[]string{fileEntry("a", 5, 9, 0, 0, -5, "")}, estargz.ErrNumber},
		"size 2^62":               {[]string{fileEntry("a", 1<<62, 9, 0, 0, 0, "")}, estargz.ErrChunkSize},
		"offset 2^40":             {[]string{fileEntry("a", 5, 1<<40, 0, 0, 5, "")}, estargz.ErrOffset},
		"negative offset":         {[]string{fileEntry("a", 5, -1, 0, 0, 5, "")}, estargz.ErrNumber},
		"negative inner offset":   {[]string{fileEntry("a", 5, 9, -1, 0, 5, "")}, estargz.ErrNumber},
		"inner offset 2^50":       {[]string{fileEntry("a", 5, 9, 1<<50, 0, 5, "")}, estargz.ErrInnerOffset},
		"chunk gap":               {[]string{fileEntry("a", 5, 9, 0, 0, 2, ""), `{"name":"a","type":"chunk",` + chunkAt(10, 0, 3, 2) + `}`}, estargz.ErrTiling},
		"chunk first":             {[]string{`{"name":"a","type":"chunk",` + chunkAt(10, 0, 3, 2) + `}`}, estargz.ErrStrayChunk},
		"name that leaves":        {[]string{fileEntry("../../etc/passwd", 5, 9, 0, 0, 5, "")}, nil},
		"duplicate names":         {[]string{fileEntry("etc/passwd", 6, 8, 0, 0, 6, ""), fileEntry("etc/passwd", 5, 9, 0, 0, 5, "")}, nil},
	}
}

func hostileBlobs(tb testing.TB) []hostileBlob {
	tb.Helper()
	var list []hostileBlob
	add := func(name string, want error, blob ...string) {
		list = append(list, hostileBlob{name, []byte(strings.Join(blob, "")), want})
	}
	for name, h := range hostileTOCs() {
		toc := `{"version":1,"entries":[` + strings.Join(h.toc, ",") + `]}`
		add(name+"/gzip", h.want, string(gzipBlob(tb, toc, int64(len(toc)))))
		add(name+"/zstd", h.want, string(zstdBlob(tb, toc)))
	}
	add("version 99/gzip", estargz.ErrTOCVersion, string(gzipBlob(tb, `{"version":99,"entries":[]}`, 27)))
	add("version 99/zstd", estargz.ErrTOCVersion, string(zstdBlob(tb, `{"version":99,"entries":[]}`)))
	add("TOC offset beyond the blob/gzip", estargz.ErrTOCOffset, gzipFooter("00000000ffffffff"))
	add("TOC offset with a sign/gzip", estargz.ErrTOCOffset, gzipFooter("-000000000000001"))
	add("TOC offset beyond the blob/zstd", estargz.ErrTOCOffset, string(zstdFooter(1<<40, 1, 1)))
	add("TOC offset 2^63/zstd", estargz.ErrTOCOffset, string(zstdFooter(1<<63, 1, 1)))
	add("Extra of 4 bytes that says 22/gzip", estargz.ErrNotEStargz, gzipFooterHead+"\x04\x00SG\x16\x00"+strings.Repeat("0", 16)+"STARGZ"+gzipFooterTail)
	add("external without Extra/gzip", estargz.ErrNotEStargz, "\x1f\x8b\x08\x00", strings.Repeat("\x00", 42))
	add("external/gzip", estargz.ErrExternalTOC, gzipFooterHead+"\x15\x00SG\x11\x00STARGZEXTERNALTOC"+gzipFooterTail)
	for _, shift := range []int{40, 62} {
		add(fmt.Sprintf("TOC of 2^%d bytes/zstd", shift), estargz.ErrTOCOffset, string(zstdFooter(8, 1<<shift, 1)))
		add(fmt.Sprintf("TOC that becomes 2^%d bytes/zstd", shift), estargz.ErrTOCSize, string(packedBlob(rleBlocks(1), 1<<shift)))
	}
	deep := make([]string, 3000)
	for i := range deep {
		deep[i] = `{"name":"` + strings.Repeat("a/", 998) + `","type":"dir"}`
	}
	long := `{"version":1,"entries":[` + strings.Join(deep[:1900], ",") + `]}`
	add("names of a thousand components/gzip", layerindex.ErrLimit, string(gzipBlob(tb, long, int64(len(long)))))
	add("names of a thousand components/zstd", layerindex.ErrLimit, string(zstdBlob(tb, long)))
	long = `{"version":1,"entries":[` + strings.Join(deep, ",") + `]}`
	add("and more of them/gzip", estargz.ErrTOCSize, string(gzipBlob(tb, long, int64(len(long)))))
	add("and more of them/zstd", estargz.ErrTOCSize, string(zstdBlob(tb, long)))
	blanks := deflated(tb, strings.Repeat(" ", 1<<20))
	b := gzipBlob(tb, "", 512<<20)
	cut := len(b) - len(gzipFooter(strings.Repeat("0", 16))) - 13
	add("512 MiB of blanks/gzip", estargz.ErrTOCSize, string(b[:cut]), strings.Repeat(string(blanks), 512), string(b[cut:]))
	b = gzipBlob(tb, "", 255<<20)
	add("255 MiB of blanks/gzip", estargz.ErrTOCSize, string(b[:cut]), strings.Repeat(string(blanks), 255), string(b[cut:]))
	add("255 MiB of blanks/zstd", estargz.ErrTOCSize, string(packedBlob(rleBlocks(2040), 255<<20)))
	add("512 MiB of blanks/zstd", estargz.ErrTOCSize, string(packedBlob(rleBlocks(4096), 512<<20)))
	add("512 MiB of blanks that say 100/zstd", estargz.ErrTOCSyntax, string(packedBlob(rleBlocks(4096), 100)))
	return list
}

// openBlob takes a blob all the way: footer, TOC, index, the tree of it.
func openBlob(blob []byte) (*layerindex.Index, error) {
	b, err := estargz.Open(bytes.NewReader(blob), int64(len(blob)), estargz.Limits{})
	if err != nil {
		return nil, err
	}
	info := layerindex.LayerInfo{BlobSize: int64(len(blob)), DataEnd: b.Footer().DataEnd(), Format: layerindex.FormatEStargz}
	if b.Footer().Zstd {
		info.Format = layerindex.FormatZstdChunked
	}
	builder := layerindex.NewBuilder(info, layerindex.Limits{})
	if err := b.Entries(builder.Add); err != nil {
		return nil, err
	}
	file, err := encode(builder)
	if err != nil {
		return nil, err
	}
	x, err := layerindex.OpenBytes(file)
	if err != nil {
		return nil, err
	}
	merged, err := encodeMerged(x)
	if err != nil {
		return nil, err
	}
	return layerindex.OpenBytes(merged)
}

func TestHostileBlobs(t *testing.T) {
	const memory = 64 << 20
	for _, h := range hostileBlobs(t) {
		t.Run(h.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			x, err := openBlob(h.blob)
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > memory {
				t.Errorf("%d bytes allocated for a blob of %d", n, len(h.blob))
			}
			if !errors.Is(err, h.want) {
				t.Fatalf("%v, want %v", err, h.want)
			}
			switch fserr.KindOf(err) {
			case fserr.Corrupt, fserr.TooLarge, fserr.Unsupported, fserr.Invalid:
			default:
				if err != nil {
					t.Errorf("%v is of kind %v", err, fserr.KindOf(err))
				}
			}
			if err != nil {
				return
			}
			etc, err := x.Lookup(layerindex.RootIno, []byte("etc"))
			if err != nil {
				t.Fatal(err)
			}
			passwd, err := x.Lookup(etc, []byte("passwd"))
			if err != nil {
				t.Fatal(err)
			}
			if a, err := x.Attr(passwd); err != nil || a.Size != 5 || x.NumNodes() != 3 {
				t.Errorf("%+v, %v, %d nodes", a, err, x.NumNodes())
			}
		})
	}
}

// BenchmarkHostileBlobs says what each of them costs.
func BenchmarkHostileBlobs(b *testing.B) {
	for _, h := range hostileBlobs(b) {
		b.Run(h.name, func(b *testing.B) {
			b.ReportAllocs()
			b.ReportMetric(float64(len(h.blob)), "blob-bytes")
			for b.Loop() {
				if _, err := openBlob(h.blob); !errors.Is(err, h.want) {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestSparseFileCostsNothing indexes a file of almost 2^62 bytes with 500 holes.
func TestSparseFileCostsNothing(t *testing.T) {
	const pieces, each = 500, 1 << 53
	list := []string{fileEntry("etc/passwd", pieces*(each+1), 0, 0, 0, 1, "")}
	for i := int64(0); i < pieces; i++ {
		at := i * (each + 1)
		if i > 0 {
			list = append(list, `{"type":"chunk",`+chunkAt(2*i, 0, at, 1)+`}`)
		}
		list = append(list, `{"type":"chunk","chunkType":"zeros",`+chunkAt(2*i+1, 0, at+1, each)+`}`)
	}
	blob := zstdBlob(t, `{"version":1,"entries":[`+strings.Join(list, ",")+`]}`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	x, err := openBlob(blob)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
		t.Errorf("%d bytes allocated", n)
	}
	if a, err := x.Attr(3); err != nil || a.Size != pieces*(each+1) {
		t.Errorf("%+v, %v", a, err)
	}
}
