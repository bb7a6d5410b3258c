package layerindex

import (
	"bytes"
	"encoding/binary"
	"io"
)

// TempFile and FileSystem let tests break the writing of a file.
type (
	TempFile   = tempFile
	FileSystem = fileSystem
)

// OSFS is the real file system.
func OSFS() FileSystem { return osFS{} }

// SetFS replaces the file system the Builder writes to.
func (b *Builder) SetFS(fsys FileSystem) { b.fsys = fsys }

// MergeTo is Merge with a file system.
func MergeTo(fsys FileSystem, path string, layers []*Index) error {
	return mergeTo(fsys, path, layers)
}

// HeaderSize is where the first section begins.
const HeaderSize = headerSize

// Makedev is the device number encoding.
func Makedev(major, minor uint32) uint64 { return makedev(major, minor) }

// OpenBytes opens an index that is in memory.
func OpenBytes(p []byte) (*Index, error) {
	h, layers, err := verify(bytes.NewReader(p), int64(len(p)))
	if err != nil {
		return nil, err
	}
	x := newIndex(h, layers, p)
	x.unmap = func([]byte) error { return nil }
	return x, nil
}

// Verify checks an index without mapping it.
func Verify(r io.ReaderAt, size int64) error {
	_, _, err := verify(r, size)
	return err
}

// Sections returns offset and size of each section, as the header of file says.
func Sections(file []byte) [][2]int64 {
	if len(file) < headerSize {
		return nil
	}
	var out [][2]int64
	for i := range numSections {
		row := file[sectionTable+i*sectionEntry:]
		off, size := binary.LittleEndian.Uint64(row), binary.LittleEndian.Uint64(row[8:])
		if off > uint64(len(file)) || size > uint64(len(file))-off {
			return nil
		}
		out = append(out, [2]int64{int64(off), int64(size)})
	}
	return out
}

// Reseal makes all checksums of file right.
func Reseal(file []byte) {
	for i, s := range Sections(file) {
		sum := checksum(0, file[s[0]:s[0]+s[1]])
		binary.LittleEndian.PutUint32(file[sectionTable+i*sectionEntry+20:], sum)
	}
	if len(file) >= headerSize {
		binary.LittleEndian.PutUint32(file[headerCRC:], checksum(0, file[:headerCRC]))
	}
}
