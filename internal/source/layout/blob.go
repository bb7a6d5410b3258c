package layout

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// directory is a layout in a directory.
type directory struct{ path string }

type dirFile struct {
	*os.File
	bytes int64
}

func (f dirFile) size() int64 { return f.bytes }

// open opens below the directory only, whatever symbolic links are in it.
func (d directory) open(name string) (file, error) {
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return nil, err
	}
	f, err := root.Open(name)
	if cerr := root.Close(); err == nil && cerr != nil {
		err = errors.Join(cerr, f.Close())
	}
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return dirFile{f, fi.Size()}, nil
}

// blob is a blob of a layout. The file is opened for each read: a blob holds
// nothing that would need closing.
type blob struct {
	store        store
	object, path string
	length       int64
}

var _ source.Blob = (*blob)(nil)

// Size implements [source.Blob].
func (b *blob) Size() int64 { return b.length }

func (b *blob) open() (file, error) {
	f, err := b.store.open(b.path)
	if err != nil {
		return nil, openFailure(b.object, err)
	}
	if f.size() != b.length {
		size := f.size()
		return nil, errors.Join(fserr.Newf(fserr.Corrupt, "read", b.object, "%d bytes instead of %d", size, b.length), f.Close())
	}
	return f, nil
}

// ReadRange implements [source.Blob].
func (b *blob) ReadRange(ctx context.Context, off int64, p []byte) error {
	if err := source.CheckRange(b.object, b.length, off, int64(len(p))); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fserr.New(fserr.KindOf(err), "read", b.object, err)
	}
	if len(p) == 0 {
		return nil
	}
	f, err := b.open()
	if err != nil {
		return err
	}
	n, err := f.ReadAt(p, off)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	switch {
	case n == len(p):
		return nil
	case errors.Is(err, io.EOF):
		return fserr.Newf(fserr.Corrupt, "read", b.object, "became shorter while it was read")
	}
	return fserr.New(fserr.Unavailable, "read", b.object, err)
}

// Stream implements [source.Blob].
func (b *blob) Stream(ctx context.Context, off int64) (io.ReadCloser, error) {
	return b.OpenRange(ctx, off, b.length-off)
}

// OpenRange implements [source.Blob].
func (b *blob) OpenRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if err := source.CheckRange(b.object, b.length, off, n); err != nil {
		return nil, err
	}
	f, err := b.open()
	if err != nil {
		return nil, err
	}
	return &stream{ctx: ctx, blob: b, r: io.NewSectionReader(f, off, n), f: f}, nil
}

// stream reads a file until its context ends.
type stream struct {
	ctx  context.Context
	blob *blob
	r    *io.SectionReader
	f    file
	read int64
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, fserr.New(fserr.KindOf(err), "read", s.blob.object, err)
	}
	n, err := s.r.Read(p)
	s.read += int64(n)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		if s.read < s.r.Size() {
			return n, fserr.Newf(fserr.Corrupt, "read", s.blob.object, "became shorter while it was read")
		}
		return n, io.EOF
	}
	return n, fserr.New(fserr.Unavailable, "read", s.blob.object, err)
}

// Close implements io.Closer.
func (s *stream) Close() error { return s.f.Close() }
