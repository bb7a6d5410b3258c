package conformance_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	upstream "github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/externaltoc"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/containerd/stargz-snapshotter/metadata"
	"github.com/containerd/stargz-snapshotter/metadata/memory"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/e2e/conformance/ours"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/demoimage/treesum"
)

// decompressors are upstream's, as its snapshotter registers them.
func decompressors(externalTOC []byte) []metadata.Decompressor {
	return []metadata.Decompressor{
		&zstdchunked.Decompressor{},
		externaltoc.NewGzipDecompressor(func() ([]byte, error) { return externalTOC, nil }),
	}
}

// TestUpstreamReadsOurs: upstream's library opens what we write, in every mode,
// verifies it, and shows the tree that the tar had.
func TestUpstreamReadsOurs(t *testing.T) {
	eachBlob(t, func(estargz.WriterOptions) bool { return true }, func(t *testing.T, text []byte, b *blob) {
		want := treeOfTar(t, bytes.NewReader(text))
		r, err := memory.NewReader(b.section(), metadata.WithDecompressors(decompressors(b.ExternalTOC)...))
		must(t, err)
		if got := r.TOCDigest().String(); got != b.TOCDigest.String() {
			t.Errorf("it has the TOC %s, we wrote %s", got, b.TOCDigest)
		}
		same(t, want, treeOf(t, r))
		verify(t, b)
		mine, err := ours.Open(b.section(), metadata.WithDecompressors(decompressors(b.ExternalTOC)...))
		must(t, err)
		same(t, slices.DeleteFunc(want, isWhiteout), treeOf(t, mine))
	})
}

// isWhiteout: our index keeps whiteouts for merging and does not show them.
func isWhiteout(n treesum.Node) bool {
	return strings.HasPrefix(path.Base(n.Path), estargz.WhiteoutPrefix)
}

// verify has upstream check every chunk against the TOC digest.
func verify(t *testing.T, b *blob) {
	t.Helper()
	var known []upstream.Decompressor
	for _, d := range decompressors(b.ExternalTOC) {
		known = append(known, d)
	}
	r, err := upstream.Open(b.section(), upstream.WithDecompressors(known...))
	must(t, err)
	// Members shared by files have one offset for several chunks, which upstream's
	// helper calls an error, so the digests are checked here.
	if got := r.TOCDigest().String(); got != b.TOCDigest.String() {
		t.Errorf("it has the TOC %s, we wrote %s", got, b.TOCDigest)
	}
	root, ok := r.Lookup("")
	if !ok {
		t.Fatal("no root")
	}
	verifyBelow(t, r, root)
}

func verifyBelow(t *testing.T, r *upstream.Reader, dir *upstream.TOCEntry) {
	t.Helper()
	dir.ForeachChild(func(_ string, e *upstream.TOCEntry) bool {
		if e.Type == "dir" {
			verifyBelow(t, r, e)
			return true
		}
		for off := int64(0); off < e.Size; {
			c, ok := r.ChunkEntryForOffset(e.Name, off)
			if !ok {
				t.Errorf("%s has no chunk at %d", e.Name, off)
				return false
			}
			f, err := r.OpenFile(e.Name)
			must(t, err)
			p := make([]byte, c.ChunkSize)
			_, err = f.ReadAt(p, c.ChunkOffset)
			must(t, err)
			if got := digest.FromBytes(p).String(); got != c.ChunkDigest {
				t.Errorf("%s at %d is %s, not %s", e.Name, off, got, c.ChunkDigest)
			}
			off = c.ChunkOffset + c.ChunkSize
		}
		return true
	})
}

// treeOf lists what a metadata reader shows, contents and all.
func treeOf(t testing.TB, r metadata.Reader) []treesum.Node {
	t.Helper()
	tree := map[string]*treesum.Node{}
	var walk func(name string, id uint32)
	walk = func(name string, id uint32) {
		tree[name] = nodeOfReader(t, r, id)
		must(t, r.ForeachChild(id, func(child string, id uint32, _ os.FileMode) bool {
			if !ownFile(path.Join(name, child)) {
				walk(path.Join(name, child), id)
			}
			return true
		}))
	}
	walk(".", r.RootID())
	return flatten(tree)
}

func nodeOfReader(t testing.TB, r metadata.Reader, id uint32) *treesum.Node {
	t.Helper()
	a, err := r.GetAttr(id)
	must(t, err)
	n := &treesum.Node{
		Mode: uint32(a.Mode.Perm()) | kindOf(a.Mode), UID: uint32(a.UID), GID: uint32(a.GID), NLink: uint64(a.NumLink),
		Sec: a.ModTime.Unix(), Target: a.LinkName, Major: uint32(a.DevMajor), Minor: uint32(a.DevMinor),
	}
	if a.ModTime.IsZero() {
		n.Sec = 0
	}
	for bit, is := range map[uint32]os.FileMode{unix.S_ISUID: os.ModeSetuid, unix.S_ISGID: os.ModeSetgid, unix.S_ISVTX: os.ModeSticky} {
		if a.Mode&is != 0 {
			n.Mode |= bit
		}
	}
	for name, value := range a.Xattrs {
		if n.Xattrs == nil {
			n.Xattrs = map[string]string{}
		}
		n.Xattrs[name] = string(value)
	}
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		n.Size = int64(len(a.LinkName))
	case unix.S_IFREG:
		n.Size = a.Size
		f, err := r.OpenFile(id)
		must(t, err)
		sum := sha256.New()
		_, err = io.Copy(sum, io.NewSectionReader(f, 0, a.Size))
		must(t, err)
		n.Sum = hex.EncodeToString(sum.Sum(nil))
	}
	return n
}

func kindOf(m os.FileMode) uint32 {
	switch {
	case m.IsDir():
		return unix.S_IFDIR
	case m&os.ModeSymlink != 0:
		return unix.S_IFLNK
	case m&os.ModeNamedPipe != 0:
		return unix.S_IFIFO
	case m&os.ModeCharDevice != 0:
		return unix.S_IFCHR
	case m&os.ModeDevice != 0:
		return unix.S_IFBLK
	}
	return unix.S_IFREG
}
