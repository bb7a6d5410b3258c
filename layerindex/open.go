package layerindex

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/nineply/nineply/internal/fserr"
)

// Index is an open index file. All methods but Close may be called by any
// number of goroutines; none may run during or after Close.
type Index struct {
	path   string
	kind   uint32
	layers []LayerInfo
	data   []byte // the mapping; nil after Close
	unmap  func([]byte) error

	// The sections, views into data.
	nodes, dirents, names, targets []byte
	xattrSets, xattrs, xattrBytes  []byte
	chunks                         []byte
	numNodes                       uint64
	numChunks                      uint32
}

// Open maps the index at path after verifying all of it: checksums, and the
// structure that the accessors rely on. The file is read once, through small
// buffers, so that verifying does not make the mapping resident. A file that
// fails is an fserr.Corrupt error wrapping ErrCorrupt.
func Open(path string) (*Index, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	// Nothing was written: closing has nothing to report.
	defer func() { _ = f.Close() }()
	return OpenFile(f)
}

// OpenFile is [Open] for a file that is open already, for instance one received
// from another process. f is not kept and not closed.
func OpenFile(f *os.File) (*Index, error) {
	x, err := openFile(f)
	if err != nil {
		if errors.Is(err, ErrCorrupt) {
			return nil, fserr.New(fserr.Corrupt, "open index", f.Name(), err)
		}
		return nil, fmt.Errorf("open index %s: %w", f.Name(), err)
	}
	return x, nil
}

func openFile(f *os.File) (*Index, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, corrupt("not a regular file")
	}
	h, layers, err := verify(f, st.Size())
	if err != nil {
		return nil, err
	}
	if st.Size() > math.MaxInt {
		return nil, fserr.New(fserr.TooLarge, "map", "", nil)
	}
	data, unmap, err := mapFile(f, int(st.Size()))
	if err != nil {
		return nil, err
	}
	x := newIndex(h, layers, data)
	x.path, x.unmap = f.Name(), unmap
	return x, nil
}

// newIndex lays the sections over a verified file.
func newIndex(h *header, layers []LayerInfo, data []byte) *Index {
	x := &Index{kind: h.kind, layers: layers, data: data}
	view := func(i int) []byte {
		s := h.sections[i]
		return data[s.off : s.off+s.size : s.off+s.size]
	}
	x.nodes, x.dirents, x.names, x.targets = view(secNodes), view(secDirents), view(secNames), view(secTargets)
	x.xattrSets, x.xattrs, x.xattrBytes, x.chunks = view(secXattrSets), view(secXattrs), view(secXattrBytes), view(secChunks)
	x.numNodes, x.numChunks = uint64(len(x.nodes)/nodeSize), uint32(len(x.chunks)/chunkSize)
	return x
}

// Close unmaps the file. Everything the index returned becomes invalid.
func (x *Index) Close() error {
	if x.data == nil {
		return errClosed
	}
	data, unmap := x.data, x.unmap
	*x = Index{path: x.path}
	if err := unmap(data); err != nil {
		return fmt.Errorf("close index %s: %w", x.path, err)
	}
	return nil
}

// verify reads the whole file once and checks it against its header.
func verify(f io.ReaderAt, size int64) (*header, []LayerInfo, error) {
	if size < headerSize {
		return nil, nil, corrupt("%d bytes", size)
	}
	var first [headerSize]byte
	if _, err := f.ReadAt(first[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	h, err := decodeHeader(first[:], size)
	if err != nil {
		return nil, nil, err
	}
	v := &verifier{h: h}
	for i, s := range h.sections {
		v.in[i] = stream{f: f, section: i, off: s.off, end: s.off + s.size, want: s.crc}
	}
	err = v.run()
	for i := range v.in {
		// A failed read explains whatever the checks found.
		if e := v.in[i].err; e != nil {
			return nil, nil, e
		}
	}
	if err != nil {
		return nil, nil, err
	}
	for i := range v.in {
		if err := v.in[i].finish(); err != nil {
			return nil, nil, err
		}
	}
	return h, v.layers, nil
}

// streamBuffer is larger than any record or name.
const streamBuffer = 32 << 10

// stream reads one section in order and sums it.
type stream struct {
	f        io.ReaderAt
	section  int
	off, end int64 // what is left to read
	buf      []byte
	r, w     int
	crc      uint32
	want     uint32
	err      error
}

// next returns the next n bytes, n at most streamBuffer, valid until the next
// call; nil if the section has no more or cannot be read.
func (s *stream) next(n int) []byte {
	if s.w-s.r < n {
		s.fill()
	}
	if s.w-s.r < n {
		return nil
	}
	p := s.buf[s.r : s.r+n : s.r+n]
	s.r += n
	return p
}

// fill moves what is left to the front and reads behind it.
func (s *stream) fill() {
	if s.err != nil || s.off == s.end {
		return
	}
	if s.buf == nil {
		s.buf = make([]byte, min(streamBuffer, s.end-s.off))
	}
	s.w = copy(s.buf, s.buf[s.r:s.w])
	s.r = 0
	p := s.buf[s.w:min(int64(len(s.buf)), int64(s.w)+s.end-s.off)]
	n, err := s.f.ReadAt(p, s.off)
	if n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = corrupt("section %d is cut off", s.section)
		}
		s.err = err
		return
	}
	s.crc = checksum(s.crc, p)
	s.off += int64(n)
	s.w += n
}

// finish reads the rest, compares the sum, and sees that only zeros lie between
// the section and the next.
func (s *stream) finish() error {
	for s.err == nil && s.off < s.end {
		s.r = s.w
		s.fill()
	}
	if s.err != nil {
		return s.err
	}
	if s.crc != s.want {
		return corrupt("checksum of section %d differs", s.section)
	}
	var gap [sectionAlign]byte
	n := align(s.end) - s.end
	if _, err := s.f.ReadAt(gap[:n], s.end); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if gap != [sectionAlign]byte{} {
		return corrupt("stray bytes behind section %d", s.section)
	}
	return nil
}
