package estargz

import (
	"archive/tar"
	"bufio"
	"errors"
	"io"

	"github.com/nineply/nineply/internal/fserr"
)

const (
	// rawBuffer is how much of the tar is read at once, bytes.
	rawBuffer = 256 << 10
	// tarEnd is what ends a tar, bytes of zero.
	tarEnd = 2 * tarBlock
)

// rawSource gives the entries as they come, with the very bytes of their headers,
// and all other bytes of the tar.
type rawSource struct {
	tars tarReader
	rec  recorder
	keep bool // not even what a TOC cannot express is changed
	// dropPad: the payload before is padded already.
	dropPad bool
	ended   bool
	rest    []byte // buffer for what follows the tar's end
}

func newRawSource(r io.Reader, keep bool) *rawSource {
	s := &rawSource{keep: keep, rec: recorder{r: bufio.NewReaderSize(r, rawBuffer)}}
	s.tars.tr = tar.NewReader(&s.rec)
	return s
}

func (s *rawSource) next() (item, error) {
	if s.ended {
		return s.trailing()
	}
	pad := int(-s.rec.n & (tarBlock - 1))
	s.rec.start()
	h, err := s.tars.step()
	lead := s.rec.stop()
	pad = min(pad, len(lead))
	if s.dropPad {
		lead, pad, s.dropPad = lead[pad:], 0, false
	}
	switch {
	case errors.Is(err, io.EOF):
		s.ended = true
		return item{lead: lead}, nil
	case err != nil:
		return item{}, err
	case h.Typeflag == tar.TypeXGlobalHeader && s.keep:
		return item{lead: lead, unsplit: true}, nil
	case h.Typeflag == tar.TypeXGlobalHeader:
		s.dropPad = true
		return item{lead: lead[:pad]}, nil
	case s.tars.changed && s.keep:
		return item{lead: lead, h: h, content: &solidReader{s.tars.tr, &s.rec}, unsplit: true}, nil
	case s.tars.changed:
		s.dropPad = true
		return item{lead: lead[:pad], h: h, rewrite: true, pad: true, content: s.tars.tr,
			sparse: s.tars.sparse, unsplit: s.tars.odd}, nil
	}
	return item{lead: lead, h: h, content: s.tars.tr, unsplit: s.tars.odd}, nil
}

// trailing gives what follows the tar's end, in pieces.
func (s *rawSource) trailing() (item, error) {
	if s.rest == nil {
		s.rest = make([]byte, rawBuffer)
	}
	n, err := io.ReadFull(&s.rec, s.rest)
	if n > 0 && (err == nil || errors.Is(err, io.ErrUnexpectedEOF)) {
		return item{lead: s.rest[:n], unsplit: !passesForEnd(s.rest[:n])}, nil
	}
	if errors.Is(err, io.EOF) {
		return item{}, io.EOF
	}
	return item{}, readError(err)
}

// passesForEnd says whether a tar reader that is given p alone finds an end of a
// tar in it: that is how containers/storage goes through tar-split segments.
func passesForEnd(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return len(p) >= tarEnd || len(p)%tarBlock == 0
}

func (s *rawSource) missing() []string { return nil }

// Close has nothing to do.
func (s *rawSource) Close() error { return nil }

// recorder counts what is read, and between start and stop keeps it.
type recorder struct {
	r  io.Reader
	n  int64
	on bool
	p  []byte
}

func (r *recorder) start() { r.on, r.p = true, r.p[:0] }

// stop gives what was read since start; it is valid until the next start.
func (r *recorder) stop() []byte {
	r.on = false
	return r.p
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += int64(n)
	if r.on {
		r.p = append(r.p, p[:n]...)
	}
	return n, err
}

// solidReader reads a file's content, as long as that is what is in the tar: a
// hole of a sparse file is not.
type solidReader struct {
	content io.Reader
	tar     *recorder
}

func (s *solidReader) Read(p []byte) (int, error) {
	before := s.tar.n
	n, err := s.content.Read(p)
	if s.tar.n-before != int64(n) {
		return 0, fserr.Newf(fserr.Unsupported, "", "",
			"a sparse file with holes cannot be served from the tar as it is; it can when the DiffID may change")
	}
	return n, err
}
