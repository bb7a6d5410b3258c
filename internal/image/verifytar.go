package image

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/layertar"
	digest "github.com/opencontainers/go-digest"
)

// maxPending bounds the entries of a tar and of its TOC that are remembered
// because the other one has not come to them yet.
const maxPending = 100_000

// readTar computes the DiffID, and compares the entries of the tar with the TOC.
func (v *verification) readTar(blob io.Reader, diffID digest.Digest) error {
	got, size, err := v.walkTar(blob)
	v.verdict.Bytes = size
	if err != nil {
		v.problem("tar: %v", err)
		return nil
	}
	v.verdict.DiffID = got.String()
	if got != diffID {
		v.problem("diff ID: the tar has %s, the image's config says %s", got, diffID)
	}
	return nil
}

// walkTar reads all there is in the blob.
func (v *verification) walkTar(blob io.Reader) (digest.Digest, int64, error) {
	stream, err := layertar.Open(blob)
	if err != nil {
		return "", 0, err
	}
	defer stream.Close()
	hash := digest.SHA256.Digester()
	counted := &sizeReader{r: io.TeeReader(stream, hash.Hash())}
	if err := v.compareTar(counted); err != nil {
		return "", counted.n, err
	}
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return "", counted.n, err
	}
	return hash.Digest(), counted.n, stream.Drain()
}

type sizeReader struct {
	r io.Reader
	n int64
}

func (s *sizeReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	return n, err
}

// comparison is a tar held against a TOC. Both are read in their own order, which
// usually is the same: only what is out of step is remembered.
type comparison struct {
	v     *verification
	next  func() (*estargz.Entry, bool) // of the TOC; nil when nothing is compared
	inTar map[string]*estargz.Entry     // not yet seen in the TOC
	inTOC map[string]*estargz.Entry     // not yet seen in the tar
}

func (v *verification) compareTar(r io.Reader) error {
	c := &comparison{v: v, inTar: map[string]*estargz.Entry{}, inTOC: map[string]*estargz.Entry{}}
	if v.toc != nil {
		next, stop := iter.Pull(v.toc.files())
		defer stop()
		c.next = next
	}
	tr := estargz.NewTarReader(r)
	buf := make([]byte, 256<<10)
	for {
		e, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		v.verdict.Entries++
		if e.Type == estargz.TypeReg && c.next != nil {
			hash := sha256.New()
			if _, err := io.CopyBuffer(struct{ io.Writer }{hash}, struct{ io.Reader }{tr}, buf); err != nil {
				return fmt.Errorf("%.256q: %w", e.Name, layertar.Wrap("read", err))
			}
			e.Digest, e.HasDigest = estargz.Digest(hash.Sum(nil)), true
		}
		if err := c.step(e); err != nil {
			return err
		}
	}
	c.finish()
	return nil
}

// files are the entries of the TOC that a tar has too: copies, without further
// chunks, landmarks, and the TOC itself.
func (t *tableOfContents) files() iter.Seq[*estargz.Entry] {
	return func(yield func(*estargz.Entry) bool) {
		errStop := errors.New("enough")
		_ = t.each(func(e *estargz.Entry) error { // it was read to its end before
			switch {
			case e.Type == estargz.TypeChunk, e.Name == estargz.PrefetchLandmark, e.Name == estargz.NoPrefetchLandmark, e.Name == estargz.TOCName:
				return nil
			}
			file := *e
			if !yield(&file) {
				return errStop
			}
			return nil
		})
	}
}

// step takes one entry of the tar and, if there is one, of the TOC.
func (c *comparison) step(t *estargz.Entry) error {
	if c.next == nil {
		return nil
	}
	o, ok := c.next()
	name := entryName(t)
	if ok && entryName(o) == name {
		c.same(t, o)
		return nil
	}
	if old := c.inTOC[name]; old != nil {
		delete(c.inTOC, name)
		c.same(t, old)
	} else {
		c.inTar[name] = t
	}
	if ok {
		name := entryName(o)
		if old := c.inTar[name]; old != nil {
			delete(c.inTar, name)
			c.same(old, o)
		} else {
			c.inTOC[name] = o
		}
	}
	if len(c.inTar)+len(c.inTOC) > maxPending {
		return fserr.Newf(fserr.Unsupported, "compare", "", "the TOC has another order than the tar: more than %d entries are out of step", maxPending)
	}
	return nil
}

// finish reports what only one side has.
func (c *comparison) finish() {
	if c.next == nil {
		return
	}
	for {
		o, ok := c.next()
		if !ok {
			break
		}
		name := entryName(o)
		if old := c.inTar[name]; old != nil {
			delete(c.inTar, name)
			c.same(old, o)
			continue
		}
		c.v.problem("%s: in the TOC, but not in the tar", o.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.inTar)) {
		c.v.problem("%s: in the tar, but not in the TOC", c.inTar[name].Name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.inTOC)) {
		c.v.problem("%s: in the TOC, but not in the tar", c.inTOC[name].Name)
	}
}

func entryName(e *estargz.Entry) string { return path.Clean("/" + e.Name) }

// same compares what tar and TOC say of one file.
func (c *comparison) same(tar, toc *estargz.Entry) {
	// Of an entry that a later one replaces the TOC has none.
	delete(c.inTar, entryName(tar))
	var diff []string
	differ := func(what string, tar, toc any) {
		if tar != toc {
			diff = append(diff, fmt.Sprintf("%s is %v in the tar and %v in the TOC", what, tar, toc))
		}
	}
	differ("type", tar.Type, toc.Type)
	if tar.Type == toc.Type {
		if tar.Type == estargz.TypeHardlink {
			differ("target", path.Clean("/"+tar.LinkName), path.Clean("/"+toc.LinkName))
		} else {
			differ("mode", fmt.Sprintf("%04o", tar.Mode), fmt.Sprintf("%04o", toc.Mode))
			differ("uid", tar.UID, toc.UID)
			differ("gid", tar.GID, toc.GID)
			differ("target", tar.LinkName, toc.LinkName)
			diff = append(diff, differentContent(tar, toc)...)
			diff = append(diff, differentAttributes(tar, toc)...)
		}
	}
	if len(diff) > 0 {
		c.v.problem("%s: %s", toc.Name, strings.Join(diff, ", "))
	}
}

func differentContent(tar, toc *estargz.Entry) []string {
	switch tar.Type {
	case estargz.TypeReg:
		if tar.Size != toc.Size {
			return []string{fmt.Sprintf("size is %d in the tar and %d in the TOC", tar.Size, toc.Size)}
		}
		if toc.HasDigest && tar.Digest != toc.Digest {
			return []string{fmt.Sprintf("content has digest %s in the tar and %s in the TOC", tar.Digest, toc.Digest)}
		}
	case estargz.TypeChar, estargz.TypeBlock:
		if tar.DevMajor != toc.DevMajor || tar.DevMinor != toc.DevMinor {
			return []string{fmt.Sprintf("device is %d:%d in the tar and %d:%d in the TOC", tar.DevMajor, tar.DevMinor, toc.DevMajor, toc.DevMinor)}
		}
	}
	return nil
}

func differentAttributes(tar, toc *estargz.Entry) (diff []string) {
	if !maps.EqualFunc(tar.Xattrs, toc.Xattrs, bytes.Equal) {
		diff = append(diff, "extended attributes differ")
	}
	if !sameTime(tar.ModTime, toc.ModTime) {
		diff = append(diff, fmt.Sprintf("time is %s in the tar and %s in the TOC", tar.ModTime.UTC().Format(time.RFC3339Nano), toc.ModTime.UTC().Format(time.RFC3339Nano)))
	}
	return diff
}

// sameTime allows for TOCs that have whole seconds only, and none for the time
// that is no time.
func sameTime(tar, toc time.Time) bool {
	if toc.IsZero() {
		return tar.IsZero() || tar.Round(time.Second).Unix() == 0
	}
	return toc.Equal(tar) || toc.Equal(tar.Round(time.Second)) || toc.Equal(tar.Truncate(time.Second))
}
