package estargz

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// item is what a source gives: an entry, or bytes of the tar that belong to none.
type item struct {
	// lead is written as it is, before all else: the entry's header if that is
	// kept, and the padding of the payload before.
	lead    []byte
	h       *tar.Header // nil: lead is all there is
	rewrite bool        // the header is made anew of h
	pad     bool        // the payload is to be padded; if not, the next lead has it
	content io.Reader   // of h.Size bytes
	sparse  bool        // the content is longer than it was in the tar
	// unsplit: tar-split cannot describe it.
	unsplit bool
}

// entrySource gives tar entries in the order in which they are to be written,
// landmark included, and [io.EOF] after the last.
type entrySource interface {
	// next gives an item that is valid until the next call.
	next() (item, error)
	// missing lists the prioritized names that were not found.
	missing() []string
	io.Closer
}

// source chooses how to read r.
func (w *Writer) source(ctx context.Context, r io.Reader) (entrySource, error) {
	if len(w.opts.Prioritized) == 0 {
		if w.opts.keepsTar() {
			return newRawSource(ctxReader{ctx, r}, w.opts.KeepDiffID), nil
		}
		return &streamSource{tars: tarReader{tr: tar.NewReader(ctxReader{ctx, r})}}, nil
	}
	at, ok := r.(io.ReaderAt)
	if seeker, can := r.(io.Seeker); ok && can {
		start, err := seeker.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		end, err := seeker.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, err
		}
		return newOrderedSource(ctx, io.NewSectionReader(at, start, end-start), nil, &w.opts)
	}
	f, size, err := spool(ctx, r, w.opts.TempDir)
	if err != nil {
		return nil, err
	}
	src, err := newOrderedSource(ctx, io.NewSectionReader(f, 0, size), f, &w.opts)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return src, nil
}

// spool copies r to a file that is gone when it is closed.
func spool(ctx context.Context, r io.Reader, dir string) (*os.File, int64, error) {
	f, err := os.CreateTemp(dir, "nineply-tar-*")
	if err != nil {
		return nil, 0, err
	}
	err = os.Remove(f.Name())
	size := int64(0)
	if err == nil {
		size, err = io.Copy(f, ctxReader{ctx, r})
	}
	if err != nil {
		return nil, 0, fmt.Errorf("keep tar: %w", errors.Join(err, f.Close()))
	}
	return f, size, nil
}

// ctxReader stops reading when the context ends.
type ctxReader struct {
	ctx context.Context // of one run
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// landmark is the entry of a landmark file.
func landmark(name string) item {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 1, Mode: 0o644, Format: tar.FormatUSTAR}
	return item{h: h, rewrite: true, pad: true, content: bytes.NewReader([]byte{landmarkByte})}
}

// streamSource gives the entries as they come, all with new headers.
type streamSource struct {
	tars  tarReader
	begun bool
}

func (s *streamSource) next() (item, error) {
	if !s.begun {
		s.begun = true
		return landmark(NoPrefetchLandmark), nil
	}
	h, err := s.tars.next()
	return item{h: h, rewrite: true, pad: true, content: s.tars.tr, sparse: s.tars.sparse}, err
}

func (s *streamSource) missing() []string { return nil }

// Close has nothing to do.
func (s *streamSource) Close() error { return nil }
