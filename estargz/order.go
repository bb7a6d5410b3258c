package estargz

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// place is where an entry is in the tar.
type place struct {
	start  int64 // of its first header block
	name   string
	target string            // clean target of a hard link
	global map[string]string // records in force
	listed bool              // it is in the order
	drop   bool              // a later entry has its name
}

// orderedSource gives the prioritized entries first, then the landmark, then the
// others as they come. If there are none to come first, the landmark says so.
type orderedSource struct {
	tar    io.ReaderAt
	size   int64
	ctx    context.Context // of one run
	closer io.Closer       // of tar, or nil
	places []place
	byName map[string]int
	order  []int // indexes of places; landmarkPlace among them
	absent []string
	mark   string    // name of the landmark
	raw    *recorder // of the headers, if they are kept
	ended  bool
}

const landmarkPlace = -1

func newOrderedSource(ctx context.Context, at *io.SectionReader, closer io.Closer, opts *WriterOptions) (*orderedSource, error) {
	s := &orderedSource{tar: at, size: at.Size(), ctx: ctx, closer: closer, byName: make(map[string]int)}
	if opts.keepsTar() {
		s.raw = new(recorder)
	}
	if err := s.scan(); err != nil {
		return nil, err
	}
	for _, name := range opts.Prioritized {
		if _, ok := s.byName[cleanName(name)]; !ok {
			s.absent = append(s.absent, name)
			continue
		}
		s.first(cleanName(name))
	}
	s.mark = PrefetchLandmark
	if len(s.order) == 0 {
		s.mark = NoPrefetchLandmark
	}
	s.order = append(s.order, landmarkPlace)
	for i := range s.places {
		if p := &s.places[i]; !p.listed && !p.drop {
			s.order = append(s.order, i)
		}
	}
	return s, nil
}

// scan notes where the entries are.
func (s *orderedSource) scan() error {
	r := &offsetReader{r: bufio.NewReaderSize(io.NewSectionReader(s.tar, 0, s.size), 1<<20)}
	t := tarReader{tr: tar.NewReader(ctxReader{s.ctx, r})}
	for {
		// What is before is read to the end, but for its padding.
		start := (r.n + tarBlock - 1) &^ (tarBlock - 1)
		h, err := t.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p := place{start: start, name: cleanName(h.Name), global: t.global}
		if h.Typeflag == tar.TypeLink {
			p.target = cleanName(h.Linkname)
		}
		if old, ok := s.byName[p.name]; ok {
			s.places[old].drop = true
		}
		s.byName[p.name] = len(s.places)
		s.places = append(s.places, p)
		if _, err := io.Copy(io.Discard, t.tr); err != nil {
			return readError(err)
		}
	}
}

// first puts an entry in front, after its parents and its hard link target.
func (s *orderedSource) first(name string) {
	// The stack ends with what has to come before all above it.
	stack := []string{name}
	seen := map[string]bool{}
	for len(stack) > 0 {
		name := stack[len(stack)-1]
		i, ok := s.byName[name]
		if !ok || s.places[i].listed || seen[name] {
			stack = stack[:len(stack)-1]
			if ok && !s.places[i].listed {
				s.places[i].listed = true
				s.order = append(s.order, i)
			}
			continue
		}
		seen[name] = true
		if target := s.places[i].target; target != "" && !seen[target] {
			stack = append(stack, target)
		}
		for dir := name; dir != ""; {
			dir, _, _ = cutLast(dir)
			if !seen[dir] {
				stack = append(stack, dir)
			}
		}
	}
}

func cutLast(name string) (dir, base string, ok bool) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", name, false
	}
	return name[:i], name[i+1:], true
}

func (s *orderedSource) next() (item, error) {
	if len(s.order) == 0 {
		return s.end()
	}
	i := s.order[0]
	s.order = s.order[1:]
	if i == landmarkPlace {
		return landmark(s.mark), nil
	}
	p := &s.places[i]
	var r io.Reader = ctxReader{s.ctx, io.NewSectionReader(s.tar, p.start, s.size-p.start)}
	if s.raw != nil {
		s.raw.r = r
		s.raw.start()
		r = s.raw
	}
	t := tarReader{tr: tar.NewReader(r), global: p.global}
	h, err := t.next()
	if err != nil {
		return item{}, err
	}
	if cleanName(h.Name) != p.name {
		return item{}, fmt.Errorf("entry %.100q: the tar changed while it was read", h.Name)
	}
	it := item{h: h, rewrite: true, pad: true, content: t.tr, sparse: t.sparse}
	if s.raw != nil {
		if lead := s.raw.stop(); !t.changed {
			it.lead, it.rewrite, it.unsplit = lead, false, t.odd
		}
	}
	return it, nil
}

// end gives the end of the tar, if it is not the TOC that ends it.
func (s *orderedSource) end() (item, error) {
	if s.raw == nil || s.ended {
		return item{}, io.EOF
	}
	s.ended = true
	return item{lead: make([]byte, tarEnd)}, nil
}

func (s *orderedSource) missing() []string { return s.absent }

// Close closes the tar, if it is a copy.
func (s *orderedSource) Close() error {
	if s.closer == nil {
		return nil
	}
	return s.closer.Close()
}

// offsetReader counts what is read.
type offsetReader struct {
	r io.Reader
	n int64
}

func (o *offsetReader) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	o.n += int64(n)
	return n, err
}
