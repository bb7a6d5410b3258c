package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/zran"
	"github.com/nineply/nineply/layerindex"
)

// recorder records the checkpoints of a layer that is read whole.
type recorder struct{ rec *zran.Recorder }

// start implements layertar.Gunzip.
func (r *recorder) start(blob io.Reader) (io.ReadCloser, error) {
	r.rec = zran.NewRecorder(zran.DefaultSpan)
	if err := r.rec.Start(blob); err != nil {
		return nil, err
	}
	return r.rec, nil
}

// save writes the checkpoints of the blob with digest d to path: all of them, or
// nothing.
func (r *recorder) save(path string, d estargz.Digest) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), layerindex.TempPattern)
	if err != nil {
		return fmt.Errorf("checkpoints: %w", err)
	}
	err = r.rec.WriteTo(tmp, d)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("checkpoints: %w", errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}

func (c *Catalog) spansPath(id layerID) string {
	return filepath.Join(c.dir, "layers", id.file()+".zran")
}

// spans are the checkpoints of an open layer.
type spans struct {
	file  *os.File
	index *zran.Index
}

// openSpans opens the checkpoints of the blob with digest d and of size bytes.
func openSpans(path string, d estargz.Digest, size int64) (*spans, error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	x, err := zran.Open(f, st.Size())
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if i := x.Info(); i.Blob != d || i.BlobSize != size {
		err = fserr.Newf(fserr.Corrupt, "open", path, "checkpoints of another blob")
	} else {
		err = x.Verify() // later there would be a reader to tell of damage
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &spans{file: f, index: x}, nil
}

// Extent implements fetch.Spans.
func (s *spans) Extent(off, n int64) (lo, hi int64) { return s.index.Extent(off, n) }

// First implements fetch.Spans.
func (s *spans) First(off int64) int64 { return s.index.First(off) }

// Start implements fetch.Spans.
func (s *spans) Start(body io.Reader, lo int64) (fetch.SpanReader, int64, error) {
	r, out, err := s.index.Start(body, lo)
	if err != nil {
		return nil, 0, err
	}
	return r, out, nil
}
