package image_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/layout"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testreg"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// everyFormat is what a layer can be converted to.
var everyFormat = map[string]estargz.WriterOptions{
	"estargz":                      {},
	"estargz, small":               {ChunkSize: 10_000, MinMemberSize: -1, Prioritized: []string{"z/last"}},
	"estargz, kept":                {KeepDiffID: true},
	"zstd:chunked":                 {Format: estargz.FormatZstdChunked},
	"zstd:chunked, small":          {Format: estargz.FormatZstdChunked, ChunkSize: 10_000, MinMemberSize: -1},
	"zstd:chunked, kept":           {Format: estargz.FormatZstdChunked, KeepDiffID: true},
	"zstd:chunked, for containers": {Format: estargz.FormatZstdChunked, Dialect: estargz.DialectContainers},
}

func someFiles() []file {
	return []file{
		{name: "a/"}, {name: "a/small", body: "x"}, {name: "a/empty"}, {name: "a/link", link: "small"},
		{name: "big", body: strings.Repeat("0123456789", 9_000)}, {name: "holes", body: strings.Repeat("\x00", 100_000) + "end"},
		{name: "a/.wh.gone"}, {name: "z/"}, {name: "z/last", body: "last"},
	}
}

// verifySite is a registry with a plain image.
func verifySite(t *testing.T) (*testreg.Registry, source.Mux) {
	t.Helper()
	reg := testreg.New(t)
	reg.AddImage("app", "plain", testreg.Image{Layers: []testreg.Layer{plainLayer(t, someFiles()...)}})
	r := registry.New(registry.Options{Attempts: 1})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return reg, source.Mux{Registry: r}
}

func plainLayer(t *testing.T, files ...file) testreg.Layer {
	raw := tarOf(t, files...)
	return testreg.Layer{Data: raw, DiffID: digest.FromBytes(raw), MediaType: ocispec.MediaTypeImageLayer}
}

func convertTo(t *testing.T, reg *testreg.Registry, src source.Mux, tag string, w estargz.WriterOptions) convert.Result {
	t.Helper()
	res, err := convert.Convert(t.Context(), src, reg.Ref("app", "plain"), src, reg.Ref("app", tag), convert.Options{Writer: w})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func verdictOf(t *testing.T, src source.Mux, ref string) *image.Verdict {
	t.Helper()
	v, err := image.Verify(t.Context(), src, ref, source.Selection{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v[0]
}

func TestVerifyEveryFormat(t *testing.T) {
	reg, src := verifySite(t)
	for name, w := range everyFormat {
		t.Run(name, func(t *testing.T) {
			res := convertTo(t, reg, src, "lazy", w)
			v := verdictOf(t, src, reg.Ref("app", "lazy"))
			l := v.Layers[0]
			if !v.OK || !l.TOC || l.Entries != len(someFiles()) || l.Chunks < 3 || l.DiffID != string(res.Images[0].Layers[0].DiffID) {
				t.Errorf("%+v", v)
			}
			report, err := image.Inspect(t.Context(), src, reg.Ref("app", "lazy"), ocispec.Platform{})
			if err != nil || !report.Lazy || l.Chunks-report.Layers[0].Chunks > 1 || report.ColdBytes == 0 || report.ColdRequests == 0 ||
				(report.Layers[0].Dialect == "containers") != (w.Dialect == estargz.DialectContainers) || report.Layers[0].ExternalTOC != (res.TOCRef != "") {
				t.Errorf("%+v, %v", report, err)
			}
			if kept := w.KeepDiffID || w.Dialect == estargz.DialectContainers; kept != res.Images[0].SameConfig {
				t.Errorf("config kept: %v", res.Images[0].SameConfig)
			}
		})
	}
	if v := verdictOf(t, src, reg.Ref("app", "plain")); !v.OK || v.Layers[0].TOC || v.Layers[0].Entries != len(someFiles()) {
		t.Errorf("%+v", v)
	}
}

// TestVerifyFindsEveryDamagedByte: whichever byte of a layer is changed, the
// verdict is bad, and where a chunk is hit it is named.
func TestVerifyFindsEveryDamagedByte(t *testing.T) {
	reg, src := verifySite(t)
	src.Layout = layout.New()
	for name, w := range everyFormat {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ref := "oci:" + dir + ":lazy"
			res, err := convert.Convert(t.Context(), src, reg.Ref("app", "plain"), src, ref, convert.Options{Writer: w})
			if err != nil {
				t.Fatal(err)
			}
			blob := filepath.Join(dir, "blobs", "sha256", res.Images[0].Layers[0].Digest.Encoded())
			good, err := os.ReadFile(blob)
			if err != nil {
				t.Fatal(err)
			}
			named := 0
			for at := 0; at < len(good); at += max(1, len(good)/60) {
				bad := bytes.Clone(good)
				bad[at] ^= 0x55
				if err := os.WriteFile(blob, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				v := verdictOf(t, src, ref)
				problems := strings.Join(v.Layers[0].Problems, "\n")
				if v.OK || !strings.Contains(problems, "blob: ") {
					t.Errorf("byte %d of %d: %s", at, len(good), problems)
				}
				if strings.Contains(problems, ": chunk of ") {
					named++
				}
			}
			if named == 0 {
				t.Error("no chunk was named")
			}
		})
	}
}

// TestVerifyLargeMembers: a chunk that is larger than what is held in memory is
// verified all the same, in both compressions.
func TestVerifyLargeMembers(t *testing.T) {
	if testing.Short() {
		t.Skip("compresses 100 MB")
	}
	noise := make([]byte, 50<<20)
	if _, err := rand.NewChaCha8([32]byte{1}).Read(noise); err != nil {
		t.Fatal(err)
	}
	reg, src := verifySite(t)
	src.Layout = layout.New()
	reg.AddImage("app", "large", testreg.Image{Layers: []testreg.Layer{plainLayer(t, file{name: "noise", body: string(noise)}, file{name: "small", body: "x"})}})
	for name, w := range map[string]estargz.WriterOptions{"gzip": {ChunkSize: 64 << 20, Level: 1}, "zstd": {ChunkSize: 64 << 20, Level: 1, Format: estargz.FormatZstdChunked}} {
		dir := t.TempDir()
		ref := "oci:" + dir + ":" + name
		res, err := convert.Convert(t.Context(), src, reg.Ref("app", "large"), src, ref, convert.Options{Writer: w})
		if err != nil {
			t.Fatal(err)
		}
		if v := verdictOf(t, src, ref); !v.OK || v.Layers[0].Chunks < 2 {
			t.Errorf("%s: %+v", name, v)
		}
		f, err := os.OpenFile(filepath.Join(dir, "blobs", "sha256", res.Images[0].Layers[0].Digest.Encoded()), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte("damaged"), 40<<20)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		if v := verdictOf(t, src, ref); v.OK || !strings.Contains(strings.Join(v.Layers[0].Problems, "\n"), "noise: chunk of 52428800 bytes at 0") {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// TestVerifyComparesTOCAndTar: a TOC that the manifest vouches for, and whose
// chunks are right, must still say what the tar says.
func TestVerifyComparesTOCAndTar(t *testing.T) {
	base := map[string]string{"digest": "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", // of x
		"reg": `"type":"reg"`, "link": `"linkName":"small"`, "mode": `"mode":420`, "time": `"modtime":"1970-01-12T13:46:40Z"`, "name": `"name":"a/empty"`}
	for want, change := range map[string][2]string{
		"mode is 0644 in the tar and 0600 in the TOC":   {base["mode"], `"mode":384`},
		"target is small in the tar and big in the TOC": {base["link"], `"linkName":"big"`},
		"time is 1970-01-12T13:46:40Z in the tar":       {base["time"], `"modtime":"1980-01-12T13:46:40Z"`},
		"a/empty: in the tar, but not in the TOC":       {base["name"], `"name":"a/other"`},
		"a/other: in the TOC, but not in the tar":       {base["name"], `"name":"a/other"`},
		"uid is 0 in the tar and 7 in the TOC":          {base["mode"], base["mode"] + `,"uid":7`},
		"content has digest":                            {`"digest":"` + base["digest"], `"digest":"sha256:` + strings.Repeat("0", 64)},
	} {
		t.Run(want, func(t *testing.T) {
			reg := testreg.New(t)
			layer := forgeTOC(t, change[0], change[1])
			reg.AddImage("app", "forged", testreg.Image{Layers: []testreg.Layer{layer}})
			r := registry.New(registry.Options{Attempts: 1})
			defer r.Close() //nolint:errcheck // idle connections
			v := verdictOf(t, source.Mux{Registry: r}, reg.Ref("app", "forged"))
			if v.OK || !strings.Contains(strings.Join(v.Layers[0].Problems, "\n"), want) {
				t.Errorf("%+v", v)
			}
		})
	}
}

// forgeTOC is a layer whose TOC, a zstd frame behind the data, was changed.
func forgeTOC(t *testing.T, from, to string) testreg.Layer {
	t.Helper()
	var out bytes.Buffer
	w := estargz.NewWriter(&out, estargz.WriterOptions{Format: estargz.FormatZstdChunked})
	raw := tarOf(t, someFiles()...)
	if err := w.AppendTar(t.Context(), bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	res, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	footer, err := estargz.ParseFooter(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	packed := out.Bytes()[footer.TOCOffset : footer.TOCOffset+footer.TOCSize]
	zr, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer zr.Close()
	toc, err := zr.DecodeAll(packed, nil)
	if err != nil || !bytes.Contains(toc, []byte(from)) {
		t.Fatalf("%s is not in %s, %v", from, toc, err)
	}
	last := bytes.LastIndex(toc, []byte(from))
	toc = slices.Concat(toc[:last], []byte(to), toc[last+len(from):])
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	forged := zw.EncodeAll(toc, nil)
	annotations := maps.Clone(res.Annotations)
	annotations[estargz.AnnotationTOCDigest] = estargz.Sum(toc).String()
	annotations[estargz.AnnotationStargzChecksum] = estargz.Sum(forged).String()
	data := bytes.Clone(out.Bytes()[:footer.DataEnd()])
	annotations[estargz.AnnotationStargzPosition] = fmt.Sprintf("%d:%d:%d:1", len(data)+8, len(forged), len(toc))
	data = append(data, 0x50, 0x2a, 0x4d, 0x18, byte(len(forged)), byte(len(forged)>>8), byte(len(forged)>>16), 0)
	data = append(data, forged...)
	return testreg.Layer{Data: data, DiffID: digest.Digest(res.DiffID.String()), MediaType: res.MediaType, Annotations: annotations}
}
