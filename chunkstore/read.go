package chunkstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
	"syscall"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/crc32c"
	"github.com/nineply/nineply/internal/fserr"
)

// wholeRecord is the number of payload blocks up to which a record is read as
// one piece into a scratch buffer: header, checksums and payload with one call.
const wholeRecord = 4

// ReadAt reads payload of the chunk d, from byte off of the chunk on, into p. It
// gives the number of bytes read, fewer than len(p) only where the chunk ends,
// and then, unlike io.ReaderAt, without an error; 0 at and beyond the end.
//
// loc is where [Store.Locate] or [Store.Put] said the chunk is. If the chunk is
// somewhere else by now, it is found there, which costs a lookup each time. The
// checksum of every block touched is verified: what is returned is right, and
// after an error p holds nothing of meaning. ErrNotFound if the chunk was
// evicted, or its record found damaged, which is then dropped: fetch it anew.
// ErrClosed after Close.
func (s *Store) ReadAt(loc Loc, d Digest, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, chunkError(fserr.Invalid, "read", d, fmt.Errorf("negative offset %d", off))
	}
	if s.closed.Load() {
		return 0, ErrClosed
	}
	if g := s.segment(loc.segment()); g != nil {
		if n, err := s.readNear(g, loc, &d, p, off); err == nil {
			g.noteRead(loc.unit())
			s.count.hits.Add(1)
			return n, nil
		}
	}
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	loc, n, err := s.readElsewhere(loc, d, p, off)
	if err != nil {
		s.count.misses.Add(1)
		return 0, err
	}
	if g := s.segment(loc.segment()); g != nil {
		g.noteRead(loc.unit())
	}
	s.count.hits.Add(1)
	return n, nil
}

// readNear reads a part of one block from memory if it is hot, and everything else
// from the record at loc.
func (s *Store) readNear(g *segment, loc Loc, d *Digest, p []byte, off int64) (int, error) {
	if len(p) == 0 || off%blockSize+int64(len(p)) > blockSize {
		return s.readFrom(g, loc, *d, p, off)
	}
	if s.hot.read(d, p, off) {
		return len(p), nil
	}
	age := s.hot.age.Load()
	n, err := s.readFrom(g, loc, *d, p, off)
	if err == nil && n > 0 {
		s.hot.offer(d, p[:n], off, age)
	}
	return n, err
}

// readElsewhere goes on after a read at tried has failed: the chunk may have
// moved, have been evicted, or be damaged. A place is given up only if, after a
// failed read, it is still the place on record: an evicted place is taken off
// the record before its bytes are freed.
func (s *Store) readElsewhere(tried Loc, d Digest, p []byte, off int64) (Loc, int, error) {
	var failed error // at the place tried last, if known
	for range 4 {    // more than one turn only if the chunk has just moved
		loc, ok := s.places.get(d) // right, if the chunk has moved
		if !ok || loc == tried || s.segment(loc.segment()) == nil {
			loc, ok = s.present(d)
		}
		if !ok {
			break
		}
		if loc == tried && failed != nil && !errors.Is(failed, fs.ErrClosed) {
			if !isDamage(failed) {
				return 0, 0, chunkError(fserr.Unavailable, "read", d, failed)
			}
			s.dropDamaged(d, loc, failed)
			break
		}
		tried = loc
		g := s.segment(loc.segment())
		if g == nil {
			continue
		}
		var n int
		if n, failed = s.readFrom(g, loc, d, p, off); failed == nil {
			s.places.put(d, loc)
			return loc, n, nil
		}
	}
	return 0, 0, ErrNotFound
}

// dropDamaged forgets a record that failed its check.
func (s *Store) dropDamaged(d Digest, loc Loc, why error) {
	if s.dropPlace(d, loc) {
		s.count.corrupt.Add(1)
		s.log.Warn("damaged chunk dropped", zap.Stringer("loc", loc), zap.Error(why))
	}
}

// isDamage tells a record that is lost from one that cannot be read just now,
// for want of descriptors or memory.
func isDamage(err error) bool {
	return errors.Is(err, errStale) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, syscall.EIO) || errors.Is(err, fs.ErrNotExist)
}

// readFrom reads from the record at loc; any error means that it cannot.
func (s *Store) readFrom(g *segment, loc Loc, d Digest, p []byte, off int64) (int, error) {
	f, err := s.open(g)
	if err != nil {
		return 0, err
	}
	m := s.metas.get(loc)
	if m == nil {
		return s.readRecord(f, loc, d, p, off)
	}
	if m.digest != d {
		return 0, errStale
	}
	return s.readPayload(f, loc.offset(), m.size, m.table, p, off)
}

// readRecord reads from a record of which nothing is known but its place.
func (s *Store) readRecord(f File, loc Loc, d Digest, p []byte, off int64) (int, error) {
	buf := s.getScratch()
	defer s.putScratch(buf)
	blocks := loc.blocks()
	want := headerSize + blocks*sumSize
	if blocks == manyBlocks {
		want = headerSize
	} else if blocks <= wholeRecord {
		want += blocks * blockSize
	}
	rec := buf.grow(want)
	n, err := f.ReadAt(rec, loc.offset())
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	h, ok := decodeHeader(rec[:n], place{cookie: s.cookie, segment: loc.segment(), unit: loc.unit()})
	if !ok || h.digest != d {
		return 0, errStale
	}
	head := int(headerSize + tableSize(h.size))
	if blocks == manyBlocks {
		rec = buf.grow(head)
		if n, err = f.ReadAt(rec, loc.offset()); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
	}
	if n < head || len(rec) < head || checksum(rec[headerSize:head]) != h.tableSum {
		return 0, errStale
	}
	if blocks <= wholeRecord && blocks == int(blockCount(h.size)) {
		if int64(n-head) < h.size {
			return 0, errStale
		}
		return copyVerified(p, rec[head:head+int(h.size)], rec[headerSize:head], off)
	}
	s.metas.offer(loc, h, rec[headerSize:head])
	return s.readPayload(f, loc.offset(), h.size, rec[headerSize:head], p, off)
}

// copyVerified copies from a payload held whole, after checking the blocks
// touched.
func copyVerified(p, payload, table []byte, off int64) (int, error) {
	if off >= int64(len(payload)) || len(p) == 0 {
		return 0, nil
	}
	end := min(off+int64(len(p)), int64(len(payload)))
	for i := off / blockSize; i*blockSize < end; i++ {
		block := payload[i*blockSize : min((i+1)*blockSize, int64(len(payload)))]
		if checksum(block) != tableEntry(table, int(i)) {
			return 0, errStale
		}
	}
	return copy(p, payload[off:end]), nil
}

// readPayload reads straight into p. Where p begins or ends inside a block, the
// rest of that block goes to scratch, with the same call, for its checksum.
func (s *Store) readPayload(f File, record, size int64, table, p []byte, off int64) (int, error) {
	if off >= size || len(p) == 0 {
		return 0, nil
	}
	p = p[:min(int64(len(p)), size-off)]
	end := off + int64(len(p))
	first := off / blockSize
	before := int(off % blockSize)
	after := int(min(align(end, blockSize), size) - end)

	buf := s.getScratch()
	defer s.putScratch(buf)
	head, tail := buf.head[:before], buf.tail[:after]
	buf.vec[0], buf.vec[1], buf.vec[2] = head, p, tail
	start := record + headerSize + tableSize(size) + first*blockSize
	n, err := f.ReadVAt(buf.vec[:], start)
	buf.vec[1] = nil // the pool must not keep p alive
	if n < before+len(p)+after {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	if !blocksMatch(head, p, tail, table[first*sumSize:]) {
		return 0, errStale
	}
	return len(p), nil
}

// blocksMatch checks the blocks that head, p and tail make up together; head
// and tail are shorter than a block.
func blocksMatch(head, p, tail, table []byte) bool {
	i := 0
	if len(head) > 0 {
		n := min(blockSize-len(head), len(p))
		sum := crc32c.Update(checksum(head), p[:n])
		if p = p[n:]; len(p) == 0 {
			return crc32c.Update(sum, tail) == tableEntry(table, 0)
		}
		if sum != tableEntry(table, 0) {
			return false
		}
		i++
	}
	for ; len(p) >= blockSize; i++ {
		if checksum(p[:blockSize]) != tableEntry(table, i) {
			return false
		}
		p = p[blockSize:]
	}
	if len(p) == 0 {
		return true
	}
	return crc32c.Update(checksum(p), tail) == tableEntry(table, i)
}

// scratch is the working memory of one read or write.
type scratch struct {
	head, tail [blockSize]byte
	vec        [3][]byte
	rec        []byte
}

// maxScratch bounds what a pooled buffer may keep.
const maxScratch = 256 << 10

// grow gives n bytes of buffer, of unspecified content.
func (b *scratch) grow(n int) []byte {
	if cap(b.rec) < n {
		b.rec = make([]byte, n, max(n, (wholeRecord+1)*blockSize))
	}
	b.rec = b.rec[:n]
	return b.rec
}

func (s *Store) getScratch() *scratch { return s.scratch.Get().(*scratch) }

func (s *Store) putScratch(b *scratch) {
	if cap(b.rec) > maxScratch {
		b.rec = nil
	}
	s.scratch.Put(b)
}

const (
	metaSlots = 1024
	// metaTable is the largest checksum table kept: of a payload of 4 MiB.
	metaTable = 4 << 10
)

// recordMeta is what a read needs to know of a record. It stays true as long as
// the record is there, since records never change and segment ids are never
// used again; where the record is gone, the payload fails its checksums.
type recordMeta struct {
	loc    Loc
	digest Digest
	size   int64
	table  []byte
}

// metaCache keeps the headers of records that are read in many pieces, at most
// metaSlots times 4 KiB. A record is admitted when it is met a second time.
type metaCache struct {
	slots [metaSlots]struct {
		meta atomic.Pointer[recordMeta]
		met  atomic.Uint64
	}
}

func metaSlot(loc Loc) uint64 {
	return uint64(loc) >> locBlockBits * 0x9e3779b97f4a7c15 >> 54 // the top 10 bits
}

func (c *metaCache) get(loc Loc) *recordMeta {
	if m := c.slots[metaSlot(loc)].meta.Load(); m != nil && m.loc == loc {
		return m
	}
	return nil
}

func (c *metaCache) offer(loc Loc, h header, table []byte) {
	slot := &c.slots[metaSlot(loc)]
	if len(table) > metaTable || slot.met.Swap(uint64(loc)) != uint64(loc) {
		return
	}
	m := &recordMeta{loc: loc, digest: h.digest, size: h.size, table: append([]byte(nil), table...)}
	slot.meta.Store(m)
}

func (c *metaCache) forget(loc Loc) {
	slot := &c.slots[metaSlot(loc)]
	if m := slot.meta.Load(); m != nil && m.loc == loc {
		slot.meta.CompareAndSwap(m, nil)
	}
}
