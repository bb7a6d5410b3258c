package estargz

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/nineply/nineply/internal/fserr"
)

// entrySource gives tar entries in the order in which they are to be written,
// landmark included, and [io.EOF] after the last.
type entrySource interface {
	next() (*tar.Header, io.Reader, error)
	// missing lists the prioritized names that were not found.
	missing() []string
	io.Closer
}

// source chooses how to read r.
func (w *Writer) source(ctx context.Context, r io.Reader) (entrySource, error) {
	if len(w.opts.Prioritized) == 0 {
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
		return newOrderedSource(ctx, io.NewSectionReader(at, start, end-start), nil, w.opts.Prioritized)
	}
	f, size, err := spool(ctx, r, w.opts.TempDir)
	if err != nil {
		return nil, err
	}
	src, err := newOrderedSource(ctx, io.NewSectionReader(f, 0, size), f, w.opts.Prioritized)
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

// tarReader reads tar entries, with global headers applied and the format's own
// files left out.
type tarReader struct {
	tr     *tar.Reader
	global map[string]string // never changed, only replaced
	sparse bool              // the last entry is
}

// next gives the next entry, or [io.EOF].
func (t *tarReader) next() (*tar.Header, error) {
	for {
		h, err := t.tr.Next()
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		if err != nil {
			return nil, readError(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			if t.global, err = mergeGlobal(t.global, h.PAXRecords); err != nil {
				return nil, err
			}
			continue
		}
		if reserved(cleanName(h.Name)) {
			continue
		}
		t.sparse = isSparse(h)
		plainHeader(h)
		if err := applyGlobal(h, t.global); err != nil {
			return nil, fmt.Errorf("entry %.100q: %w", h.Name, err)
		}
		return h, nil
	}
}

// readError gives errors of the tar format a kind, and lets others pass.
func readError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		return fserr.New(fserr.Corrupt, "read tar", "", err)
	}
	return fmt.Errorf("read tar: %w", err)
}

// mergeGlobal adds a global header's records; an empty value takes one away.
func mergeGlobal(old, records map[string]string) (map[string]string, error) {
	if err := checkGlobal(records); err != nil {
		return nil, err
	}
	merged := make(map[string]string, len(old)+len(records))
	for _, m := range []map[string]string{old, records} {
		for k, v := range m {
			merged[k] = v
			if v == "" {
				delete(merged, k)
			}
		}
	}
	return merged, nil
}

// landmark is the entry of a landmark file.
func landmark(name string) (*tar.Header, io.Reader) {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 1, Mode: 0o644, Format: tar.FormatUSTAR}
	return h, bytes.NewReader([]byte{landmarkByte})
}

// streamSource gives the entries as they come.
type streamSource struct {
	tars  tarReader
	begun bool
}

func (s *streamSource) next() (*tar.Header, io.Reader, error) {
	if !s.begun {
		s.begun = true
		h, content := landmark(NoPrefetchLandmark)
		return h, content, nil
	}
	h, err := s.tars.next()
	return h, s.tars.tr, err
}

func (s *streamSource) missing() []string { return nil }

// Close has nothing to do.
func (s *streamSource) Close() error { return nil }
