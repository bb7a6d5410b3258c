package estargz

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strings"
)

// TarReader reads a plain tar as the entries that a TOC of it would have. It is
// how layers that are not eStargz are indexed. Names need not be UTF-8: nothing
// here becomes JSON.
type TarReader struct {
	tars tarReader
	read *counter
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// NewTarReader reads the uncompressed tar stream r.
func NewTarReader(r io.Reader) *TarReader {
	read := &counter{r: r}
	return &TarReader{tars: tarReader{tr: tar.NewReader(read)}, read: read}
}

// Offset is how far the tar was read, bytes. Directly after Next it is where the
// content of the entry begins, unless the entry is sparse.
func (t *TarReader) Offset() int64 { return t.read.n }

// Sparse reports whether the entry that Next gave last is a sparse file, whose
// content is not in the tar as it is read here.
func (t *TarReader) Sparse() bool { return t.tars.sparse }

// Next gives the next entry, or [io.EOF]. Landmarks and TOCs are left out, PAX
// global headers applied, sparse files described as the plain files they stand
// for. Offsets and digests are not set. A damaged tar is an fserr.Corrupt error,
// an entry of a kind that layers do not have an fserr.Unsupported one.
func (t *TarReader) Next() (*Entry, error) {
	h, err := t.tars.next()
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, err
	}
	e, err := describe(h)
	if err != nil {
		return nil, fmt.Errorf("entry %.100q: %w", h.Name, err)
	}
	e.ModTime = h.ModTime
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, paxXattr); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string][]byte{}
			}
			e.Xattrs[name] = []byte(v)
		}
	}
	return e, nil
}

// Read reads the content of the entry that Next gave last.
func (t *TarReader) Read(p []byte) (int, error) { return t.tars.tr.Read(p) }
