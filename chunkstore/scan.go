package chunkstore

import (
	"crypto/sha256"
	"io"
)

// scanWindow is how much of a segment is read at once while walking it.
const scanWindow = 256 << 10

// scanned is what a segment file turned out to hold.
type scanned struct {
	entries []entry // in order of place
	dataEnd int64   // end of the last record
	sealed  bool    // the entries come from the file's own index
	swept   bool    // it has lost records, or has gaps between them
	sum     uint32  // checksum of the index, if sealed
}

// scanSegment finds the records of a segment file of this size: from its index
// if it has one, else by walking the records. A walk follows the headers; where
// one is damaged it looks for the next, and from there on believes only records
// whose payload has the sha256 it is said to have. With verify it believes no
// other from the start: needed when the file was not sealed and what was
// written last may be lost.
//
// What cannot be read is passed over like what is damaged.
func scanSegment(r io.ReaderAt, size int64, id uint32, cookie uint64, verify bool) scanned {
	entries, t, err := readIndex(r, size, id, cookie)
	if err == nil {
		return scanned{entries: entries, dataEnd: t.dataEnd, sealed: true, swept: t.swept, sum: t.indexSum}
	}
	w := walker{r: r, size: size, at: place{cookie: cookie, segment: id}, verify: verify}
	return w.walk()
}

// walker goes through the records of one segment.
type walker struct {
	r      io.ReaderAt
	size   int64
	at     place
	verify bool
	lost   bool // a header was not where it should be

	buf []byte // window onto the file
	off int64  // of buf in the file
}

func (w *walker) walk() scanned {
	out := scanned{dataEnd: superblockSize}
	pos := int64(superblockSize)
	for pos+headerSize <= w.size && pos < maxSegmentSize {
		w.at.unit = uint32(pos / unitSize)
		h, ok := w.record(pos)
		if !ok {
			w.lost = true
			pos = w.nextHeader(pos + unitSize)
			continue
		}
		good := !w.verify && !w.lost || w.payloadMatches(pos, h)
		switch {
		case good:
			out.swept = out.swept || w.lost
			out.entries = append(out.entries, entry{digest: h.digest, unit: w.at.unit, size: uint32(h.size)})
			pos += recordSize(h.size)
			out.dataEnd = pos
		case w.lost:
			pos += unitSize
		default:
			w.lost = true
			pos += recordSize(h.size)
		}
	}
	return out
}

// record checks the header and the checksum table at pos.
func (w *walker) record(pos int64) (header, bool) {
	buf, ok := w.bytes(pos, headerSize)
	if !ok {
		return header{}, false
	}
	h, ok := decodeHeader(buf, w.at)
	if !ok || pos+headerSize+tableSize(h.size)+h.size > w.size {
		return h, false
	}
	table, ok := w.bytes(pos+headerSize, tableSize(h.size))
	return h, ok && checksum(table) == h.tableSum
}

// payloadMatches hashes the payload of the record at pos.
func (w *walker) payloadMatches(pos int64, h header) bool {
	sum := sha256.New()
	pos += headerSize + tableSize(h.size)
	for left := h.size; left > 0; {
		n := min(left, scanWindow)
		buf, ok := w.bytes(pos, n)
		if !ok {
			return false
		}
		sum.Write(buf)
		pos, left = pos+n, left-n
	}
	return Digest(sum.Sum(nil)) == h.digest
}

// nextHeader gives the first unit from pos on that looks like a header, or the
// file's size. A piece that cannot be read is passed over.
func (w *walker) nextHeader(pos int64) int64 {
	for pos+headerSize <= w.size {
		n := min(scanWindow, (w.size-pos)/unitSize*unitSize)
		buf, ok := w.bytes(pos, n)
		if !ok {
			pos += n
			continue
		}
		for i := int64(0); i+unitSize <= n; i += unitSize {
			if looksLikeHeader(buf[i:], w.at.cookie) {
				return pos + i
			}
		}
		pos += n
	}
	return w.size
}

// bytes gives n bytes at pos, valid until the next call; false where the file
// ends before, or cannot be read.
func (w *walker) bytes(pos, n int64) ([]byte, bool) {
	if n < 0 || pos+n > w.size {
		return nil, false
	}
	if pos >= w.off && pos+n <= w.off+int64(len(w.buf)) {
		return w.buf[pos-w.off:][:n], true
	}
	want := min(max(n, scanWindow), w.size-pos)
	if int64(cap(w.buf)) < want {
		w.buf = make([]byte, want)
	}
	w.buf, w.off = w.buf[:want], pos
	if err := readFull(w.r, w.buf, pos); err != nil {
		w.buf = w.buf[:0]
		return nil, false
	}
	return w.buf[:n], true
}
