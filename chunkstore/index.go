package chunkstore

import (
	"encoding/binary"
	"errors"
)

// index is the ordered key-value database behind the store. What it loses is
// rebuilt; what it gets wrong is found out by the checks of a read.
type index interface {
	// intact is false if part of the content may have been lost.
	intact() bool
	// get calls fn with the value, valid only during the call. errNoKey if
	// there is none.
	get(key []byte, fn func(val []byte) error) error
	// apply makes the changes, in order, as soon as a process death cannot
	// undo them.
	apply(changes []change) error
	// sync makes everything applied survive a power cut.
	sync() error
	// walk calls fn for each key with the prefix, in order, until fn fails.
	// Both slices are valid only during the call.
	walk(prefix []byte, fn func(key, val []byte) error) error
	close() error
}

// change sets a key, or deletes it if val is nil.
type change struct{ key, val []byte }

var errNoKey = errors.New("no such key")

// The key spaces.
const (
	prefixMeta    = 'm' // name -> what belongs to the database as a whole
	prefixChunk   = 'c' // digest -> Loc
	prefixSegment = 's' // segment id, big-endian -> summary
	prefixHeat    = 'h' // segment id, big-endian -> touched bits
	prefixRecord  = 'r' // name -> caller's value
)

func chunkKey(d Digest) []byte {
	return append(append(make([]byte, 0, 1+len(d)), prefixChunk), d[:]...)
}

func segmentKey(prefix byte, id uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefix}, id)
}

func encodeLoc(l Loc) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(l)) }

func decodeLoc(val []byte) Loc {
	if len(val) != 8 {
		return 0
	}
	return Loc(binary.LittleEndian.Uint64(val))
}

// summary is what the database knows of a sealed segment, so that it need not
// be read at open.
type summary struct {
	size, punched, dataEnd int64
	live                   int64
	indexSum               uint32
	swept                  bool
}

const summarySize = 40

func (s summary) encode() []byte {
	le := binary.LittleEndian
	buf := make([]byte, summarySize)
	le.PutUint64(buf[0:], uint64(s.size))
	le.PutUint64(buf[8:], uint64(s.punched))
	le.PutUint64(buf[16:], uint64(s.dataEnd))
	le.PutUint32(buf[24:], uint32(s.live))
	le.PutUint32(buf[28:], s.indexSum)
	if s.swept {
		buf[32] = 1
	}
	le.PutUint32(buf[36:], checksum(buf[:36]))
	return buf
}

func decodeSummary(buf []byte) (summary, bool) {
	le := binary.LittleEndian
	if len(buf) != summarySize || le.Uint32(buf[36:]) != checksum(buf[:36]) {
		return summary{}, false
	}
	s := summary{
		size:     int64(le.Uint64(buf[0:])),
		punched:  int64(le.Uint64(buf[8:])),
		dataEnd:  int64(le.Uint64(buf[16:])),
		live:     int64(le.Uint32(buf[24:])),
		indexSum: le.Uint32(buf[28:]),
		swept:    buf[32] == 1,
	}
	return s, s.size > 0 && s.punched >= 0 && s.punched <= align(s.size, blockSize)
}
