package conformance_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/metadata"
	"github.com/containerd/stargz-snapshotter/metadata/memory"

	"github.com/nineply/nineply/e2e/conformance/ours"
	"github.com/nineply/nineply/estargz"
)

// dataSize is how much room for members there is in front of a fuzzed TOC. The
// members themselves do not exist: only tables are compared.
const dataSize = 64 << 10

// FuzzAgainstReference gives tables of contents to our parser and index, and
// what they let pass to upstream's reader. That has to let it pass as well, and
// the trees have to be the same, chunks and their digests included.
//
// Upstream sees nothing that we refuse: it would crash or eat all memory.
func FuzzAgainstReference(f *testing.F) {
	seeds, err := filepath.Glob("testdata/tocs/*.json")
	if err != nil || len(seeds) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range seeds {
		text, err := os.ReadFile(name)
		must(f, err)
		f.Add(text, false)
		f.Add(text, true)
	}
	f.Fuzz(func(t *testing.T, toc []byte, zstd bool) {
		o := estargz.WriterOptions{Level: 1}
		if zstd {
			o.Format = estargz.FormatZstdChunked
		}
		blob := bytes.NewBuffer(make([]byte, dataSize))
		_, err := estargz.WriteTOC(blob, io.Discard, dataSize, toc, o)
		must(t, err)
		sr := io.NewSectionReader(bytes.NewReader(blob.Bytes()), 0, int64(blob.Len()))
		mine, err := ours.Open(sr)
		if err != nil {
			return // refused
		}
		why, implied := deviation(toc)
		if why != "" {
			t.Skip(why)
		}
		theirs, err := openTheirs(sr)
		if err != nil {
			t.Fatalf("upstream refuses what we open: %v\n%s", err, toc)
		}
		if mine.TOCDigest() != theirs.TOCDigest() {
			t.Errorf("TOC digests %s and %s", mine.TOCDigest(), theirs.TOCDigest())
		}
		c := comparison{t, mine, theirs, implied}
		c.dirs(mine.RootID(), theirs.RootID(), "")
		if t.Failed() {
			t.Logf("%s", toc)
		}
	})
}

// openTheirs turns upstream's panics into errors.
func openTheirs(sr *io.SectionReader) (r metadata.Reader, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return memory.NewReader(sr, metadata.WithDecompressors(decompressors(nil)...))
}

// deviation says why the trees of a table may differ, "" if they must not: where
// upstream is known not to do what an extractor does, or to read JSON loosely.
// implied is set if there are directories without an entry.
func deviation(text []byte) (why string, implied bool) {
	if why := looseJSON(text); why != "" {
		return why, false
	}
	var toc struct {
		Entries []struct{ Name, Type, LinkName string }
	}
	if err := json.Unmarshal(text, &toc); err != nil {
		return "JSON that upstream's decoder does not take: " + err.Error(), false
	}
	types := map[string]string{}
	for _, e := range toc.Entries {
		name := path.Clean("/" + e.Name)
		switch {
		case e.Type == "chunk":
			continue
		case types[name] != "":
			return "a name twice: upstream keeps what was below a name when it is replaced", false
		case strings.HasPrefix(path.Base(name), estargz.WhiteoutPrefix):
			return "whiteouts: we do not show them", false
		case ownFile(strings.TrimPrefix(name, "/")):
			return "landmarks: we do not show them", false
		}
		types[name] = e.Type
	}
	for name := range types {
		for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
			implied = implied || types[dir] == ""
			if types[dir] != "" && types[dir] != "dir" {
				return "a parent that is no directory: we follow or replace it", false
			}
		}
	}
	return "", implied
}

// comparison is that of two readers of one blob.
type comparison struct {
	*testing.T
	mine    *ours.Reader
	theirs  metadata.Reader
	implied bool // there are directories without an entry
}

// dirs compares two directories and all below.
func (c *comparison) dirs(a, b uint32, name string) {
	c.Helper()
	c.nodes(a, b, name)
	names := map[string]uint32{}
	must(c, c.theirs.ForeachChild(b, func(child string, id uint32, _ os.FileMode) bool {
		names[child] = id
		return true
	}))
	must(c, c.mine.ForeachChild(a, func(child string, id uint32, _ os.FileMode) bool {
		other, ok := names[child]
		if !ok {
			c.Errorf("only we have %q", path.Join(name, child))
			return true
		}
		delete(names, child)
		c.dirs(id, other, path.Join(name, child))
		return true
	}))
	for child := range names {
		c.Errorf("only upstream has %q", path.Join(name, child))
	}
}

// nodes compares what two nodes are.
func (c *comparison) nodes(a, b uint32, name string) {
	c.Helper()
	x, err := c.mine.GetAttr(a)
	must(c, err)
	y, err := c.theirs.GetAttr(b)
	must(c, err)
	if (c.implied || name == "") && x.Mode.IsDir() && y.Mode.IsDir() {
		y.NumLink = x.NumLink // upstream does not count directories without an entry, nor the root's own
	}
	if x, y := shown(x), shown(y); x != y {
		c.Errorf("%q differs:\n%s\n%s", name, x, y)
		return
	}
	if !x.Mode.IsRegular() {
		return
	}
	f, err := c.mine.OpenFile(a)
	must(c, err)
	g, err := c.theirs.OpenFile(b)
	if err != nil {
		c.Errorf("%q: %v", name, err)
		return
	}
	for off := int64(0); off < x.Size; {
		o1, s1, d1, ok1 := f.ChunkEntryForOffset(off)
		o2, s2, d2, ok2 := g.ChunkEntryForOffset(off)
		d2 = strings.ToLower(d2) // upstream keeps the text
		if o1 != o2 || s1 != s2 || d1 != d2 || ok1 != ok2 {
			c.Errorf("%q at %d: chunk %d+%d %s %v, upstream has %d+%d %s %v", name, off, o1, s1, d1, ok1, o2, s2, d2, ok2)
			return
		}
		off = o1 + s1
	}
}

// shown is what counts of a node's attributes: upstream also keeps what makes no
// sense for its type.
func shown(a metadata.Attr) string {
	if !a.Mode.IsRegular() {
		a.Size = 0
	}
	if a.Mode&os.ModeSymlink == 0 {
		a.LinkName = ""
	}
	if a.Mode&os.ModeDevice == 0 {
		a.DevMajor, a.DevMinor = 0, 0
	}
	var mtime int64
	if !a.ModTime.IsZero() {
		mtime = a.ModTime.Unix()
	}
	return fmt.Sprintf("%v %d:%d size %d, time %d.%d, %q, device %d:%d, %d links, %q",
		a.Mode, a.UID, a.GID, a.Size, mtime, a.ModTime.Nanosecond(), a.LinkName, a.DevMajor, a.DevMinor, a.NumLink, a.Xattrs)
}

// known are the keys that upstream's decoder finds whatever their case.
var known = []string{
	"version", "entries", "name", "type", "size", "modtime", "linkName", "mode", "uid", "gid", "userName", "groupName",
	"offset", "innerOffset", "devMajor", "devMinor", "xattrs", "digest", "chunkOffset", "chunkSize", "chunkDigest",
}

// looseJSON says what upstream's JSON decoder takes that ours takes otherwise.
func looseJSON(text []byte) string {
	d := json.NewDecoder(bytes.NewReader(text))
	var keys []map[string]bool // of the open objects; nil for a list
	atKey := false
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return ""
		}
		if err != nil {
			return "JSON that upstream's decoder does not take: " + err.Error()
		}
		if bytes.ContainsRune(fmt.Append(nil, token), '\uFFFD') {
			return "text that is no UTF-8: upstream replaces it"
		}
		switch token {
		case json.Delim('{'):
			keys, atKey = append(keys, map[string]bool{}), true
			continue
		case json.Delim('['):
			keys, atKey = append(keys, nil), false
			continue
		case json.Delim('}'), json.Delim(']'):
			keys = keys[:len(keys)-1]
			atKey = len(keys) > 0 && keys[len(keys)-1] != nil
			continue
		}
		if !atKey {
			atKey = len(keys) > 0 && keys[len(keys)-1] != nil
			continue
		}
		key, top := token.(string), keys[len(keys)-1]
		for _, k := range known {
			if strings.EqualFold(key, k) && key != k {
				return "a key in another case: upstream takes it for the known one"
			}
		}
		if key == "chunkType" {
			return "runs of zeros: upstream does not know them"
		}
		if top[key] {
			return "a key twice in an object: upstream merges"
		}
		top[key], atKey = true, false
	}
}
