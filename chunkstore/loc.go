package chunkstore

import "fmt"

// Digest is a chunk's sha256: its only name.
type Digest = [32]byte

// Loc is the place of one record: segment number, offset and size class in one
// word. The zero Loc is no place. A Loc is a hint that may go stale when its
// chunk is evicted, moved or dropped: [Store.ReadAt] checks that the record it
// finds there is the wanted one. It means nothing to another Store.
type Loc uint64

// A Loc holds, from the highest bit: the segment id, the record's offset in
// units, and the number of payload blocks, which tells how long the record's
// checksum table is before its header has been read.
const (
	locSegmentBits = 28
	locUnitBits    = 24
	locBlockBits   = 12

	// maxSegmentID is the last id there is: 2^28 segments of 64 MiB are 16 EiB.
	maxSegmentID = 1<<locSegmentBits - 1
	// manyBlocks stands for this many payload blocks or more.
	manyBlocks = 1<<locBlockBits - 1
	// maxSegmentSize bounds where a record may begin.
	maxSegmentSize = 1 << locUnitBits * unitSize
)

func makeLoc(segment, unit uint32, payload int64) Loc {
	return Loc(segment)<<(locUnitBits+locBlockBits) |
		Loc(unit)<<locBlockBits |
		Loc(min(blockCount(payload), manyBlocks))
}

func (l Loc) segment() uint32 { return uint32(l >> (locUnitBits + locBlockBits)) }

// unit is the record's offset in units of unitSize.
func (l Loc) unit() uint32 { return uint32(l>>locBlockBits) & (1<<locUnitBits - 1) }

// blocks is the number of payload blocks, or manyBlocks.
func (l Loc) blocks() int { return int(l & manyBlocks) }

// offset is the record's first byte in its segment file.
func (l Loc) offset() int64 { return int64(l.unit()) * unitSize }

// String is for messages: segment and offset in hexadecimal.
func (l Loc) String() string {
	return fmt.Sprintf("%08x+%x", l.segment(), l.offset())
}
