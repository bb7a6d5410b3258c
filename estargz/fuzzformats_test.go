package estargz_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// content is what there is of a tar entry, whatever its header looks like.
type content struct{ Type, Link, Body string }

// contentsOf gives what a tar unpacks to, by clean names, or nil if it does not.
func contentsOf(src []byte) map[string]content {
	types := map[byte]string{tar.TypeDir: "dir", tar.TypeReg: "reg", tar.TypeSymlink: "symlink", tar.TypeLink: "hardlink",
		tar.TypeChar: "char", tar.TypeBlock: "block", tar.TypeFifo: "fifo", tar.TypeGNUSparse: "reg", tar.TypeCont: "reg"}
	files := make(map[string]content)
	tr := tar.NewReader(bytes.NewReader(src))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			return nil
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			return nil
		}
		name := clean(h.Name)
		if h.Typeflag != tar.TypeSymlink && h.Typeflag != tar.TypeLink {
			h.Linkname = ""
		}
		files[name] = content{types[h.Typeflag], h.Linkname, string(body)}
	}
}

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// checkFormat makes a layer of src, if that is possible, and reads it in every way.
func checkFormat(t *testing.T, src []byte, opts estargz.WriterOptions) {
	blob, res, err := tryBuild(opts, bytes.NewReader(src))
	if err != nil {
		if kind := fserr.KindOf(err); kind == fserr.Internal {
			t.Fatalf("%v has no kind", err)
		}
		return
	}
	plain := checkResult(t, blob, res)
	if opts.KeepDiffID && !bytes.Equal(plain, src) {
		t.Fatal("the tar has changed")
	}
	got := make(map[string]content)
	for name, f := range served(t, blob, res) {
		got[clean(name)] = content{f.Type, f.Link, f.Body}
	}
	for _, tarball := range [][]byte{src, plain} {
		want := contentsOf(tarball)
		if !opts.KeepDiffID && opts.Dialect == estargz.DialectStargz {
			for _, m := range []map[string]content{want, got} {
				delete(m, estargz.NoPrefetchLandmark)
				delete(m, estargz.PrefetchLandmark)
				delete(m, estargz.TOCName)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("served (-unpacked +got):\n%s", diff)
		}
	}
	if _, ok := res.Annotations[estargz.AnnotationContainersTarSplit]; ok && !bytes.Equal(plain, rebuild(t, blob, res)) {
		t.Fatal("tar-split does not make the tar")
	}
}

// FuzzFormats makes layers of arbitrary tars in every format: what is served, and
// what the layer unpacks to, is what the tar does.
func FuzzFormats(f *testing.F) {
	paths, err := filepath.Glob(filepath.Join("testdata", "tars", "*.tar"))
	if err != nil || len(paths) == 0 {
		f.Fatal(paths, err)
	}
	for i, p := range paths {
		if !strings.Contains(p, "sparse-pax-0") { // two forms of sparse are enough to start with
			f.Add(goldenTar(f, strings.TrimSuffix(filepath.Base(p), ".tar")), byte(i))
		}
	}
	f.Add(tarOf(f, sampleFiles()[:14]...), byte(4))
	f.Add(append(solid(f), make([]byte, 700)...), byte(5))
	names := sortedFormats()
	f.Fuzz(func(t *testing.T, src []byte, format byte) {
		opts := formats()[names[int(format)%len(names)]]
		opts.ChunkSize, opts.MinMemberSize, opts.Workers, opts.Level = 16<<10, 8<<10, 2, 1
		opts.Limits = estargz.Limits{Entries: 200}
		checkFormat(t, src, opts)
	})
}

func sortedFormats() (names []string) {
	for name := range formats() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// TestRandomTars does the same with tars that are all in order.
func TestRandomTars(t *testing.T) {
	seeds := uint64(8)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 1))
		var files []file
		for i := range rng.IntN(60) {
			name := fmt.Sprintf("d%d/%s%d", rng.IntN(4), strings.Repeat("n", rng.IntN(200)), i)
			body := make([]byte, rng.IntN(1+rng.IntN(40_000)))
			for j := range body {
				body[j] = byte(rng.ExpFloat64() * 9)
			}
			f := file{tar.Header{Name: name, Mode: int64(rng.IntN(0o10000)), Uid: rng.IntN(1 << 22)}, string(body)}
			switch rng.IntN(8) {
			case 0:
				f = dir(name + "/")
			case 1:
				f = file{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: strings.Repeat("../l", rng.IntN(60))}, ""}
			case 2:
				f.PAXRecords = map[string]string{"SCHILY.xattr.user.x": name}
			}
			files = append(files, f)
		}
		src := append(tarOf(t, files...), make([]byte, rng.IntN(30_000))...)
		for _, opts := range formats() {
			opts.ChunkSize, opts.MinMemberSize, opts.Workers, opts.Level = 9_000, 3_000, 2, 1
			checkFormat(t, src, opts)
		}
	}
}
