package image

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// checkpoint says how far a layer was read: where decoding can go on, what was hashed
// until there, and where in the tar its reader was, which is there or further on.
type checkpoint struct {
	// In is an offset in the blob, Bit the bits of that byte that belong to what is
	// before. Start says that something begins there that needs no Window of the tar
	// before it.
	In     int64  `json:"in"`
	Bit    uint8  `json:"bit,omitempty"`
	Start  bool   `json:"start,omitempty"`
	Window []byte `json:"window,omitempty"`
	// Out is the same place in the tar. BlobHash and TarHash are the states of the
	// hashes of what is in front of it.
	Out      int64  `json:"out"`
	BlobHash []byte `json:"blobHash"`
	TarHash  []byte `json:"tarHash"`
	// At is how far the tar was taken apart. File is the one that ends behind that, if
	// it is in the middle of one; Spool how much of the spool is about what is before.
	At    int64       `json:"at"`
	File  *openedFile `json:"file,omitempty"`
	Spool int64       `json:"spool"`
}

// openedFile is a file of a tar whose first bytes were read.
type openedFile struct {
	Entry spooled `json:"entry"` // with the cuts so far
	Off   int64   `json:"off"`   // where they end
}

// cut is a part of a file that was read and hashed. It ends where a chunk of the
// index ends.
type cut struct {
	Size   int64          `json:"n"`
	Digest estargz.Digest `json:"d"`
	Zeros  bool           `json:"z,omitempty"` // it has nothing but zeros
}

// spooled is an entry of a tar. Names need not be UTF-8.
type spooled struct {
	Name  []byte            `json:"name"`
	Type  estargz.EntryType `json:"type"`
	Size  int64             `json:"size,omitempty"`
	Link  []byte            `json:"link,omitempty"`
	Mode  uint32            `json:"mode"`
	UID   uint32            `json:"uid,omitempty"`
	GID   uint32            `json:"gid,omitempty"`
	Major uint32            `json:"major,omitempty"`
	Minor uint32            `json:"minor,omitempty"`
	Time  *time.Time        `json:"time,omitempty"`
	Xattr [][2][]byte       `json:"xattr,omitempty"`
	Cuts  []cut             `json:"cuts,omitempty"`
}

func spool(e *estargz.Entry) spooled {
	s := spooled{
		Name: []byte(e.Name), Type: e.Type, Size: e.Size, Link: []byte(e.LinkName), Mode: e.Mode, UID: e.UID, GID: e.GID,
		Major: e.DevMajor, Minor: e.DevMinor,
	}
	if !e.ModTime.IsZero() {
		s.Time = &e.ModTime
	}
	for k, v := range e.Xattrs {
		s.Xattr = append(s.Xattr, [2][]byte{[]byte(k), v})
	}
	return s
}

// entry gives back what was spooled, but for the cuts.
func (s *spooled) entry() *estargz.Entry {
	e := &estargz.Entry{
		Name: string(s.Name), Type: s.Type, Size: s.Size, LinkName: string(s.Link), Mode: s.Mode, UID: s.UID, GID: s.GID,
		DevMajor: s.Major, DevMinor: s.Minor,
	}
	if s.Time != nil {
		e.ModTime = *s.Time
	}
	for _, kv := range s.Xattr {
		if e.Xattrs == nil {
			e.Xattrs = map[string][]byte{}
		}
		e.Xattrs[string(kv[0])] = kv[1]
	}
	return e
}

// spoolFile keeps the entries of a tar until all of it was read, in the order of the
// tar and one JSON object a line. What is in it is only as good as the checkpoint
// that says how much of it counts.
type spoolFile struct {
	f *os.File
	w *bufio.Writer
	n int64
}

func (c *Catalog) spoolPath(id layerID) string {
	return filepath.Join(c.dir, "fill", id.file()+".entries")
}

func (c *Catalog) removeSpool(id layerID) error {
	if err := os.Remove(c.spoolPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("entries: %w", err)
	}
	return nil
}

// openSpool opens a spool behind its first n bytes, which must be there.
func openSpool(path string, n int64) (*spoolFile, error) {
	f, err := os.OpenFile(filepath.Clean(path), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("entries: %w", err)
	}
	st, err := f.Stat()
	if err == nil && st.Size() < n {
		err = fserr.Newf(fserr.Corrupt, "open", path, "%d bytes, there were %d", st.Size(), n)
	}
	if err == nil {
		err = f.Truncate(n)
	}
	if err == nil {
		_, err = f.Seek(n, io.SeekStart)
	}
	if err != nil {
		return nil, fmt.Errorf("entries: %w", errors.Join(err, f.Close()))
	}
	return &spoolFile{f: f, w: bufio.NewWriter(f), n: n}, nil
}

func (s *spoolFile) add(e *spooled) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("entries: %w", err)
	}
	line = append(line, '\n')
	s.n += int64(len(line))
	if _, err := s.w.Write(line); err != nil {
		return fmt.Errorf("entries: %w", err)
	}
	return nil
}

// sync makes durable what was added, and tells how much is there.
func (s *spoolFile) sync() (int64, error) {
	if err := s.w.Flush(); err != nil {
		return 0, fmt.Errorf("entries: %w", err)
	}
	if err := s.f.Sync(); err != nil {
		return 0, fmt.Errorf("entries: %w", err)
	}
	return s.n, nil
}

// each calls fn with every entry, from the first on.
func (s *spoolFile) each(fn func(*spooled) error) error {
	if err := s.w.Flush(); err != nil {
		return fmt.Errorf("entries: %w", err)
	}
	dec := json.NewDecoder(bufio.NewReader(io.NewSectionReader(s.f, 0, s.n)))
	for {
		e := new(spooled)
		err := dec.Decode(e)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("entries: %w", err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

func (s *spoolFile) close() error { return s.f.Close() }

// loadCheckpoint gives how far a layer was read, nil if it has to be read from its
// start.
func (c *Catalog) loadCheckpoint(ctx context.Context, id layerID) *checkpoint {
	p := new(checkpoint)
	if c.load(ctx, keyFillState+id.String(), p) != nil {
		return nil
	}
	return p
}

// stateLasts is how long it is remembered how far a layer was read that nobody wants.
const stateLasts = 7 * 24 * time.Hour

// prune removes what is left of layers that are read no more: by a process that died
// between two steps, or by one that compared.
func (f *filler) prune(ctx context.Context) error {
	keep := map[string]layerID{}
	var done []layerID
	err := f.c.records.Walk(ctx, keyFillState, func(key string, _ []byte) error {
		id, err := parseLayerID(key[len(keyFillState):])
		if err != nil {
			return nil //nolint:nilerr // of another version
		}
		var v verdict
		if f.c.load(ctx, keyFill+id.String(), &v) == nil && v.settled() {
			done = append(done, id)
			return nil
		}
		keep[filepath.Base(f.c.spoolPath(id))] = id
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range done {
		if err := f.clear(ctx, id); err != nil {
			return err
		}
	}
	dir := filepath.Join(f.c.dir, "fill")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("entries: %w", err)
	}
	for _, e := range entries {
		id, ok := keep[e.Name()]
		st, err := e.Info()
		if err == nil && ok && time.Since(st.ModTime()) < stateLasts {
			continue
		}
		if ok {
			err = f.clear(ctx, id)
		} else {
			err = os.Remove(filepath.Join(dir, e.Name()))
		}
		if err != nil {
			return fmt.Errorf("entries: %w", err)
		}
	}
	return nil
}
