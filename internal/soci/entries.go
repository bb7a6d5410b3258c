package soci

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/nineply/nineply/estargz"
)

const (
	fileName = iota
	fileType
	fileOffset
	fileSize
	fileLink
	fileMode
	fileUID
	fileGID
	fileUname
	fileGname
	fileModTime
	fileDevMajor
	fileDevMinor
	fileRecords
)

const (
	recordKey = iota
	recordValue
)

const (
	paxXattr  = "SCHILY.xattr."
	paxSparse = "GNU.sparse."
	tarBlock  = 512
	// tarEnd keeps what is computed from offsets in a tar from overflowing.
	tarEnd = math.MaxInt64 / 2
)

// Entries calls fn for each file of the layer, in the order of the tar: an entry
// for the file, then one for each of its chunks but the first. Offset is the place
// of a chunk in the tar; no chunk has a digest. fn must not keep the entry. The
// error of fn is returned as it is.
func (z *ZTOC) Entries(fn func(*estargz.Entry) error) error {
	b := newBuffer(z.data)
	toc, ok := b.root().table(ztocTOC)
	if !ok {
		b.fail(ErrFlatbuffer)
		return b.err
	}
	files := toc.vector(0)
	if b.err != nil {
		return b.err
	}
	if files.size > z.lim.Entries {
		return fmt.Errorf("%w: %d, limit %d", ErrEntries, files.size, z.lim.Entries)
	}
	c := &cutter{z: z, fn: fn}
	var e estargz.Entry
	for i := range files.size {
		offset, err := z.file(files.table(i), &e)
		if b.err != nil {
			err = b.err
		}
		if err != nil {
			return fmt.Errorf("file %d %.100q: %w", i, e.Name, err)
		}
		if err := c.place(&e, offset); err != nil {
			return err
		}
	}
	return nil
}

// file reads one file into e, and gives where its content is in the tar.
func (z *ZTOC) file(t table, e *estargz.Entry) (offset int64, err error) {
	*e = estargz.Entry{}
	name, link := t.bytes(fileName), t.bytes(fileLink)
	if max(len(name), len(link)) > z.lim.NameBytes {
		return 0, fmt.Errorf("%w: limit %d bytes", ErrName, z.lim.NameBytes)
	}
	e.Name, e.LinkName = string(name), string(link)
	if e.Type, err = entryType(t.bytes(fileType)); err != nil {
		return 0, err
	}
	e.Mode = uint32(t.i64(fileMode)) & 0o7777
	e.UID, e.GID = t.u32(fileUID), t.u32(fileGID)
	major, minor := t.i64(fileDevMajor), t.i64(fileDevMinor)
	if min(major, minor) < 0 || max(major, minor) > math.MaxUint32 {
		return 0, fmt.Errorf("%w: device %d:%d", ErrEntry, major, minor)
	}
	e.DevMajor, e.DevMinor = uint32(major), uint32(minor)
	// What is no time is the zero time: it is not worth losing a layer over.
	if at, err := time.Parse(time.RFC3339Nano, string(t.bytes(fileModTime))); err == nil {
		e.ModTime = at.UTC()
	}
	if e.Xattrs, err = z.xattrs(t.vector(fileRecords)); err != nil {
		return 0, err
	}
	offset, e.Size = t.i64(fileOffset), t.i64(fileSize)
	if e.Type != estargz.TypeReg {
		e.Size = 0 // some writers give hard links the size of their target
	}
	return offset, nil
}

func entryType(s []byte) (estargz.EntryType, error) {
	switch string(s) {
	case "dir":
		return estargz.TypeDir, nil
	case "reg":
		return estargz.TypeReg, nil
	case "symlink":
		return estargz.TypeSymlink, nil
	case "hardlink":
		return estargz.TypeHardlink, nil
	case "char":
		return estargz.TypeChar, nil
	case "block":
		return estargz.TypeBlock, nil
	case "fifo":
		return estargz.TypeFifo, nil
	}
	return 0, fmt.Errorf("%w: type %.20q", ErrEntry, s)
}

// xattrs takes the extended attributes out of the PAX records.
func (z *ZTOC) xattrs(records vector) (map[string][]byte, error) {
	var m map[string][]byte
	room := z.lim.XattrBytes
	for i := range records.size {
		r := records.table(i)
		key, value := r.bytes(recordKey), r.bytes(recordValue)
		if records.b.err != nil {
			return nil, records.b.err
		}
		if bytes.HasPrefix(key, []byte(paxSparse)) {
			return nil, ErrSparse
		}
		name, ok := strings.CutPrefix(string(key), paxXattr)
		if !ok {
			continue
		}
		if room -= len(name) + len(value); room < 0 {
			return nil, fmt.Errorf("%w: limit %d bytes", ErrXattrs, z.lim.XattrBytes)
		}
		if m == nil {
			m = make(map[string][]byte, 1)
		}
		m[name] = bytes.Clone(value)
	}
	return m, nil
}

// cutter places files in the tar and cuts them into chunks.
type cutter struct {
	z      *ZTOC
	fn     func(*estargz.Entry) error
	next   int64 // where the next header can be in the tar
	span   int   // the span that the last chunk is in
	chunks int
}

// place checks where a file is, and passes it on.
func (c *cutter) place(e *estargz.Entry, offset int64) error {
	if e.Size < 0 || offset < c.next+tarBlock || offset > tarEnd || e.Size > tarEnd-offset {
		return fmt.Errorf("file %.100q: %w: %d bytes at %d, after %d", e.Name, ErrOrder, e.Size, offset, c.next)
	}
	end := offset + e.Size
	if end > c.z.tar {
		return fmt.Errorf("file %.100q: %w: it ends at %d of %d", e.Name, ErrOrder, end, c.z.tar)
	}
	c.next = (end + tarBlock - 1) &^ (tarBlock - 1)
	if e.Size == 0 {
		return c.fn(e)
	}
	return c.cut(e, offset)
}

func (c *cutter) cut(e *estargz.Entry, offset int64) error {
	name, size := e.Name, e.Size
	for done := int64(0); done < size; {
		if c.chunks++; c.chunks > c.z.lim.Chunks {
			return fmt.Errorf("file %.100q: %w: limit %d chunks", name, ErrChunks, c.z.lim.Chunks)
		}
		n := min(size-done, c.z.lim.ChunkSize, c.end(offset+done)-offset-done)
		if done > 0 {
			*e = estargz.Entry{Name: name, Type: estargz.TypeChunk}
		}
		e.Offset, e.ChunkOffset, e.ChunkSize = offset+done, done, n
		if err := c.fn(e); err != nil {
			return err
		}
		done += n
	}
	return nil
}

// end gives where the span that holds pos ends in the tar.
func (c *cutter) end(pos int64) int64 {
	spans := c.z.spans
	for c.span+1 < len(spans) && spans[c.span+1].Out <= pos {
		c.span++
	}
	if c.span+1 < len(spans) {
		return spans[c.span+1].Out
	}
	return math.MaxInt64
}
