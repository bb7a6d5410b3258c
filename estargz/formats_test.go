package estargz_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// formats is every kind of blob that can be written.
func formats() map[string]estargz.WriterOptions {
	const chunked, containers = estargz.FormatZstdChunked, estargz.DialectContainers
	return map[string]estargz.WriterOptions{
		"estargz":          {},
		"estargz kept":     {KeepDiffID: true},
		"stargz zstd":      {Format: chunked},
		"stargz zstd kept": {Format: chunked, KeepDiffID: true},
		"containers":       {Format: chunked, Dialect: containers},
		"containers kept":  {Format: chunked, Dialect: containers, KeepDiffID: true},
	}
}

// small makes the sizes such that small tars have something to be cut.
func small(opts estargz.WriterOptions) estargz.WriterOptions {
	opts.ChunkSize, opts.MinMemberSize, opts.Workers, opts.Level = 50_000, 20_000, 2, 1
	return opts
}

// unpack decompresses a blob with a library that knows nothing of layers.
func unpack(tb testing.TB, blob []byte) []byte {
	tb.Helper()
	if bytes.HasPrefix(blob, []byte{0x1f, 0x8b}) {
		return gunzip(tb, blob)
	}
	zr, err := zstd.NewReader(bytes.NewReader(blob), zstd.WithDecoderConcurrency(1))
	if err != nil {
		tb.Fatal(err)
	}
	defer zr.Close()
	plain, err := io.ReadAll(zr)
	if err != nil {
		tb.Fatal(err)
	}
	return plain
}

// served reads a blob through its TOC, wherever that is.
func served(tb testing.TB, blob []byte, res estargz.Result) map[string]flat {
	tb.Helper()
	f, err := estargz.ParseFooter(blob[max(0, len(blob)-estargz.FooterSize):])
	if err != nil {
		tb.Fatal(err)
	}
	packed := res.ExternalTOC
	if f.External != (packed != nil) {
		tb.Fatalf("footer %+v, %d bytes of external TOC", f, len(packed))
	}
	if f.External {
		f = f.Outside(int64(len(blob)))
	} else {
		off, n, err := f.TOCRange(int64(len(blob)), estargz.Limits{})
		if err != nil {
			tb.Fatal(err)
		}
		packed = blob[off : off+n]
	}
	claim, err := estargz.ClaimOf(res.Annotations)
	if err != nil || claim.None() {
		tb.Fatalf("claim %+v, %v", claim, err)
	}
	if err := claim.CheckPacked(packed); err != nil {
		tb.Fatal(err)
	}
	files, body, name := make(map[string]flat), []byte(nil), ""
	sum, err := estargz.ReadTOC(packed, f, estargz.Limits{}, func(e *estargz.Entry) error {
		if e.Type != estargz.TypeChunk {
			name, body = e.Name, nil
			files[name] = flatOf(e)
		}
		if e.ChunkSize == 0 {
			return nil
		}
		want := []estargz.Chunk{{Digest: e.ChunkDigest, Member: e.Offset, Inner: e.InnerOffset, Size: e.ChunkSize}}
		err := estargz.DecodeMember(blob[e.Offset:f.DataEnd()], want, func(_ int, p []byte) error {
			body = append(body, p...)
			return nil
		})
		file := files[name]
		file.Body = string(body)
		files[name] = file
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	if err := errors.Join(claim.CheckTOC(sum), claim.CheckTOC(res.TOCDigest)); err != nil {
		tb.Fatal(err)
	}
	return files
}

func flatOf(e *estargz.Entry) flat {
	f := flat{e.Type.String(), e.LinkName, "", e.Mode, e.UID, e.GID, e.DevMajor, e.DevMinor, 0, nil}
	if !e.ModTime.IsZero() {
		f.ModTime = e.ModTime.Round(time.Second).Unix()
	}
	for k, v := range e.Xattrs {
		if f.Xattrs == nil {
			f.Xattrs = make(map[string]string)
		}
		f.Xattrs[k] = string(v)
	}
	return f
}

// checkResult holds the digests of a result against the blob.
func checkResult(tb testing.TB, blob []byte, res estargz.Result) (plain []byte) {
	tb.Helper()
	plain = unpack(tb, blob)
	if res.BlobDigest != estargz.Sum(blob) || res.BlobSize != int64(len(blob)) {
		tb.Errorf("blob is %d bytes %s, result says %d %s", len(blob), estargz.Sum(blob), res.BlobSize, res.BlobDigest)
	}
	if res.DiffID != estargz.Sum(plain) || res.UncompressedSize != int64(len(plain)) {
		tb.Errorf("tar is %d bytes %s, result says %d %s", len(plain), estargz.Sum(plain), res.UncompressedSize, res.DiffID)
	}
	return plain
}

func TestFormatsRoundTrip(t *testing.T) {
	src := tarOf(t, sampleFiles()...)
	_, files := tarContents(t, bytes.NewReader(src))
	for name, opts := range formats() {
		t.Run(name, func(t *testing.T) {
			blob, res := build(t, small(opts), bytes.NewReader(src))
			plain := checkResult(t, blob, res)
			want := files
			if !opts.KeepDiffID && opts.Dialect == estargz.DialectStargz {
				want = withLandmark(files, opts)
				want[estargz.NoPrefetchLandmark] = flat{Type: "reg", Body: "\x0f", Mode: 0o644}
			} else if !bytes.Equal(plain, src) {
				t.Error("the tar has changed")
			}
			if diff := cmp.Diff(want, served(t, blob, res)); diff != "" {
				t.Errorf("by TOC (-want +got):\n%s", diff)
			}
			_, got := tarContents(t, bytes.NewReader(plain))
			delete(got, estargz.TOCName)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("by tar (-want +got):\n%s", diff)
			}
			if opts.Dialect == estargz.DialectContainers && !bytes.Equal(src, rebuild(t, blob, res)) {
				t.Error("tar-split does not make the tar")
			}
		})
	}
}

// splitLine is a line of tar-split data, as its documentation has it.
type splitLine struct {
	Type     int    `json:"type"`
	Name     string `json:"name"`
	Size     int64  `json:"size"`
	Payload  []byte `json:"payload"`
	Position int    `json:"position"`
}

// rebuild makes the tar of tar-split data and the files that the TOC has.
func rebuild(tb testing.TB, blob []byte, res estargz.Result) []byte {
	tb.Helper()
	var off, size, raw int64
	if _, err := fmt.Sscanf(res.Annotations[estargz.AnnotationContainersTarSplit], "%d:%d:%d", &off, &size, &raw); err != nil {
		tb.Fatalf("%v: no tar-split data: %v", res.Annotations, err)
	}
	text := unpack(tb, blob[off:off+size])
	if int64(len(text)) != raw {
		tb.Errorf("tar-split data has %d bytes, %d are said", len(text), raw)
	}
	files := served(tb, blob, res)
	var out []byte
	dec := json.NewDecoder(bytes.NewReader(text))
	for n := 0; dec.More(); n++ {
		var line splitLine
		if err := dec.Decode(&line); err != nil {
			tb.Fatal(err)
		}
		if line.Position != n {
			tb.Errorf("position %d at %d", line.Position, n)
		}
		if line.Type == 2 {
			out = append(out, line.Payload...)
			continue
		}
		body := files[line.Name].Body
		if line.Size != int64(len(body)) {
			tb.Errorf("%s: %d bytes, %d are said", line.Name, len(body), line.Size)
		}
		if line.Size > 0 && fmt.Sprintf("%016x", line.Payload) != fmt.Sprintf("%016x", crc64.Checksum([]byte(body), crc64.MakeTable(crc64.ISO))) {
			tb.Errorf("%s: checksum %x", line.Name, line.Payload)
		}
		out = append(out, body...)
	}
	return out
}

func TestFormatsDoNotDependOnWorkers(t *testing.T) {
	src := tarOf(t, sampleFiles()...)
	for name, opts := range formats() {
		t.Run(name, func(t *testing.T) {
			opts := small(opts)
			opts.Workers = 1
			_, want := build(t, opts, bytes.NewReader(src))
			for _, workers := range []int{2, 7} {
				opts.Workers = workers
				if _, res := build(t, opts, iotestOneByte{bytes.NewReader(src)}); !cmp.Equal(want, res) {
					t.Errorf("%d workers (-one +these):\n%s", workers, cmp.Diff(want, res))
				}
			}
		})
	}
}

// iotestOneByte reads in pieces that fit nothing.
type iotestOneByte struct{ r io.Reader }

func (o iotestOneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(len(p), 137)]) }

func TestPrioritizedContainers(t *testing.T) {
	src := tarOf(t, sampleFiles()...)
	opts := small(formats()["containers"])
	opts.Prioritized = []string{"bin/ping6", "noise"}
	blob, res := build(t, opts, bytes.NewReader(src))
	plain := checkResult(t, blob, res)
	names, _ := tarContents(t, bytes.NewReader(plain))
	if got := strings.Join(names[:6], " "); got != "./ bin/ping bin/ping6 noise "+estargz.PrefetchLandmark+" etc/" {
		t.Errorf("order: %s", got)
	}
	if !bytes.Equal(plain, rebuild(t, blob, res)) {
		t.Error("tar-split does not make the tar")
	}
}

// TestNamesTwice: tar-split cannot have them, so containers/storage has to read
// the layer whole; the TOC can.
func TestNamesTwice(t *testing.T) {
	src := tarOf(t, reg("a", "first"), reg("b", "other"), reg("./a", "last"))
	for name, opts := range formats() {
		if opts.Dialect != estargz.DialectContainers {
			continue
		}
		blob, res := build(t, opts, bytes.NewReader(src))
		checkResult(t, blob, res)
		files := served(t, blob, res)
		if _, ok := res.Annotations[estargz.AnnotationContainersTarSplit]; ok || files["./a"].Body != "last" || len(files) != 2 {
			t.Errorf("%s: %v %v", name, res.Annotations, files)
		}
	}
}

func TestKeepsLandmarks(t *testing.T) {
	src := tarOf(t, reg("first", "1"), reg(estargz.PrefetchLandmark, "\x0f"), reg("second", "2"), reg(estargz.TOCName, "{}"))
	blob, res := build(t, estargz.WriterOptions{KeepDiffID: true}, bytes.NewReader(src))
	if plain := checkResult(t, blob, res); !bytes.Equal(plain, src) {
		t.Error("the tar has changed")
	}
	if files := served(t, blob, res); len(files) != 4 || files["second"].Body != "2" {
		t.Errorf("%v", files)
	}
}

func TestFormatOptions(t *testing.T) {
	for _, opts := range []estargz.WriterOptions{
		{Format: 2}, {Dialect: 1}, {Format: estargz.FormatZstdChunked, Dialect: 2},
		{Format: estargz.FormatZstdChunked, Level: 23},
		{KeepDiffID: true, Prioritized: []string{"a"}},
	} {
		if _, _, err := tryBuild(opts, bytes.NewReader(nil)); fserr.KindOf(err) != fserr.Invalid {
			t.Errorf("%+v: %v", opts, err)
		}
	}
	for name, opts := range formats() {
		blob, res := build(t, opts, bytes.NewReader(nil))
		plain := checkResult(t, blob, res)
		if opts.KeepDiffID != (len(plain) == 0) && opts.Dialect == estargz.DialectStargz {
			t.Errorf("%s: an empty tar becomes %d bytes", name, len(plain))
		}
		served(t, blob, res)
	}
	opts := formats()["stargz zstd"]
	for _, opts.Level = range []int{1, 3, 7, 22} {
		blob, res := build(t, opts, bytes.NewReader(tarOf(t, sampleFiles()...)))
		checkResult(t, blob, res)
	}
}
