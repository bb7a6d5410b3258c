package layerindex_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
)

func TestBuildNames(t *testing.T) {
	tests := []struct {
		name  string
		layer *toc
		want  string
	}{
		{"empty", words(), ""},
		{"sorted by bytes", words("f b", "f a", "f B", "f a-", "f aa", "f é"), "B a a- aa b é"},
		{"implied parents", words("f a/b/c"), "a/ a/b/ a/b/c"},
		{"spellings of a name", words("d ./a", "f /a//b", "f a/./c/", "d a/"), "a/ a/b a/c"},
		{"climbing stops at the root", words("f ../../x", "f a/../../y", "d .."), "x y"},
		{"parent of a removed component is not made", words("f a/../b"), "b"},
		{"last duplicate wins", words("f a", "l a -> b"), "a"},
		{"directory on directory keeps children", words("f a/b", "d a"), "a/ a/b"},
		{"file on directory drops children", words("f a/b/c", "f a"), "a"},
		{"children dropped stay dropped", words("f a/b", "f a", "d a"), "a/"},
		{"parent that is a file becomes a directory", words("f a", "f a/b"), "a/ a/b"},
		{"parent that is a symlink is followed", words("l lib -> usr/lib", "f lib/x"), "lib usr/ usr/lib/ usr/lib/x"},
		{"absolute symlink", words("d d", "l d/l -> /t", "f d/l/x"), "d/ d/l t/ t/x"},
		{"symlink that climbs", words("d d/e", "l d/e/l -> ../../t/../u", "f d/e/l/x"), "d/ d/e/ d/e/l t/ u/ u/x"},
		{"symlink out of the root", words("l l -> ../../..", "f l/x"), "l x"},
		{"last component is not followed", words("l l -> t", "f l"), "l"},
		{"symlink replaced by directory", words("l l -> t", "d l", "f l/x"), "l/ l/x"},
		{"format's own names in the root", words("f stargz.index.json", "f .prefetch.landmark", "f .no.prefetch.landmark"), ""},
		{"format's own names elsewhere", words("f d/stargz.index.json", "f d/.prefetch.landmark"), "d/ d/.prefetch.landmark d/stargz.index.json"},
		{"whiteouts are not names", words("e .wh.a", "f d/b", "e d/.wh..wh..opq", "e d/.wh.b", "e d/.wh.", "e d/.wh..wh.plnk", "e d/.wh..."), "d/ d/b"},
		{"directory in the place of a whiteout", words("f .wh.a/b"), ""},
		{"not UTF-8", words("f \xff\xfe/\x01"), "\xff\xfe/ \xff\xfe/\x01"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := build(t, 0, tt.layer)
			if got := names(t, x); got != tt.want {
				t.Errorf("layer shows %q, want %q", got, tt.want)
			}
			if got := names(t, merge(t, x)); got != tt.want {
				t.Errorf("merged view shows %q, want %q", got, tt.want)
			}
		})
	}
}

func TestBuildAttributes(t *testing.T) {
	l := &toc{}
	l.add(estargz.Entry{Name: "./", Type: estargz.TypeDir, Mode: 0o100711, UID: 7, ModTime: day(9)})
	l.add(estargz.Entry{Name: "bin/su", Type: estargz.TypeReg, Mode: 0o104755, UID: 1, GID: 2, Size: 3, ModTime: day(1),
		Offset: 5, HasChunkDigest: true, Xattrs: map[string][]byte{"security.capability": {1, 0, 2}, "user.empty": nil}})
	l.add(estargz.Entry{Name: "tmp", Type: estargz.TypeDir, Mode: 0o1777, ModTime: time.Unix(-5, 7)})
	l.add(estargz.Entry{Name: "dev/null", Type: estargz.TypeChar, Mode: 0o666, DevMajor: 1, DevMinor: 3})
	l.add(estargz.Entry{Name: "dev/sda", Type: estargz.TypeBlock, Mode: 0o660, DevMajor: 0x12345, DevMinor: 0x6789a})
	l.add(estargz.Entry{Name: "dev/pipe", Type: estargz.TypeFifo, Mode: 0o600})
	l.add(estargz.Entry{Name: "dev/zero-zero", Type: estargz.TypeChar})
	l.symlink("l", "/bin/../bin/su")
	x := build(t, 0, l)

	want := map[string]layerindex.Attr{
		"":              {Mode: 0o040711, UID: 7, NLink: 5, Size: layerindex.DirSize, Mtime: day(9).Unix()},
		"bin":           {Mode: 0o040755, NLink: 2, Size: layerindex.DirSize},
		"bin/su":        {Mode: 0o104755, UID: 1, GID: 2, NLink: 1, Size: 3, Mtime: day(1).Unix()},
		"tmp":           {Mode: 0o041777, NLink: 2, Size: layerindex.DirSize, Mtime: -5, MtimeNsec: 7},
		"dev/null":      {Mode: 0o020666, NLink: 1, Rdev: 0x103},
		"dev/sda":       {Mode: 0o060660, NLink: 1, Rdev: 0x120006783459a},
		"dev/pipe":      {Mode: 0o010600, NLink: 1},
		"dev/zero-zero": {Mode: 0o020000, NLink: 1},
		"l":             {Mode: 0o120777, NLink: 1, Size: 14},
	}
	m := merge(t, x)
	for path, w := range want {
		for kind, y := range map[string]*layerindex.Index{"layer": x, "merged": m} {
			w.Ino = resolve(t, y, path)
			if diff := cmp.Diff(w, attr(t, y, path)); diff != "" {
				t.Errorf("%s of %s (-want +got):\n%s", path, kind, diff)
			}
		}
	}
	su := resolve(t, m, "bin/su")
	for name, value := range map[string]string{"security.capability": "\x01\x00\x02", "user.empty": ""} {
		if got, err := m.Xattr(su, []byte(name)); err != nil || string(got) != value || got == nil {
			t.Errorf("xattr %s = %q, %v", name, got, err)
		}
	}
}

func TestHardLinks(t *testing.T) {
	tests := []struct {
		name  string
		layer *toc
		want  string // groups of names that are one node, with the link count
	}{
		{"backwards", words("f a", "h b -> a"), "a b 2"},
		{"forwards", words("h b -> a", "f a"), "a b 2"},
		{"chain in any order", words("h d -> c", "h c -> b", "h b -> a", "f a", "h e -> d"), "a b c d e 5"},
		{"spelling of the target", words("f d/a", "h b -> /d/../d//a"), "b d/a 2"},
		{"through a symlinked directory", words("f usr/a", "l lib -> usr", "h b -> lib/a"), "b usr/a 2; lib 1"},
		{"forwards through a symlinked directory", words("h b -> lib/a", "f usr/a", "l lib -> usr"), "b usr/a 2; lib 1"},
		{"of a symlink", words("l a -> x", "h b -> a"), "a b 2"},
		{"of a device", words("c a", "h b -> a"), "a b 2"},
		{"to itself when it exists", words("f a", "h a -> a"), "a 1"},
		{"keeps what the target was", words("f a", "h b -> a", "f a", "h c -> a"), "a c 2; b 1"},
		{"target removed with its directory", words("f d/a", "h b -> d/a", "f d"), "b 1; d 1"},
		{"replaced", words("f a", "h b -> a", "f b"), "a 1; b 1"},
		{"of a landmark", words("f .prefetch.landmark", "h b -> .prefetch.landmark"), "b 1"},
		{"of a whiteout", words("e .wh.x", "h b -> .wh.x"), "b 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := build(t, 0, tt.layer)
			for kind, y := range map[string]*layerindex.Index{"layer": x, "merged": merge(t, x)} {
				if got := linkGroups(t, y); got != tt.want {
					t.Errorf("%s has %q, want %q", kind, got, tt.want)
				}
			}
		})
	}
}

// linkGroups lists the files by node: "a b 2; c 1".
func linkGroups(t *testing.T, x *layerindex.Index) string {
	t.Helper()
	byIno := map[layerindex.Ino][]string{}
	for path := range strings.FieldsSeq(names(t, x)) {
		if n := resolve(t, x, path); !strings.HasSuffix(path, "/") {
			byIno[n] = append(byIno[n], path)
		}
	}
	var groups []string
	for path := range strings.FieldsSeq(names(t, x)) {
		if g := byIno[resolve(t, x, path)]; len(g) > 0 && g[0] == path {
			groups = append(groups, fmt.Sprint(strings.Join(g, " "), " ", attr(t, x, path).NLink))
		}
	}
	return strings.Join(groups, "; ")
}

func TestBuildRefuses(t *testing.T) {
	deep := strings.Repeat("d/", 1001)
	tests := []struct {
		name   string
		layer  *toc
		reason error
		kind   fserr.Kind
	}{
		{"link to itself", words("h a -> a"), layerindex.ErrLinkCycle, fserr.Invalid},
		{"link cycle", words("h a -> b", "h b -> c", "h c -> a"), layerindex.ErrLinkCycle, fserr.Invalid},
		{"link to a cycle", words("h z -> a", "h a -> b", "h b -> a"), layerindex.ErrLinkCycle, fserr.Invalid},
		{"link to nothing", words("f a", "h b -> c"), layerindex.ErrLinkTarget, fserr.Invalid},
		{"link below a file", words("f a", "h b -> a/c"), layerindex.ErrLinkTarget, fserr.Invalid},
		{"link to directory", words("d d", "h d/l -> d"), layerindex.ErrLinkDir, fserr.Invalid},
		{"link to later directory", words("h l -> d", "f d/x"), layerindex.ErrLinkDir, fserr.Invalid},
		{"link to root", words("h l -> /"), layerindex.ErrLinkDir, fserr.Invalid},
		{"root is a file", words("f ./"), layerindex.ErrEntry, fserr.Invalid},
		{"unknown type", (&toc{}).add(estargz.Entry{Name: "a", Type: 77}), layerindex.ErrEntry, fserr.Invalid},
		{"negative size", words().reg("a", -1), layerindex.ErrEntry, fserr.Invalid},
		{"zero byte", words("f a\x00b"), layerindex.ErrName, fserr.Invalid},
		{"empty symlink", words("l a -> "), layerindex.ErrName, fserr.Invalid},
		{"zero byte in symlink", words("l a -> \x00"), layerindex.ErrName, fserr.Invalid},
		{"symlink loop", words("l a -> b", "l b -> a", "f a/x"), layerindex.ErrSymlinkLoop, fserr.Invalid},
		{"symlink to itself", words("l a -> a/a", "f a/x"), layerindex.ErrSymlinkLoop, fserr.Invalid},
		{"long component", words("f " + strings.Repeat("x", 256)), layerindex.ErrLimit, fserr.TooLarge},
		{"long component in symlink", words("l a -> "+strings.Repeat("x", 256), "f a/b"), layerindex.ErrLimit, fserr.TooLarge},
		{"long name", words("f " + strings.Repeat("abc/", 1025)), layerindex.ErrLimit, fserr.TooLarge},
		{"long symlink", words("l a -> " + strings.Repeat("x", 4096)), layerindex.ErrLimit, fserr.TooLarge},
		{"deep", words("f " + deep + "x"), layerindex.ErrLimit, fserr.TooLarge},
		{"deep directory", words("d " + deep), layerindex.ErrLimit, fserr.TooLarge},
		{"long attribute name", xattrs(strings.Repeat("n", 256), ""), layerindex.ErrLimit, fserr.TooLarge},
		{"long attribute", xattrs("n", strings.Repeat("v", 65537)), layerindex.ErrLimit, fserr.TooLarge},
		{"attribute without name", xattrs("", "v"), layerindex.ErrName, fserr.Invalid},
		{"attribute with zero byte", xattrs("a\x00", "v"), layerindex.ErrName, fserr.Invalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := buildErr(t, layerOf(0), tt.layer.entries)
			if !errors.Is(err, tt.reason) || fserr.KindOf(err) != tt.kind {
				t.Errorf("got %v (%v), want %v (%v)", err, fserr.KindOf(err), tt.reason, tt.kind)
			}
			if err != nil && len(err.Error()) > 500 {
				t.Errorf("error has %d bytes", len(err.Error()))
			}
		})
	}
	long := words()
	for i := range 40 {
		long.symlink(fmt.Sprint("l", i), strings.Repeat("./", 2040)+fmt.Sprint("l", i+1))
	}
	for i := range 1000 {
		long.reg(fmt.Sprint("l0/", i), 0)
	}
	if _, err := buildErr(t, layerOf(0), long.entries); !errors.Is(err, layerindex.ErrLimit) {
		t.Errorf("many names through long links: got %v", err)
	}
	x := build(t, 0, words("f "+deep[2:]+"x"))
	if x.NumNodes() != 1002 {
		t.Errorf("deepest tree allowed has %d nodes", x.NumNodes())
	}
}

func xattrs(name, value string) *toc {
	return (&toc{}).add(estargz.Entry{Name: "a", Type: estargz.TypeDir, Xattrs: map[string][]byte{name: []byte(value)}})
}

func TestManyXattrsRefused(t *testing.T) {
	e := &estargz.Entry{Name: "a", Type: estargz.TypeFifo, Xattrs: map[string][]byte{}}
	for i := range 300 {
		e.Xattrs[fmt.Sprintf("%0250d", i)] = nil
	}
	if _, err := buildErr(t, layerOf(0), []*estargz.Entry{e}); !errors.Is(err, layerindex.ErrLimit) {
		t.Errorf("got %v", err)
	}
}

func TestLimits(t *testing.T) {
	tests := []struct {
		name  string
		lim   layerindex.Limits
		layer *toc
		ok    bool
	}{
		{"entries", layerindex.Limits{Entries: 2}, words("f a", "f b", "f c"), false},
		{"implied directories", layerindex.Limits{Entries: 4}, words("f a/b/c/d"), false},
		{"implied directories fit", layerindex.Limits{Entries: 5}, words("f a/b/c/d"), true},
		{"chunks count", layerindex.Limits{Entries: 2}, words().chunked("a", 3, 1), false},
		{"component", layerindex.Limits{NameBytes: 3}, words("f abcd"), false},
		{"component is clamped", layerindex.Limits{NameBytes: 1000}, words("f " + strings.Repeat("x", 256)), false},
		{"path", layerindex.Limits{PathBytes: 3}, words("f a/bc"), false},
		{"depth", layerindex.Limits{Depth: 1}, words("f a/b/c"), false},
		{"depth fits", layerindex.Limits{Depth: 2}, words("f a/b/c"), true},
		{"chunk", layerindex.Limits{ChunkSize: 9}, words("f a"), false},
		{"inner", layerindex.Limits{Inner: 5}, (&toc{}).add(estargz.Entry{
			Name: "a", Type: estargz.TypeReg, Size: 1, Offset: 1, InnerOffset: 6, HasDigest: true}), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := layerindex.NewBuilder(layerOf(0), tt.lim)
			var err error
			for _, e := range tt.layer.entries {
				err = b.Add(e)
			}
			if tt.ok && err != nil || !tt.ok && !errors.Is(err, layerindex.ErrLimit) {
				t.Errorf("got %v", err)
			}
			if err != nil && !errors.Is(b.WriteFile(t.TempDir()+"/x"), layerindex.ErrLimit) {
				t.Error("WriteFile forgets the error")
			}
		})
	}
}

func TestNewBuilderRefusesLayer(t *testing.T) {
	for name, info := range map[string]layerindex.LayerInfo{
		"no format": {}, "unknown format": {Format: 9},
		"negative size": {Format: layerindex.FormatStream, BlobSize: -1},
		"negative end":  {Format: layerindex.FormatStream, DataEnd: -1},
	} {
		if _, err := buildErr(t, info, nil); fserr.KindOf(err) != fserr.Invalid {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
