package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
)

// maxDifferences is how many differences are told.
const maxDifferences = 3

// compare holds the index that the layer is served by against one made of the tar by
// the same rules, and gives the differences, "" for none.
func (p *pass) compare(ctx context.Context) (wrong string, err error) {
	base := strings.TrimSuffix(p.f.c.spoolPath(p.l.id), ".entries")
	paths := []string{base + ".made", base + ".made.tree", base + ".own.tree"}
	defer func() {
		for _, path := range paths {
			if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, fmt.Errorf("compare: %w", rerr))
			}
		}
	}()
	if err := p.makeIndex(paths[0]); err != nil {
		if kind := fserr.KindOf(err); kind == fserr.Invalid || kind == fserr.Corrupt {
			return "its tar makes no tree: " + err.Error(), nil
		}
		return "", err
	}
	made, err := layerindex.Open(paths[0])
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, made.Close()) }()
	c := &indexComparison{p: p, made: made, links: map[uint64]uint64{}, back: map[uint64]uint64{}}
	// As single lowers of an overlay, the trees show their whiteouts, too.
	var trees [2]*layerindex.Index
	for i, x := range []*layerindex.Index{made, p.index} {
		if err := layerindex.Overlay(paths[1+i], x); err != nil {
			return "", err
		}
		if trees[i], err = layerindex.Open(paths[1+i]); err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, trees[i].Close()) }()
	}
	c.tar, c.own = trees[0], trees[1]
	if err := c.run(ctx); err != nil {
		return "", err
	}
	return c.text(), nil
}

// makeIndex writes an index of the entries that were spooled.
func (p *pass) makeIndex(path string) error {
	b := layerindex.NewBuilder(layerindex.LayerInfo{Digest: p.l.id.blob, BlobSize: p.blob.size, Format: layerindex.FormatStream}, layerindex.DefaultLimits())
	var pos int64
	err := p.spool.each(func(s *spooled) error {
		e := s.entry()
		if len(s.Cuts) == 0 {
			return b.Add(e)
		}
		var off int64
		for i, c := range s.Cuts {
			if i > 0 {
				e = &estargz.Entry{Name: e.Name, Type: estargz.TypeChunk}
			}
			e.Offset, e.ChunkOffset, e.ChunkSize, e.Hole = pos, off, c.Size, c.Zeros
			e.ChunkDigest, e.HasChunkDigest = c.Digest, true
			if err := b.Add(e); err != nil {
				return err
			}
			pos, off = pos+c.Size, off+c.Size
		}
		return nil
	})
	if err != nil {
		return err
	}
	return b.WriteFile(path)
}

// indexComparison compares two trees of one layer: of its tar, and its own.
type indexComparison struct {
	p           *pass
	made        *layerindex.Index // that tar is the tree of
	tar, own    *layerindex.Index
	links, back map[uint64]uint64 // nodes with several names: of own to those of tar, and back
	wrong       []string
	more        int
}

func (c *indexComparison) differ(format string, args ...any) {
	if len(c.wrong) >= maxDifferences {
		c.more++
		return
	}
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

func (c *indexComparison) text() string {
	if len(c.wrong) == 0 {
		return ""
	}
	text := "its index does not describe its tar: " + strings.Join(c.wrong, "; ")
	if c.more > 0 {
		text += fmt.Sprintf("; and %d more", c.more)
	}
	return text
}

// place is a directory in both trees.
type place struct {
	path     string
	tar, own uint64
}

func (c *indexComparison) run(ctx context.Context) error {
	if err := c.node("/", layerindex.RootIno, layerindex.RootIno); err != nil {
		return err
	}
	for todo := []place{{"", layerindex.RootIno, layerindex.RootIno}}; len(todo) > 0; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		dir := todo[len(todo)-1]
		more, err := c.directory(dir)
		if err != nil {
			return err
		}
		todo = append(todo[:len(todo)-1], more...)
	}
	return nil
}

// names reads a directory, one name after the other.
type names struct {
	x   *layerindex.Index
	dir uint64
	pos uint64
	cur layerindex.Dirent
	ok  bool
}

func (n *names) next() (err error) {
	n.cur, n.pos, n.ok, err = n.x.Readdir(n.dir, n.pos)
	return err
}

// directory compares what is in a directory, and gives the directories in it.
func (c *indexComparison) directory(dir place) (dirs []place, err error) {
	tar, own := &names{x: c.tar, dir: dir.tar}, &names{x: c.own, dir: dir.own}
	if err := errors.Join(tar.next(), own.next()); err != nil {
		return nil, err
	}
	for tar.ok || own.ok {
		order := bytes.Compare(tar.cur.Name, own.cur.Name)
		switch {
		case !own.ok || tar.ok && order < 0:
			c.differ("%s/%s is in the tar, but not in the index", dir.path, tar.cur.Name)
			err = tar.next()
		case !tar.ok || order > 0:
			c.differ("%s/%s is in the index, but not in the tar", dir.path, own.cur.Name)
			err = own.next()
		default:
			path := dir.path + "/" + string(tar.cur.Name)
			if err := c.node(path, tar.cur.Ino, own.cur.Ino); err != nil {
				return nil, err
			}
			if isDir(tar.cur.Type) && isDir(own.cur.Type) {
				dirs = append(dirs, place{path, tar.cur.Ino, own.cur.Ino})
			}
			err = errors.Join(tar.next(), own.next())
		}
		if err != nil {
			return nil, err
		}
	}
	return dirs, nil
}

func isDir(typ uint8) bool { return uint32(typ)<<12 == layerindex.ModeDir }

// node compares what the two trees say of one name.
func (c *indexComparison) node(path string, tar, own uint64) error {
	a, aerr := c.tar.Attr(tar)
	b, berr := c.own.Attr(own)
	if err := errors.Join(aerr, berr); err != nil {
		return err
	}
	if a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || a.Rdev != b.Rdev {
		c.differ("%s has mode %o, owner %d:%d, device %d in the tar, and %o, %d:%d, %d in the index", path, a.Mode, a.UID, a.GID, a.Rdev, b.Mode, b.UID, b.GID, b.Rdev)
		return nil
	}
	kind := a.Mode & layerindex.ModeTypeMask
	if at, bt := timeOf(a), timeOf(b); !sameTime(at, bt) {
		c.differ("%s has time %s in the tar, and %s in the index", path, at.Format(time.RFC3339Nano), bt.Format(time.RFC3339Nano))
	}
	if kind != layerindex.ModeDir && (a.NLink > 1 || b.NLink > 1) {
		otherOwn, seenTar := c.back[tar]
		otherTar, seenOwn := c.links[own]
		if seenTar && otherOwn != own || seenOwn && otherTar != tar {
			c.differ("%s is a link to different files in tar and index", path)
			return nil
		}
		c.links[own], c.back[tar] = tar, own
		if seenTar && seenOwn {
			return nil
		}
	}
	if err := c.xattrs(path, tar, own); err != nil {
		return err
	}
	switch kind {
	case layerindex.ModeSymlink:
		at, aerr := c.tar.Readlink(tar)
		bt, berr := c.own.Readlink(own)
		if !bytes.Equal(at, bt) {
			c.differ("%s leads to %q in the tar, and to %q in the index", path, at, bt)
		}
		return errors.Join(aerr, berr)
	case layerindex.ModeReg:
		return c.content(path, tar, own)
	}
	return nil
}

func timeOf(a layerindex.Attr) time.Time { return time.Unix(a.Mtime, int64(a.MtimeNsec)).UTC() }

func (c *indexComparison) xattrs(path string, tar, own uint64) error {
	count, same := 0, true
	err := c.tar.XattrNames(tar, func(name []byte) bool {
		count++
		a, aerr := c.tar.Xattr(tar, name)
		b, berr := c.own.Xattr(own, name)
		same = aerr == nil && berr == nil && bytes.Equal(a, b)
		return same
	})
	rest := 0
	err = errors.Join(err, c.own.XattrNames(own, func([]byte) bool { rest++; return true }))
	if err == nil && (!same || rest != count) {
		c.differ("%s has other extended attributes in the tar than in the index", path)
	}
	return err
}

// content compares the chunks of a file with what was cut out of the tar.
func (c *indexComparison) content(path string, tar, own uint64) error {
	a, aerr := c.tar.Content(tar)
	b, berr := c.own.Content(own)
	if err := errors.Join(aerr, berr); err != nil {
		return err
	}
	if a.Size != b.Size {
		c.differ("%s has %d bytes in the tar, and %d in the index", path, a.Size, b.Size)
		return nil
	}
	for i := range a.Count {
		x, xok := c.made.Chunk(a.First + i)
		y, yok := c.p.index.Chunk(b.First + i)
		if !xok || !yok || a.Count != b.Count || x.Size != y.Size || x.Offset != y.Offset {
			return fserr.Newf(fserr.Unsupported, "compare", path, "its chunks cannot be told")
		}
		if x.Hole != y.Hole {
			c.differ("%s is not empty at %d", path, y.Offset)
			return nil
		}
		if want, known := c.p.digest(b.First + i); !x.Hole && known && want != x.Digest {
			c.differ("%s has other bytes in the tar than in the index, from %d on", path, y.Offset)
			return nil
		}
	}
	return nil
}
