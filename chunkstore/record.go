package chunkstore

import (
	"encoding/binary"

	"github.com/nineply/nineply/internal/crc32c"
)

// Sizes of the on-disk format; docs/format-chunkstore.md draws them.
const (
	// unitSize is the alignment of records and of everything else in a segment.
	unitSize = 64
	// blockSize is how much payload one checksum covers, and also the smallest
	// piece a file system frees when a hole is punched.
	blockSize = 4096
	// headerSize is the fixed part of a record.
	headerSize = 64
	// sumSize is one entry of a record's checksum table.
	sumSize = 4

	recordMagic   = 0x5243504e // "NPCR"
	recordVersion = 1
	blockShift    = 12
)

// MaxChunk is the largest payload [Store.Put] takes, in bytes.
const MaxChunk = 64 << 20

func checksum(p []byte) uint32 { return crc32c.Sum(p) }

func blockCount(payload int64) int64 { return (payload + blockSize - 1) / blockSize }

func align(n, to int64) int64 { return (n + to - 1) / to * to }

// tableSize is the length of the checksum table of a payload.
func tableSize(payload int64) int64 { return blockCount(payload) * sumSize }

// recordSize is what a record of this payload takes in a segment, padding
// included.
func recordSize(payload int64) int64 {
	return align(headerSize+tableSize(payload)+payload, unitSize)
}

// header is the decoded fixed part of a record.
type header struct {
	digest   Digest
	size     int64  // payload bytes
	tableSum uint32 // checksum of the checksum table
}

// place is where a record claims to be. It is part of the header's checksum, so
// that a record is valid only there.
type place struct {
	cookie  uint64
	segment uint32
	unit    uint32
}

// encodeHeader writes h into buf[:headerSize].
func encodeHeader(buf []byte, h header, at place) {
	buf = buf[:headerSize]
	le := binary.LittleEndian
	le.PutUint32(buf[0:], recordMagic)
	buf[4], buf[5], buf[6], buf[7] = recordVersion, blockShift, 0, 0
	le.PutUint64(buf[8:], at.cookie)
	copy(buf[16:48], h.digest[:])
	le.PutUint32(buf[48:], uint32(h.size))
	le.PutUint32(buf[52:], h.tableSum)
	le.PutUint32(buf[56:], 0)
	le.PutUint32(buf[60:], headerSum(buf, at))
}

// headerSum covers the header and, without storing it, the place.
func headerSum(buf []byte, at place) uint32 {
	x := at.segment*0x9e3779b1 ^ at.unit*0x85ebca6b
	return crc32c.Update(x, buf[:60])
}

// looksLikeHeader is the cheap test for resynchronising: magic and cookie.
func looksLikeHeader(buf []byte, cookie uint64) bool {
	le := binary.LittleEndian
	return le.Uint32(buf) == recordMagic && le.Uint64(buf[8:]) == cookie
}

// decodeHeader gives the header in buf, if there is a whole and valid one that
// belongs at this place.
func decodeHeader(buf []byte, at place) (h header, ok bool) {
	if len(buf) < headerSize || !looksLikeHeader(buf, at.cookie) {
		return h, false
	}
	buf = buf[:headerSize]
	le := binary.LittleEndian
	if buf[4] != recordVersion || buf[5] != blockShift || le.Uint32(buf[60:]) != headerSum(buf, at) {
		return h, false
	}
	h.digest = Digest(buf[16:48])
	h.size = int64(le.Uint32(buf[48:]))
	h.tableSum = le.Uint32(buf[52:])
	return h, h.size <= MaxChunk
}

// tableEntry is the i-th checksum of an encoded table.
func tableEntry(table []byte, i int) uint32 {
	return binary.LittleEndian.Uint32(table[i*sumSize:])
}
