package estargz_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// holes is the content of the file that testdata/tars/make.sh writes with holes.
func holes() string {
	p := make([]byte, 1<<20)
	copy(p[16*4096:], bytes.Repeat([]byte("A"), 4096))
	copy(p[128*4096:], bytes.Repeat([]byte("B"), 8192))
	return string(p)
}

// solid is a sparse file by its header, in PAX form 1.0, that has no hole.
func solid(tb testing.TB) []byte {
	tb.Helper()
	records := ""
	for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=solid", "GNU.sparse.realsize=7"} {
		n := len(r) + 4 // two digits, a blank and a newline
		records += fmt.Sprintf("%d %s\n", n, r)
	}
	head := tarOf(tb, reg("x", records))
	head[156] = 'x'
	head = fixChecksum(head)
	data := "1\n0\n7\n" + strings.Repeat("\x00", 506) + "content"
	body := tarOf(tb, reg("GNUSparseFile.0/solid", data))
	return append(head[:1024], body...)
}

// contiguous is a file of type 7.
func contiguous(tb testing.TB) []byte {
	tb.Helper()
	p := tarOf(tb, reg("near", "all of a piece"))
	p[156] = '7'
	return fixChecksum(p)
}

// oddLink is a hard link whose header has a size, as some old writers give it, in
// front of a file whose header has a device number below zero.
func oddLink(tb testing.TB) []byte {
	tb.Helper()
	p := tarOf(tb, reg("a", "content"), hardlink("b", "a"), reg("c", "more"))
	copy(p[1024+124:], "00000000007\x00")
	fixChecksum(p[1024:])
	copy(p[1536+329:], "\xff\xff\xff\xff\xff\xff\xff\xfe")
	fixChecksum(p[1536:])
	return p
}

// padded has bytes that are not zero where nobody looks.
func padded(tb testing.TB) []byte {
	tb.Helper()
	p := tarOf(tb, reg("etc/hostname", "nineply\n"), reg("last", "after"))
	copy(p[512+100:], "junk")
	return append(p, "junk behind the end"...)
}

func goldenTar(tb testing.TB, name string) []byte {
	tb.Helper()
	p, err := os.ReadFile(filepath.Join("testdata", "tars", name+".tar"))
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// TestTars makes every format of the tars that other writers fail on or mangle.
func TestTars(t *testing.T) {
	two := map[string]string{"etc/hostname": "nineply\n", "last": "after"}
	four := map[string]string{"etc/hostname": "nineply\n", "last": "after", "holes": holes(), "nothing": string(make([]byte, 300_000))}
	tests := []struct {
		name    string
		src     []byte
		want    map[string]string
		refused string // the entry that has to change
		changed bool   // it does, unless the DiffID is to be kept
		unsplit bool   // there is no tar-split data when it is kept
	}{
		{"gnu", goldenTar(t, "sparse-gnu"), four, "holes", true, true},
		{"pax 0.0", goldenTar(t, "sparse-pax-0.0"), four, "holes", true, true},
		{"pax 0.1", goldenTar(t, "sparse-pax-0.1"), four, "holes", true, true},
		{"pax 1.0", goldenTar(t, "sparse-pax-1.0"), four, "holes", true, true},
		{"solid", solid(t), map[string]string{"solid": "content"}, "", true, true},
		{"contiguous", contiguous(t), map[string]string{"near": "all of a piece"}, "", true, true},
		{"global", goldenTar(t, "global"), two, "", true, true},
		{"git archive", goldenTar(t, "git-archive"), two, "", true, true},
		{"blocked", goldenTar(t, "blocked"), two, "", false, false},
		{"ended early", goldenTar(t, "blocked")[:4096], two, "", false, false},
		{"padded", padded(t), two, "", false, true},
		{"odd link", oddLink(t), map[string]string{"a": "content", "c": "more"}, "", false, true},
	}
	for _, tt := range tests {
		for name, opts := range formats() {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				blob, res, err := tryBuild(small(opts), bytes.NewReader(tt.src))
				if opts.KeepDiffID && tt.refused != "" {
					if fserr.KindOf(err) != fserr.Unsupported || !strings.Contains(err.Error(), tt.refused) {
						t.Errorf("%v, want that %s is not supported", err, tt.refused)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				plain := checkResult(t, blob, res)
				same := opts.KeepDiffID || opts.Dialect == estargz.DialectContainers && !tt.changed
				if same && !bytes.Equal(plain, tt.src) {
					t.Error("the tar has changed")
				}
				checkContent(t, tt.want, served(t, blob, res))
				_, unpacked := tarContents(t, bytes.NewReader(plain))
				checkContent(t, tt.want, unpacked)
				if opts.Dialect != estargz.DialectContainers {
					return
				}
				if _, split := res.Annotations[estargz.AnnotationContainersTarSplit]; split != (!tt.unsplit || tt.changed && !opts.KeepDiffID) {
					t.Errorf("tar-split: %v", split)
				} else if split && !bytes.Equal(plain, rebuild(t, blob, res)) {
					t.Error("tar-split does not make the tar")
				}
			})
		}
	}
}

// checkContent compares the regular files.
func checkContent(tb testing.TB, want map[string]string, files map[string]flat) {
	tb.Helper()
	got := make(map[string]string)
	for name, f := range files {
		if f.Type == "reg" || f.Type == "" { // "": a type that the helper does not know
			got[strings.TrimPrefix(name, "./")] = f.Body
		}
	}
	delete(got, estargz.NoPrefetchLandmark)
	delete(got, estargz.TOCName)
	delete(got, "pax_global_header")
	delete(got, "global")
	if !cmp.Equal(want, got) {
		tb.Errorf("files differ: %d, want %d", len(got), len(want))
		for name, body := range want {
			if got[name] != body {
				tb.Errorf("%s: %.40q, want %.40q", name, got[name], body)
			}
		}
	}
}

// TestGlobalHeader: what it says is true of every file, and stays so when there is
// no global header any more.
func TestGlobalHeader(t *testing.T) {
	for name, opts := range formats() {
		blob, res := build(t, opts, bytes.NewReader(goldenTar(t, "global")))
		if got := served(t, blob, res)["last"].Xattrs["user.all"]; got != "yes" {
			t.Errorf("%s: attribute %q", name, got)
		}
		if opts.KeepDiffID {
			continue
		}
		_, files := tarContents(t, bytes.NewReader(unpack(t, blob)))
		if got := files["last"].Xattrs["user.all"]; got != "yes" {
			t.Errorf("%s: attribute %q in the tar", name, got)
		}
	}
}

// TestTarsRefused: what has no place in a layer is named.
func TestTarsRefused(t *testing.T) {
	huge := goldenTar(t, "sparse-gnu")
	at := bytes.Index(huge, []byte("./holes\x00"))
	copy(huge[at+483:], "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff") // its size when written out
	fixChecksum(huge[at:])
	tests := []struct {
		name, entry string
		src         []byte
		kind        fserr.Kind
	}{
		{"volume label", "label", goldenTar(t, "volume"), fserr.Unsupported},
		{"incremental", "etc/", goldenTar(t, "incremental"), fserr.Unsupported},
		{"huge sparse", "holes", huge, fserr.TooLarge},
		{"not UTF-8", `caf\xe9`, tarOf(t, file{tar.Header{Name: "caf\xe9", Format: tar.FormatGNU}, ""}), fserr.Unsupported},
		{"link to nothing", `"a"`, tarOf(t, hardlink("a", "b")), fserr.Unsupported},
		{"cut", "name", tarOf(t, reg("name", "0123"))[:514], fserr.Corrupt},
	}
	for _, tt := range tests {
		for name, opts := range formats() {
			_, _, err := tryBuild(opts, bytes.NewReader(tt.src))
			kind := fserr.KindOf(err)
			if kind != tt.kind && (!opts.KeepDiffID || kind != fserr.Unsupported) || !strings.Contains(fmt.Sprint(err), tt.entry) {
				t.Errorf("%s, %s: %v: kind %v, want %v of %s", tt.name, name, err, kind, tt.kind, tt.entry)
			}
		}
	}
}
