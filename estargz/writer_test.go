package estargz_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// file is a tar entry with its content.
type file struct {
	tar.Header
	Body string
}

func tarOf(tb testing.TB, files ...file) []byte {
	tb.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, f := range files {
		h := f.Header
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(f.Body))
		}
		if err := tw.WriteHeader(&h); err != nil {
			tb.Fatalf("%s: %v", h.Name, err)
		}
		if _, err := io.WriteString(tw, f.Body); err != nil {
			tb.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func tarHeader(name string) tar.Header { return tar.Header{Name: name, Mode: 0o644} }

func reg(name, body string) file { return file{tarHeader(name), body} }
func dir(name string) file {
	return file{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""}
}
func hardlink(name, to string) file {
	return file{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644}, ""}
}

func build(tb testing.TB, opts estargz.WriterOptions, src io.Reader) ([]byte, estargz.Result) {
	tb.Helper()
	blob, res, err := tryBuild(opts, src)
	if err != nil {
		tb.Fatal(err)
	}
	return blob, res
}

func tryBuild(opts estargz.WriterOptions, src io.Reader) ([]byte, estargz.Result, error) {
	var buf bytes.Buffer
	w := estargz.NewWriter(&buf, opts)
	if err := w.AppendTar(context.Background(), src); err != nil {
		return nil, estargz.Result{}, err
	}
	res, err := w.Close()
	return buf.Bytes(), res, err
}

// sampleFiles is a bit of everything that tar can say.
func sampleFiles() []file {
	rng := rand.New(rand.NewPCG(5, 6))
	long := strings.Repeat("directory/", 30)
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	when := time.Date(2024, 5, 6, 7, 8, 9, 600_000_000, time.UTC)
	return []file{
		dir("./"), dir("etc/"),
		{tar.Header{Name: "etc/passwd", Mode: 0o644, ModTime: when, Format: tar.FormatPAX}, "root:x:0:0\n"},
		{tar.Header{Name: "etc/shadow", Mode: 0o4600, Uid: 1, Gid: 42, Uname: "u", Gname: "shadow"}, "x"},
		{tar.Header{Typeflag: tar.TypeSymlink, Name: "etc/mtab", Linkname: "../proc/mounts", Mode: 0o777}, ""},
		{tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Devmajor: 1, Devminor: 3, Mode: 0o666}, ""},
		{tar.Header{Typeflag: tar.TypeBlock, Name: "dev/sda", Devmajor: 8, Mode: 0o660}, ""},
		{tar.Header{Typeflag: tar.TypeFifo, Name: "run/fifo", Mode: 0o600}, ""},
		reg("empty", ""),
		{tar.Header{Name: "bin/ping", Mode: 0o755, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00 \x00", "SCHILY.xattr.user.b": "", "SCHILY.xattr.user.a": "1",
		}}, "ping"},
		hardlink("bin/ping6", "bin/ping"),
		{tar.Header{Name: long + "name", Mode: 0o600, Format: tar.FormatGNU}, "long"},
		{tar.Header{Name: "big owner", Uid: 1 << 30, Gid: 1<<32 - 1, Mode: 0o600}, "owned"},
		reg("größe \" \\ \x01", "odd name"),
		reg("noise", string(noise)), reg("zeros", string(make([]byte, 250_001))),
		reg("chunked exactly", string(noise[:200_000])),
		reg("lib/.wh.gone", ""), reg("lib/.wh..wh..opq", ""),
	}
}

// flat is an entry and its content, comparable.
type flat struct {
	Type, Link, Body string
	Mode, UID, GID   uint32
	Major, Minor     uint32
	ModTime          int64
	Xattrs           map[string]string
}

// contents reads a blob through its TOC.
func contents(tb testing.TB, blob []byte) (names []string, files map[string]flat, b *estargz.Blob) {
	tb.Helper()
	b, err := estargz.Open(bytes.NewReader(blob), int64(len(blob)), estargz.Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	files = make(map[string]flat)
	err = b.Files(func(e *estargz.Entry, chunks []estargz.Chunk) error {
		var body bytes.Buffer
		if err := b.WriteContent(&body, chunks); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		f := flat{e.Type.String(), e.LinkName, body.String(), e.Mode, e.UID, e.GID, e.DevMajor, e.DevMinor, 0, nil}
		if !e.ModTime.IsZero() {
			f.ModTime = e.ModTime.Unix()
		}
		for k, v := range e.Xattrs {
			if f.Xattrs == nil {
				f.Xattrs = make(map[string]string)
			}
			f.Xattrs[k] = string(v)
		}
		if int64(body.Len()) != e.Size || e.HasDigest && e.Digest != estargz.Sum(body.Bytes()) {
			return fmt.Errorf("%s: size or digest is wrong", e.Name)
		}
		if e.Type == estargz.TypeReg && !e.HasDigest {
			return fmt.Errorf("%s: no digest", e.Name)
		}
		names = append(names, e.Name)
		files[e.Name] = f
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return names, files, b
}

// tarContents reads a tar stream.
func tarContents(tb testing.TB, r io.Reader) (names []string, files map[string]flat) {
	tb.Helper()
	types := map[byte]string{tar.TypeDir: "dir", tar.TypeReg: "reg", tar.TypeSymlink: "symlink", tar.TypeLink: "hardlink",
		tar.TypeChar: "char", tar.TypeBlock: "block", tar.TypeFifo: "fifo", tar.TypeGNUSparse: "reg"}
	files = make(map[string]flat)
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return names, files
		}
		if err != nil {
			tb.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			tb.Fatal(err)
		}
		f := flat{types[h.Typeflag], h.Linkname, string(body), uint32(h.Mode), uint32(h.Uid), uint32(h.Gid),
			uint32(h.Devmajor), uint32(h.Devminor), h.ModTime.Round(time.Second).Unix(), nil}
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				if f.Xattrs == nil {
					f.Xattrs = make(map[string]string)
				}
				f.Xattrs[name] = v
			}
		}
		names = append(names, h.Name)
		files[h.Name] = f
	}
}

func gunzip(tb testing.TB, blob []byte) []byte {
	tb.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		tb.Fatal(err)
	}
	plain, err := io.ReadAll(zr)
	if err != nil {
		tb.Fatal(err)
	}
	return plain
}

func TestWriterRoundTrip(t *testing.T) {
	src := tarOf(t, sampleFiles()...)
	_, want := tarContents(t, bytes.NewReader(src))
	want[estargz.NoPrefetchLandmark] = flat{Type: "reg", Body: "\x0f", Mode: 0o644}
	for name, opts := range map[string]estargz.WriterOptions{
		"defaults":     {},
		"small chunks": {ChunkSize: 50_000, MinMemberSize: 20_000, Level: 1},
		"ungrouped":    {ChunkSize: 100_000, MinMemberSize: -1, Level: 9},
		"prioritized":  {Prioritized: []string{"bin/ping6", "noise"}, ChunkSize: 4096},
	} {
		t.Run(name, func(t *testing.T) {
			blob, res := build(t, opts, bytes.NewReader(src))
			want := withLandmark(want, opts)
			_, got, b := contents(t, blob)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("by TOC (-want +got):\n%s", diff)
			}
			plain := gunzip(t, blob)
			_, gotTar := tarContents(t, bytes.NewReader(plain))
			delete(gotTar, estargz.TOCName)
			if diff := cmp.Diff(want, gotTar); diff != "" {
				t.Errorf("by tar (-want +got):\n%s", diff)
			}
			wantRes := estargz.Result{BlobDigest: estargz.Sum(blob), BlobSize: int64(len(blob)),
				DiffID: estargz.Sum(plain), UncompressedSize: int64(len(plain)), TOCDigest: b.TOCDigest(),
				MediaType: estargz.MediaTypeGzip, Annotations: map[string]string{
					estargz.AnnotationTOCDigest:        b.TOCDigest().String(),
					estargz.AnnotationUncompressedSize: strconv.Itoa(len(plain))}}
			if diff := cmp.Diff(wantRes, res); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}

func withLandmark(files map[string]flat, opts estargz.WriterOptions) map[string]flat {
	m := make(map[string]flat)
	for k, v := range files {
		m[k] = v
	}
	if len(opts.Prioritized) > 0 {
		m[estargz.PrefetchLandmark] = m[estargz.NoPrefetchLandmark]
		delete(m, estargz.NoPrefetchLandmark)
	}
	return m
}

func TestWriterWorkersDoNotMatter(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	var files []file
	for i := range 200 {
		body := make([]byte, rng.IntN(60_000))
		for j := range body {
			body[j] = byte(rng.ExpFloat64() * 20)
		}
		files = append(files, reg(fmt.Sprintf("d%d/f%d", i%7, i), string(body)))
	}
	src := tarOf(t, files...)
	var want estargz.Result
	for i, workers := range []int{1, 2, 3, 16} {
		_, res := build(t, estargz.WriterOptions{Workers: workers, ChunkSize: 20_000, MinMemberSize: 10_000}, bytes.NewReader(src))
		if i == 0 {
			want = res
		}
		if diff := cmp.Diff(want, res); diff != "" {
			t.Errorf("%d workers (-one +these):\n%s", workers, diff)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	raw := func(h tar.Header) []byte { return tarOf(t, file{h, ""}) }
	special := raw(tar.Header{Name: "volume", Typeflag: tar.TypeFifo})
	special[156] = 'V'
	special = fixChecksum(special)
	tests := []struct {
		name string
		src  []byte
		kind fserr.Kind
	}{
		{"type", special, fserr.Unsupported},
		{"not UTF-8", tarOf(t, file{tar.Header{Name: "caf\xe9", Format: tar.FormatGNU}, ""}), fserr.Unsupported},
		{"link to nothing", tarOf(t, hardlink("a", "b")), fserr.Unsupported},
		{"link to a directory", tarOf(t, dir("b"), hardlink("a", "b")), fserr.Unsupported},
		{"link to itself", tarOf(t, hardlink("a", "./a")), fserr.Corrupt},
		{"replaced link target", tarOf(t, reg("a", "1"), hardlink("b", "a"), reg("a", "2")), fserr.Unsupported},
		{"name", tarOf(t, reg(strings.Repeat("n", 256), "")), fserr.TooLarge},
		{"file as root", tarOf(t, reg(".", "x")), fserr.Corrupt},
		{"garbage", bytes.Repeat([]byte("garbage "), 200), fserr.Corrupt},
		{"cut", tarOf(t, reg("a", "0123"))[:514], fserr.Corrupt},
		{"global path", raw(tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "x"}}), fserr.Unsupported},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := tryBuild(estargz.WriterOptions{}, bytes.NewReader(tt.src))
			if fserr.KindOf(err) != tt.kind {
				t.Errorf("%v: kind %v, want %v", err, fserr.KindOf(err), tt.kind)
			}
		})
	}
}

// fixChecksum repairs the first header of a tar.
func fixChecksum(p []byte) []byte {
	copy(p[148:156], "        ")
	sum := 0
	for _, c := range p[:512] {
		sum += int(c)
	}
	copy(p[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return p
}
