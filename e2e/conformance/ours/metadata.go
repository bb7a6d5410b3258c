package ours

import (
	"bytes"
	"io"
	"os"
	"time"

	"github.com/containerd/stargz-snapshotter/metadata"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
)

// RootID is the number of the root.
func (r *Reader) RootID() uint32 { return uint32(layerindex.RootIno) }

// GetOffset gives the offset of the member where a file begins; 0 for what has no
// content.
func (r *Reader) GetOffset(id uint32) (int64, error) {
	if _, err := r.index.Attr(layerindex.Ino(id)); err != nil {
		return 0, err
	}
	c, err := r.index.Content(layerindex.Ino(id))
	if err != nil || c.Count == 0 {
		return 0, nil //nolint:nilerr // no regular file
	}
	first, _ := r.index.Chunk(c.First)
	return first.Member, nil
}

// GetAttr gives the attributes of a node.
func (r *Reader) GetAttr(id uint32) (metadata.Attr, error) {
	a, err := r.index.Attr(layerindex.Ino(id))
	if err != nil {
		return metadata.Attr{}, err
	}
	attr := metadata.Attr{
		ModTime: time.Unix(a.Mtime, int64(a.MtimeNsec)).UTC(), Mode: fileMode(a.Mode),
		UID: int(a.UID), GID: int(a.GID), NumLink: int(a.NLink),
	}
	switch a.Mode & layerindex.ModeTypeMask {
	case layerindex.ModeReg:
		attr.Size = int64(a.Size)
	case layerindex.ModeSymlink:
		target, err := r.index.Readlink(a.Ino)
		if err != nil {
			return attr, err
		}
		attr.LinkName = string(target)
	case layerindex.ModeChar, layerindex.ModeBlock:
		attr.DevMajor, attr.DevMinor = int(unix.Major(a.Rdev)), int(unix.Minor(a.Rdev))
	}
	attr.Xattrs, err = r.xattrs(a.Ino)
	return attr, err
}

func (r *Reader) xattrs(n layerindex.Ino) (map[string][]byte, error) {
	var names [][]byte
	err := r.index.XattrNames(n, func(name []byte) bool {
		names = append(names, name)
		return true
	})
	var found map[string][]byte
	for _, name := range names {
		value, err := r.index.Xattr(n, name)
		if err != nil {
			return nil, err
		}
		if found == nil {
			found = map[string][]byte{}
		}
		found[string(name)] = bytes.Clone(value)
	}
	return found, err
}

// fileMode turns st_mode into Go's.
func fileMode(mode uint32) os.FileMode {
	m := os.FileMode(mode & 0o777)
	for bit, is := range map[uint32]os.FileMode{unix.S_ISUID: os.ModeSetuid, unix.S_ISGID: os.ModeSetgid, unix.S_ISVTX: os.ModeSticky} {
		if mode&bit != 0 {
			m |= is
		}
	}
	switch mode & layerindex.ModeTypeMask {
	case layerindex.ModeDir:
		m |= os.ModeDir
	case layerindex.ModeSymlink:
		m |= os.ModeSymlink
	case layerindex.ModeChar:
		m |= os.ModeDevice | os.ModeCharDevice
	case layerindex.ModeBlock:
		m |= os.ModeDevice
	case layerindex.ModeFifo:
		m |= os.ModeNamedPipe
	}
	return m
}

// GetChild looks a name up.
func (r *Reader) GetChild(dir uint32, name string) (uint32, metadata.Attr, error) {
	n, err := r.index.Lookup(layerindex.Ino(dir), []byte(name))
	if err != nil {
		return 0, metadata.Attr{}, err
	}
	attr, err := r.GetAttr(uint32(n))
	return uint32(n), attr, err
}

// ForeachChild lists a directory; nothing else has children.
func (r *Reader) ForeachChild(dir uint32, f func(name string, id uint32, mode os.FileMode) bool) error {
	for pos := uint64(0); ; {
		d, next, ok, err := r.index.Readdir(layerindex.Ino(dir), pos)
		if fserr.KindOf(err) == fserr.NotDir {
			return nil
		}
		if err != nil || !ok {
			return err
		}
		a, err := r.index.Attr(d.Ino)
		if err != nil {
			return err
		}
		if !f(string(d.Name), uint32(d.Ino), fileMode(a.Mode)) {
			return nil
		}
		pos = next
	}
}

// preRead is told of the chunks that came along with a wanted one.
type preRead = func(id uint32, chunkOffset, chunkSize int64, chunkDigest string, r io.Reader) error

// OpenFile opens a regular file.
func (r *Reader) OpenFile(id uint32) (metadata.File, error) { return r.OpenFileWithPreReader(id, nil) }

// OpenFileWithPreReader opens a regular file, and has tell called with the other
// chunks of each member that is decompressed.
func (r *Reader) OpenFileWithPreReader(id uint32, tell preRead) (metadata.File, error) {
	c, err := r.index.Content(layerindex.Ino(id))
	if err != nil {
		return nil, err
	}
	return &file{r, c, tell}, nil
}

type file struct {
	r       *Reader
	content layerindex.Content
	tell    preRead
}

// ChunkEntryForOffset says which chunk holds a byte.
func (f *file) ChunkEntryForOffset(offset int64) (off, size int64, sum string, ok bool) {
	c, ok := f.r.index.Chunk(f.r.index.FindChunk(f.content, uint64(offset)))
	return c.Offset, c.Size, c.Digest.String(), ok
}

// ReadAt implements [io.ReaderAt]: what it returns was verified.
func (f *file) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, os.ErrInvalid
	}
	for n < len(p) {
		at := f.r.index.FindChunk(f.content, uint64(off))
		if at == layerindex.NoChunk {
			return n, io.EOF
		}
		got, err := f.readChunk(at, p[n:], off)
		if err != nil {
			return n, err
		}
		n, off = n+got, off+int64(got)
	}
	return n, nil
}

// readChunk copies bytes of chunk i from file offset off on, and hands the other
// chunks of its member on.
func (f *file) readChunk(i uint32, p []byte, off int64) (n int, err error) {
	wanted, _ := f.r.index.Chunk(i)
	want, ids := []estargz.Chunk{wanted}, []uint32{i}
	if f.tell != nil {
		want, ids = want[:0], ids[:0]
		for k := f.r.index.ChunksFrom(wanted.Member); ; k++ {
			c, ok := f.r.index.Chunk(k)
			if !ok || c.Member != wanted.Member {
				break
			}
			want, ids = append(want, c), append(ids, k)
		}
	}
	packed := make([]byte, want[len(want)-1].FetchSize())
	if _, err := io.ReadFull(io.NewSectionReader(f.r.sr, wanted.Member, int64(len(packed))), packed); err != nil {
		return 0, err
	}
	err = estargz.DecodeMember(packed, want, func(k int, payload []byte) error {
		if ids[k] == i {
			n = copy(p, payload[off-wanted.Offset:])
			return nil
		}
		c := want[k]
		return f.tell(uint32(f.r.index.ChunkNode(ids[k])), c.Offset, c.Size, c.Digest.String(), bytes.NewReader(payload))
	})
	return n, err
}
