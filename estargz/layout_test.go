package estargz_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/estargz"
)

// tocNames lists the names of a blob's entries, chunks left out.
func tocNames(t *testing.T, blob []byte) []string {
	t.Helper()
	names, _, _ := contents(t, blob)
	return names
}

func TestWriterOrder(t *testing.T) {
	src := tarOf(t, dir("a/"), reg("a/1", "1"), reg("a/2", "2"), dir("b/"), dir("b/c/"),
		reg("b/c/target", "t"), hardlink("b/link", "b/c/target"), reg("./d", "d"))
	const landmark, none = estargz.PrefetchLandmark, estargz.NoPrefetchLandmark
	all := []string{"a/", "a/1", "a/2", "b/", "b/c/", "b/c/target", "b/link", "./d"}
	tests := []struct {
		name        string
		prioritized []string
		want        []string
		missing     []string
	}{
		{"none", nil, append([]string{none}, all...), nil},
		{"parents come along", []string{"/a/2"},
			[]string{"a/", "a/2", landmark, "a/1", "b/", "b/c/", "b/c/target", "b/link", "./d"}, nil},
		{"link targets come along", []string{"d", "b/link"},
			[]string{"./d", "b/", "b/c/", "b/c/target", "b/link", landmark, "a/", "a/1", "a/2"}, nil},
		{"twice and missing", []string{"a/2", "nope", "a/2", "a"},
			[]string{"a/", "a/2", landmark, "a/1", "b/", "b/c/", "b/c/target", "b/link", "./d"}, []string{"nope"}},
		{"only missing", []string{"nope"}, append([]string{estargz.NoPrefetchLandmark}, all...), []string{"nope"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opts := estargz.WriterOptions{Prioritized: tt.prioritized, TempDir: t.TempDir()}
			blob, res := build(t, opts, bytes.NewReader(src))
			if diff := cmp.Diff(tt.want, tocNames(t, blob)); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.missing, res.NotFound); diff != "" {
				t.Errorf("not found (-want +got):\n%s", diff)
			}
			// A stream that cannot be read twice gives the same.
			_, spooled := build(t, opts, io.MultiReader(bytes.NewReader(src)))
			if diff := cmp.Diff(res, spooled); diff != "" {
				t.Errorf("from a stream:\n%s", diff)
			}
			if left, err := os.ReadDir(opts.TempDir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// TestWriterMembers looks at where payloads are.
func TestWriterMembers(t *testing.T) {
	body := func(n int) string { return strings.Repeat("x", n) }
	src := tarOf(t, reg("a", body(3000)), reg("b", body(2000)), reg("c", body(10_000)), reg("d", body(100)),
		reg("e", body(8192)), reg("f", body(4096)))
	places := func(opts estargz.WriterOptions) (list []string) {
		blob, _ := build(t, opts, bytes.NewReader(src))
		_, _, b := contents(t, blob)
		last := int64(-1)
		err := b.Entries(func(e *estargz.Entry) error {
			how := "joins"
			if e.Offset != last {
				how = "starts"
				if e.InnerOffset != 0 {
					t.Errorf("%s is the first of its member, but at %d", e.Name, e.InnerOffset)
				}
			}
			last = e.Offset
			list = append(list, e.Name+" "+how)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return list
	}
	tests := []struct {
		name string
		opts estargz.WriterOptions
		want []string
	}{
		{"ungrouped", estargz.WriterOptions{MinMemberSize: -1}, []string{
			".no.prefetch.landmark starts", "a starts", "b starts", "c starts", "d starts", "e starts", "f starts"}},
		{"grouped", estargz.WriterOptions{}, []string{
			".no.prefetch.landmark starts", "a joins", "b joins", "c joins", "d joins", "e joins", "f joins"}},
		{"small groups of small files", estargz.WriterOptions{MinMemberSize: 5000, ChunkSize: 8192}, []string{
			".no.prefetch.landmark starts", "a joins", "b joins", "c starts", "c starts", "d joins", "e starts", "f starts"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, places(tt.opts)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWriterLandmarkStartsMember(t *testing.T) {
	src := tarOf(t, reg("a", "a"), reg("b", "b"))
	blob, _ := build(t, estargz.WriterOptions{Prioritized: []string{"b"}}, bytes.NewReader(src))
	_, _, b := contents(t, blob)
	offsets := map[string]int64{}
	inner := map[string]int64{}
	if err := b.Entries(func(e *estargz.Entry) error {
		offsets[e.Name], inner[e.Name] = e.Offset, e.InnerOffset
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	mark := estargz.PrefetchLandmark
	if offsets["b"] >= offsets[mark] || offsets["a"] < offsets[mark] || inner[mark] != 0 {
		t.Errorf("offsets %v, inner %v", offsets, inner)
	}
}

// TestWriterManyHeaders has more headers in a row than a member may take.
func TestWriterManyHeaders(t *testing.T) {
	files := []file{reg("first", "1")}
	for i := range 4000 {
		files = append(files, dir(strings.Repeat("d", i%200+1)+string(rune('a'+i%26))+strings.Repeat("e", i/200)+"/"))
	}
	files = append(files, reg("last", "2"))
	blob, _ := build(t, estargz.WriterOptions{}, bytes.NewReader(tarOf(t, files...)))
	_, _, b := contents(t, blob)
	var first, last int64
	err := b.Files(func(e *estargz.Entry, chunks []estargz.Chunk) error {
		switch e.Name {
		case "first":
			first = chunks[0].Member
		case "last":
			last = chunks[0].Member
		}
		return nil
	})
	if err != nil || first >= last {
		t.Errorf("first at %d, last at %d, %v", first, last, err)
	}
}

func TestWriterDuplicates(t *testing.T) {
	src := tarOf(t, dir("d/"), reg("d/a", "old"), reg("d/b", "b"), reg("./d/a", "new"),
		file{tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o700}, ""}, reg("gone", "file"),
		file{tar.Header{Typeflag: tar.TypeSymlink, Name: "gone", Linkname: "d"}, ""})
	for name, opts := range map[string]estargz.WriterOptions{
		"streamed": {}, "reordered": {Prioritized: []string{"d/a"}}, "small chunks": {ChunkSize: 2},
	} {
		t.Run(name, func(t *testing.T) {
			blob, _ := build(t, opts, bytes.NewReader(src))
			names, files, _ := contents(t, blob)
			got := slices.Sorted(slices.Values(names[1:]))
			if name == "reordered" {
				got = slices.DeleteFunc(slices.Sorted(slices.Values(names)), func(s string) bool { return s[0] == '.' && s[1] == 'p' })
			}
			if diff := cmp.Diff([]string{"./d/a", "d/", "d/b", "gone"}, normal(got)); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
			if files["./d/a"].Body != "new" || files["gone"].Type != "symlink" {
				t.Errorf("%+v", files)
			}
		})
	}
}

// normal gives directories the slash that the tar writer may have left out.
func normal(names []string) []string {
	for i, n := range names {
		if n == "d" {
			names[i] = "d/"
		}
	}
	return slices.Sorted(slices.Values(names))
}

func TestWriterReconverts(t *testing.T) {
	src := tarOf(t, dir("a/"), reg("a/1", "1"), reg("a/"+estargz.TOCName, "not the TOC"))
	first, want := build(t, estargz.WriterOptions{}, bytes.NewReader(src))
	_, got := build(t, estargz.WriterOptions{}, bytes.NewReader(gunzip(t, first)))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("converting again changes the layer:\n%s", diff)
	}
	optimized, _ := build(t, estargz.WriterOptions{Prioritized: []string{"a/1"}}, bytes.NewReader(gunzip(t, first)))
	_, got = build(t, estargz.WriterOptions{}, bytes.NewReader(gunzip(t, optimized)))
	if diff := cmp.Diff(want.TOCDigest, got.TOCDigest); diff != "" {
		t.Errorf("the way back differs:\n%s", diff)
	}
}

func TestWriterGlobalHeaders(t *testing.T) {
	global := func(records map[string]string) file {
		return file{tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: records}, ""}
	}
	src := tarOf(t, global(map[string]string{"comment": "0123abcd"}), reg("before", "b"),
		global(map[string]string{"uid": "7", "mtime": "1000000000.75", "SCHILY.xattr.user.g": "v", "uname": "seven"}),
		reg("under", "u"),
		file{tar.Header{Name: "own", Uid: 8, PAXRecords: map[string]string{"SCHILY.xattr.user.g": "mine"}}, ""},
		global(map[string]string{"SCHILY.xattr.user.g": "", "uid": "9"}), reg("after", ""))
	for _, opts := range []estargz.WriterOptions{{}, {Prioritized: []string{"after", "before"}}} {
		blob, _ := build(t, opts, bytes.NewReader(src))
		_, files, _ := contents(t, blob)
		want := map[string]flat{
			"before": {Type: "reg", Body: "b", Mode: 0o644},
			"under":  {Type: "reg", Body: "u", Mode: 0o644, UID: 7, ModTime: 1000000001, Xattrs: map[string]string{"user.g": "v"}},
			"own":    {Type: "reg", UID: 7, ModTime: 1000000001, Xattrs: map[string]string{"user.g": "mine"}},
			"after":  {Type: "reg", Mode: 0o644, UID: 9, ModTime: 1000000001},
		}
		for name, w := range want {
			if diff := cmp.Diff(w, files[name]); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	}
}

func tool(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skip(err)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return out
}

func TestWriterSparse(t *testing.T) {
	if !strings.Contains(string(tool(t, "tar", "--version")), "GNU tar") {
		t.Skip("no GNU tar")
	}
	base := t.TempDir()
	f, err := os.Create(filepath.Join(base, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{100_000, 1_000_000, 3_000_000} {
		if _, err := f.WriteAt([]byte("island"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Truncate(5_000_000), f.Close(), os.WriteFile(filepath.Join(base, "z"), []byte("z"), 0o600)); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(base, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range [][]string{{"--format=gnu"}, {"--format=posix", "--sparse-version=0.0"},
		{"--format=posix", "--sparse-version=0.1"}, {"--format=posix", "--sparse-version=1.0"}} {
		path := filepath.Join(t.TempDir(), "t.tar")
		tool(t, "tar", append(format, "--sparse", "-C", base, "-cf", path, "sparse", "z")...)
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(src) > 1<<20 {
			t.Skip("the file system made no sparse file")
		}
		for _, opts := range []estargz.WriterOptions{{}, {Prioritized: []string{"z"}}} {
			blob, _ := build(t, opts, bytes.NewReader(src))
			_, files, _ := contents(t, blob)
			_, plain := tarContents(t, bytes.NewReader(gunzip(t, blob)))
			if files["sparse"].Body != string(want) || plain["sparse"].Body != string(want) || files["z"].Body != "z" {
				t.Errorf("%v: content differs", format)
			}
		}
	}
}

// TestGNUToolsReadIt has GNU tar and gzip unpack a blob as the tar.gz it is.
func TestGNUToolsReadIt(t *testing.T) {
	if !strings.Contains(string(tool(t, "tar", "--version")), "GNU tar") {
		t.Skip("no GNU tar")
	}
	var files []file
	for _, f := range sampleFiles() {
		if f.Typeflag != tar.TypeChar && f.Typeflag != tar.TypeBlock {
			f.Uid, f.Gid = os.Getuid(), os.Getgid()
			files = append(files, f)
		}
	}
	base := t.TempDir()
	path := filepath.Join(base, "layer.tar.gz")
	blob, _ := build(t, estargz.WriterOptions{ChunkSize: 100_000, Prioritized: []string{"noise"}}, bytes.NewReader(tarOf(t, files...)))
	if err := os.WriteFile(path, blob, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "gzip", "-t", path)
	out := filepath.Join(base, "out")
	if err := os.Mkdir(out, 0o700); err != nil {
		t.Fatal(err)
	}
	tool(t, "tar", "-C", out, "-xzf", path)
	for _, f := range files {
		if f.Typeflag != 0 {
			continue
		}
		got, err := os.ReadFile(filepath.Join(out, f.Name))
		if err != nil || string(got) != f.Body {
			t.Errorf("%s: %d bytes, %v; want %d", f.Name, len(got), err, len(f.Body))
		}
	}
	same, err := os.Stat(filepath.Join(out, "bin/ping6"))
	if err != nil {
		t.Fatal(err)
	}
	if orig, err := os.Stat(filepath.Join(out, "bin/ping")); err != nil || !os.SameFile(same, orig) {
		t.Errorf("hard link was lost: %v", err)
	}
}

// failing writes or reads n bytes and fails then.
type failing struct {
	n   int
	err error
	src io.Reader
}

func (f *failing) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, f.err
	}
	return len(p), nil
}

func (f *failing) Read(p []byte) (int, error) {
	if f.n <= 0 {
		return 0, f.err
	}
	n, err := f.src.Read(p[:min(len(p), f.n)])
	f.n -= n
	return n, err
}

func TestWriterFailures(t *testing.T) {
	src := tarOf(t, sampleFiles()...)
	opts := estargz.WriterOptions{ChunkSize: 9999, Level: 1}
	blob, _ := build(t, opts, bytes.NewReader(src))
	broken := errors.New("broken")
	for n := 0; n < len(blob); n += len(blob)/20 + 1 {
		w := estargz.NewWriter(&failing{n: n, err: broken}, opts)
		err := w.AppendTar(t.Context(), bytes.NewReader(src))
		if _, cerr := w.Close(); !errors.Is(errors.Join(err, cerr), broken) || cerr == nil {
			t.Errorf("writer broken after %d bytes: %v, %v", n, err, cerr)
		}
	}
	for n := 0; n < len(src)-10_000; n += len(src)/20 + 1 {
		for _, first := range [][]string{nil, {"noise"}} {
			_, _, err := tryBuild(estargz.WriterOptions{Prioritized: first, Level: 1}, &failing{n: n, err: broken, src: bytes.NewReader(src)})
			if !errors.Is(err, broken) {
				t.Errorf("reader broken after %d bytes: %v", n, err)
			}
		}
	}
}

func TestWriterCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	src := tarOf(t, sampleFiles()...)
	r := &failing{n: 100_000, err: io.ErrUnexpectedEOF, src: readerFunc(func(p []byte) (int, error) {
		cancel()
		return bytes.NewReader(src).Read(p)
	})}
	for _, first := range [][]string{nil, {"noise"}} {
		w := estargz.NewWriter(io.Discard, estargz.WriterOptions{Prioritized: first})
		if err := w.AppendTar(ctx, r); !errors.Is(err, context.Canceled) {
			t.Errorf("AppendTar: %v", err)
		}
		if _, err := w.Close(); !errors.Is(err, context.Canceled) {
			t.Errorf("Close: %v", err)
		}
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
