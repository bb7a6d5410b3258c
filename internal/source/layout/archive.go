package layout

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/nineply/nineply/internal/fserr"
)

const (
	// maxArchives bounds the archives whose contents are remembered.
	maxArchives = 64
	// maxMembers bounds the files of one archive.
	maxMembers = 100_000
)

// archive is a layout in a tar file: where each file of it lies.
type archive struct {
	path    string
	stamp   string
	members map[string]member
}

type member struct{ off, size int64 }

// archive gives the table of an archive, made anew when the file changed.
func (l *Layout) archive(ref Reference) (*archive, error) {
	fi, err := os.Stat(ref.Path)
	if err != nil {
		return nil, openFailure(ref.String(), err)
	}
	stamp := fmt.Sprintf("%d.%d", fi.ModTime().UnixNano(), fi.Size())
	l.mu.Lock()
	a := l.archives[ref.Path]
	l.mu.Unlock()
	if a != nil && a.stamp == stamp {
		return a, nil
	}
	a = &archive{path: ref.Path, stamp: stamp, members: map[string]member{}}
	if err := a.scan(); err != nil {
		return nil, fserr.New(fserr.KindOf(err), "read", ref.String(), err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.archives == nil || len(l.archives) >= maxArchives {
		l.archives = map[string]*archive{}
	}
	l.archives[ref.Path] = a
	return a, nil
}

func (a *archive) scan() error {
	f, err := os.Open(a.path)
	if err != nil {
		return openFailure(a.path, err)
	}
	defer func() { _ = f.Close() }() // only read from
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fserr.New(fserr.Corrupt, "scan", a.path, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if len(a.members) >= maxMembers {
			return fserr.Newf(fserr.TooLarge, "scan", a.path, "more than %d files", maxMembers)
		}
		// The tar reader leaves the file at the beginning of the content.
		off, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return fserr.New(fserr.Unavailable, "scan", a.path, err)
		}
		a.members[path.Clean(h.Name)] = member{off, h.Size}
	}
}

type archiveFile struct {
	*io.SectionReader
	f *os.File
}

func (f archiveFile) size() int64 { return f.Size() }

// Close implements io.Closer.
func (f archiveFile) Close() error { return f.f.Close() }

func (a *archive) open(name string) (file, error) {
	m, ok := a.members[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: a.path + "/" + name, Err: fs.ErrNotExist}
	}
	f, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	return archiveFile{io.NewSectionReader(f, m.off, m.size), f}, nil
}
