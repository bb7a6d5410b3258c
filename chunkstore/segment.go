package chunkstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
)

const (
	segmentMagic   = "NPLYSEG1"
	trailerMagic   = "NPLYIDX1"
	segmentVersion = 1
	segmentSuffix  = ".seg"

	superblockSize = unitSize
	trailerSize    = unitSize
	entrySize      = 40
	// flagSwept marks a segment that has lost records: its headers no longer
	// follow one another, and it takes no new ones.
	flagSwept = 1
)

// entry is one record as a segment's index lists it.
type entry struct {
	digest Digest
	unit   uint32
	size   uint32 // payload bytes
}

func (e entry) loc(segment uint32) Loc { return makeLoc(segment, e.unit, int64(e.size)) }
func (e entry) offset() int64          { return int64(e.unit) * unitSize }
func (e entry) end() int64             { return e.offset() + recordSize(int64(e.size)) }

// footerSize is what an index of this many records and its trailer take.
func footerSize(records int) int64 {
	return align(int64(records)*entrySize, unitSize) + trailerSize
}

// segmentState says who may change a segment.
type segmentState int32

const (
	stateActive  segmentState = iota // appended to, under appendSem
	stateSealing                     // queued for or being sealed in the background
	stateClosed                      // may be swept, under evictMu
	stateGone                        // unlinked
)

// segment is one segment file and what is known about it in memory.
type segment struct {
	id    uint32
	path  string
	state atomic.Int32
	file  atomic.Pointer[openFile] // nil while no descriptor is held
	// touched has a bit per blockSize of file: read since a hand last came by.
	touched []atomic.Uint32
	// proven has a bit for the same: read again after it was put. It is changed
	// under evictMu only.
	proven      []atomic.Uint32
	provenBytes atomic.Int64 // of records with that bit, about

	size    atomic.Int64 // bytes of file
	punched atomic.Int64 // bytes of file that are holes
	holes   atomic.Bool  // some of them may not be durable
	charge  atomic.Int64 // bytes counted against the limit
	live    atomic.Int64 // records that the index database places here
	sealed  atomic.Bool  // has a valid index at its end
	// warm is set when touched or proven has changed since they were last saved.
	warm atomic.Bool

	// The rest belongs to the state's owner; placeMu too is held to change it
	// in a closed segment, and to read it without being the owner.
	entries   []entry // of unsealed segments
	dataEnd   int64   // where the next record, or the index, goes
	swept     bool
	indexSum  uint32
	dirSynced bool
	recorded  bool // the database has a summary of it
}

type openFile struct{ File }

func newSegment(dir string, id uint32, capacity int64) *segment {
	bits := capacity/blockSize + 1
	return &segment{
		id:      id,
		path:    dir + "/" + segmentName(id),
		touched: make([]atomic.Uint32, (bits+31)/32),
		proven:  make([]atomic.Uint32, (bits+31)/32),
	}
}

func segmentName(id uint32) string { return fmt.Sprintf("%08x%s", id, segmentSuffix) }

// parseSegmentName is the inverse of segmentName.
func parseSegmentName(name string) (uint32, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 8 {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 16, 32)
	if err != nil || id == 0 || id > maxSegmentID || segmentName(uint32(id)) != name {
		return 0, false
	}
	return uint32(id), true
}

func (g *segment) is(s segmentState) bool { return g.state.Load() == int32(s) }
func (g *segment) become(s segmentState)  { g.state.Store(int32(s)) }

// encodeSuperblock gives a segment file's first bytes.
func encodeSuperblock(id uint32, cookie uint64) []byte {
	buf := make([]byte, superblockSize)
	copy(buf, segmentMagic)
	binary.LittleEndian.PutUint32(buf[8:], segmentVersion)
	binary.LittleEndian.PutUint32(buf[12:], id)
	binary.LittleEndian.PutUint64(buf[16:], cookie)
	binary.LittleEndian.PutUint32(buf[60:], checksum(buf[:60]))
	return buf
}

// decodeSuperblock gives the cookie of the store that made the segment.
func decodeSuperblock(buf []byte, id uint32) (cookie uint64, ok bool) {
	if len(buf) < superblockSize || string(buf[:8]) != segmentMagic ||
		binary.LittleEndian.Uint32(buf[60:]) != checksum(buf[:60]) ||
		binary.LittleEndian.Uint32(buf[8:]) != segmentVersion ||
		binary.LittleEndian.Uint32(buf[12:]) != id {
		return 0, false
	}
	return binary.LittleEndian.Uint64(buf[16:]), true
}

// trailer is the decoded last unit of a sealed segment.
type trailer struct {
	count    int
	indexOff int64
	indexSum uint32
	dataEnd  int64 // end of the last record
	swept    bool
}

// encodeFooter gives the index of entries and the trailer that ends it.
func encodeFooter(entries []entry, indexOff, dataEnd int64, swept bool, id uint32, cookie uint64) []byte {
	le := binary.LittleEndian
	buf := make([]byte, footerSize(len(entries)))
	for i, e := range entries {
		b := buf[i*entrySize:]
		copy(b, e.digest[:])
		le.PutUint32(b[32:], e.unit)
		le.PutUint32(b[36:], e.size)
	}
	index, t := buf[:len(buf)-trailerSize], buf[len(buf)-trailerSize:]
	copy(t, trailerMagic)
	le.PutUint64(t[8:], cookie)
	le.PutUint32(t[16:], id)
	le.PutUint32(t[20:], uint32(len(entries)))
	le.PutUint64(t[24:], uint64(indexOff))
	le.PutUint64(t[32:], uint64(dataEnd))
	le.PutUint32(t[40:], checksum(index))
	if swept {
		le.PutUint32(t[44:], flagSwept)
	}
	le.PutUint32(t[60:], checksum(t[:60]))
	return buf
}

// decodeTrailer checks the last unit of a file of this size.
func decodeTrailer(buf []byte, size int64, id uint32, cookie uint64) (t trailer, ok bool) {
	le := binary.LittleEndian
	if len(buf) < trailerSize || string(buf[:8]) != trailerMagic ||
		le.Uint32(buf[60:]) != checksum(buf[:60]) ||
		le.Uint64(buf[8:]) != cookie || le.Uint32(buf[16:]) != id {
		return t, false
	}
	t.count = int(le.Uint32(buf[20:]))
	t.indexOff = int64(le.Uint64(buf[24:]))
	t.dataEnd = int64(le.Uint64(buf[32:]))
	t.indexSum = le.Uint32(buf[40:])
	t.swept = le.Uint32(buf[44:])&flagSwept != 0
	ok = t.indexOff >= superblockSize && t.indexOff <= size-trailerSize &&
		t.indexOff+footerSize(t.count) == size &&
		t.dataEnd >= superblockSize && t.dataEnd <= t.indexOff && t.dataEnd%unitSize == 0
	return t, ok
}

// errNoIndex: the file does not end in a valid index.
var errNoIndex = errors.New("no valid index")

// readTrailer gives the trailer of a file of this size.
func readTrailer(r io.ReaderAt, size int64, id uint32, cookie uint64) (trailer, error) {
	if size < superblockSize+trailerSize || size%unitSize != 0 {
		return trailer{}, errNoIndex
	}
	var buf [trailerSize]byte
	if err := readFull(r, buf[:], size-trailerSize); err != nil {
		return trailer{}, err
	}
	t, ok := decodeTrailer(buf[:], size, id, cookie)
	if !ok {
		return trailer{}, errNoIndex
	}
	return t, nil
}

// readIndex gives a sealed segment's entries, in order of place.
func readIndex(r io.ReaderAt, size int64, id uint32, cookie uint64) ([]entry, trailer, error) {
	t, err := readTrailer(r, size, id, cookie)
	if err != nil {
		return nil, t, err
	}
	buf := make([]byte, size-trailerSize-t.indexOff)
	if err := readFull(r, buf, t.indexOff); err != nil {
		return nil, t, err
	}
	if checksum(buf) != t.indexSum {
		return nil, t, errNoIndex
	}
	entries := make([]entry, t.count)
	end := int64(superblockSize)
	for i := range entries {
		b := buf[i*entrySize:]
		e := entry{digest: Digest(b[:32]), unit: binary.LittleEndian.Uint32(b[32:]), size: binary.LittleEndian.Uint32(b[36:])}
		if e.size > MaxChunk || e.offset() < end || e.end() > t.dataEnd || e.offset() >= maxSegmentSize {
			return nil, t, errNoIndex
		}
		end = e.end()
		entries[i] = e
	}
	return entries, t, nil
}

// readFull fills p or fails: with io.ErrUnexpectedEOF where the file is short.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// footerSum is the checksum of the index in an encoded footer.
func footerSum(footer []byte) uint32 {
	return binary.LittleEndian.Uint32(footer[len(footer)-trailerSize+40:])
}
