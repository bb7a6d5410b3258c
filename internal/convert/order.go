package convert

import (
	"context"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// order adds the files that are to come first in a layer because of an image that
// it is in.
func (s *stage) order(l *layer, img *source.Image, i int) {
	if s.opts.Order == nil {
		l.first = s.opts.Writer.Prioritized
		return
	}
	have := make(map[string]bool, len(l.first))
	for _, name := range l.first {
		have[name] = true
	}
	for _, name := range s.opts.Order(img, i) {
		if name = cleanName(name); !have[name] {
			have[name] = true
			l.first = append(l.first, name)
		}
	}
}

// found is how many of the names that were to come first a layer has.
func (l *layer) found() int {
	if l.reused {
		return l.front.wanted
	}
	return len(l.first) - len(l.absent)
}

// notFound lists the names that were to come first in layers none of which has
// them.
func (s *stage) notFound() []string {
	found := map[string]bool{}
	var absent []string
	for _, l := range s.layers {
		missing := make(map[string]bool, len(l.absent))
		for _, name := range l.absent {
			missing[name] = true
		}
		for _, name := range l.first {
			found[name] = found[name] || !missing[name]
		}
		absent = append(absent, l.absent...)
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(absent, func(name string) bool {
		again := seen[name] || found[name]
		seen[name] = true
		return again
	})
}

// front is the part of a blob that its landmark has fetched ahead.
type front struct {
	end    int64 // offset of the landmark; 0: nothing is fetched ahead
	marked bool  // there is a landmark of either kind
	names  []string
	links  map[string]bool // targets of hard links among names
	all    map[string]bool // names of all files, but directories
	wanted int             // how many of the files that were to come first are there
}

// frontOf reads the TOC of a blob.
func frontOf(ra io.ReaderAt, size int64) (front, error) {
	f := front{links: map[string]bool{}, all: map[string]bool{}}
	blob, err := estargz.Open(ra, size, estargz.DefaultLimits())
	if err != nil {
		return f, err
	}
	err = blob.Entries(func(e *estargz.Entry) error {
		f.add(e)
		return nil
	})
	return f, err
}

func (f *front) add(e *estargz.Entry) {
	switch {
	case e.Name == estargz.PrefetchLandmark:
		f.marked, f.end = true, e.Offset
	case e.Name == estargz.NoPrefetchLandmark:
		f.marked = true
	case e.Type == estargz.TypeDir || e.Type == estargz.TypeChunk:
	default:
		name := cleanName(e.Name)
		f.all[name] = true
		if f.marked {
			return
		}
		f.names = append(f.names, name)
		if e.Type == estargz.TypeHardlink {
			f.links[cleanName(e.LinkName)] = true
		}
	}
}

func cleanName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// is reports whether exactly the files of a list that there are come first, in the
// order of the list, but for the targets of hard links. A layer without a landmark
// has none.
func (f *front) is(list []string) bool {
	want := slices.DeleteFunc(slices.Clone(list), func(name string) bool { return !f.all[name] })
	f.wanted = len(want)
	if !f.marked {
		return f.wanted == 0
	}
	got := slices.DeleteFunc(slices.Clone(f.names), func(name string) bool { return f.links[name] && !slices.Contains(want, name) })
	return slices.Equal(got, want)
}

// inOrder reports whether a layer of the source that could be kept has the order
// that is asked for. Without one, any will do.
func (s *stage) inOrder(ctx context.Context, l *layer) (bool, error) {
	if s.opts.Order == nil {
		return true, nil
	}
	blob, err := s.from.Blob(ctx, l.ref, l.source)
	if err != nil {
		return false, err
	}
	l.front, err = frontOf(ranges{ctx, blob}, blob.Size())
	switch fserr.KindOf(err) {
	case fserr.Corrupt, fserr.TooLarge, fserr.Unsupported:
		return false, nil // nothing that could be kept
	}
	return err == nil && l.front.is(l.first), err
}

// ranges reads a blob of the source as a file.
type ranges struct {
	ctx  context.Context // of one conversion
	blob source.Blob
}

// ReadAt implements io.ReaderAt.
func (r ranges) ReadAt(p []byte, off int64) (int, error) {
	if err := r.blob.ReadRange(r.ctx, off, p); err != nil {
		return 0, err
	}
	return len(p), nil
}
