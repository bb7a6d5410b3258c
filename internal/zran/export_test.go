package zran

import (
	"encoding/binary"
	"hash/crc32"
)

// Seal gives a file the checksum that belongs to its header and table, as far as
// there is one.
func Seal(file []byte) {
	le := binary.LittleEndian
	if len(file) < headerSize {
		return
	}
	row := int64(recordSize)
	if le.Uint32(file[72:])&flagDigests != 0 {
		row += digestSize
	}
	end := min(int64(len(file)), headerSize+row*int64(le.Uint32(file[12:])))
	le.PutUint32(file[headerCRC:], 0)
	le.PutUint32(file[headerCRC:], crc32.Checksum(file[:end], castagnoli()))
}
