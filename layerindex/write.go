package layerindex

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// tempMark is in the name of every file that is still being written.
const tempMark = ".nineply-index-"

// TempPattern names temporary files, for os.CreateTemp, that [IsTemp] knows.
const TempPattern = tempMark + "*"

// IsTemp reports whether a file of this base name is an unfinished index, left
// behind by a crash. Such files are never opened and may be removed while no
// index is being written.
func IsTemp(name string) bool { return strings.HasPrefix(name, tempMark) }

// fileSystem is what writing an index needs, so that tests can make each step
// fail.
type fileSystem interface {
	CreateTemp(dir, pattern string) (tempFile, error)
	Rename(from, to string) error
	Remove(name string) error
	SyncDir(dir string) error
}

type tempFile interface {
	io.Writer
	io.WriterAt
	Name() string
	Sync() error
	Close() error
}

type osFS struct{}

func (osFS) CreateTemp(dir, pattern string) (tempFile, error) { return os.CreateTemp(dir, pattern) }
func (osFS) Rename(from, to string) error                     { return os.Rename(from, to) }
func (osFS) Remove(name string) error                         { return os.Remove(name) }

func (osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeFile makes path hold im: durable and whole, or not there at all.
func (im *image) writeFile(fsys fileSystem, path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write index %s: %w", path, err)
		}
	}()
	dir := filepath.Dir(path)
	f, err := fsys.CreateTemp(dir, TempPattern)
	if err != nil {
		return err
	}
	if err := errors.Join(im.writeTo(f), f.Close()); err != nil {
		return errors.Join(err, fsys.Remove(f.Name()))
	}
	if err := fsys.Rename(f.Name(), path); err != nil {
		return errors.Join(err, fsys.Remove(f.Name()))
	}
	return fsys.SyncDir(dir)
}

// writeTo writes the sections, then the header in front of them.
func (im *image) writeTo(f tempFile) error {
	w := &sectionWriter{w: bufio.NewWriterSize(f, 64<<10)}
	w.write(make([]byte, headerSize))
	h := header{kind: im.kind}
	emitters := [numSections]func(*sectionWriter){
		secLayers: im.emitLayers, secNodes: im.emitNodes, secDirents: im.emitDirents,
		secNames:     func(w *sectionWriter) { w.write(im.names) },
		secTargets:   func(w *sectionWriter) { w.write(im.targets) },
		secXattrSets: im.xattrs.emitSets, secXattrs: im.xattrs.emitAttrs,
		secXattrBytes: func(w *sectionWriter) { w.write(im.xattrs.bytes) },
		secChunks:     im.emitChunks,
	}
	for i, emit := range emitters {
		start := w.off
		w.crc = 0
		emit(w)
		h.sections[i] = section{off: start, size: w.off - start, crc: w.crc}
		w.write(make([]byte, align(w.off)-w.off))
	}
	if w.err == nil {
		w.err = w.w.Flush()
	}
	if w.err != nil {
		return w.err
	}
	h.fileSize = w.off
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return err
	}
	return f.Sync()
}

// sectionWriter counts and sums what passes; it does nothing after an error.
type sectionWriter struct {
	w   *bufio.Writer
	off int64
	crc uint32
	err error
}

func (w *sectionWriter) write(p []byte) {
	if w.err != nil {
		return
	}
	w.crc = checksum(w.crc, p)
	w.off += int64(len(p))
	_, w.err = w.w.Write(p)
}

func (im *image) emitLayers(w *sectionWriter) {
	var rec [layerSize]byte
	for i := range im.layers {
		encodeLayer(&im.layers[i], rec[:])
		w.write(rec[:])
	}
}

func (im *image) emitNodes(w *sectionWriter) {
	var rec [nodeSize]byte
	for i := range im.nodes {
		im.nodes[i].encode(rec[:])
		w.write(rec[:])
	}
}

func (im *image) emitDirents(w *sectionWriter) {
	var rec [direntSize]byte
	for _, e := range im.dirents {
		name := im.names[e.nameOff : int(e.nameOff)+int(e.nameLen)]
		d := dirent{ino: e.ino, nameOff: e.nameOff, nameLen: e.nameLen, typ: e.typ, prefix: namePrefix(name)}
		d.encode(rec[:])
		w.write(rec[:])
	}
}

func (im *image) emitChunks(w *sectionWriter) {
	if im.chunks == nil {
		return
	}
	var rec [chunkSize]byte
	for c := range im.chunks {
		c.encode(rec[:])
		w.write(rec[:])
	}
}

func (t *xattrTable) emitSets(w *sectionWriter) {
	var rec [xattrSetSize]byte
	for _, s := range t.sets {
		putSpan(rec[:], s)
		w.write(rec[:])
	}
}

func (t *xattrTable) emitAttrs(w *sectionWriter) {
	var rec [xattrSize]byte
	for _, a := range t.attrs {
		putSpan(rec[:], a.name)
		putSpan(rec[8:], a.value)
		w.write(rec[:])
	}
}

func putSpan(p []byte, s span) {
	binary.LittleEndian.PutUint32(p, s.off)
	binary.LittleEndian.PutUint32(p[4:], s.n)
}

func getSpan(p []byte) span {
	return span{binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint32(p[4:])}
}
