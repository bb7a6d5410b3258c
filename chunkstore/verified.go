package chunkstore

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/nineply/nineply/internal/fserr"
)

// Verified is a chunk that was hashed, with the bytes it was hashed from: the one
// thing a [Store] takes. Only [Verify] and [Hash] make one, so that a store cannot
// be given bytes under a digest that is not theirs, and whoever has to verify them
// for a reason of his own need not have it done twice.
//
// It holds on to the bytes, which must not change any more. If they do, the chunk
// is lost, not falsified: the checksums that go into its record are made together
// with the digest, so that a read finds the record damaged.
type Verified struct {
	digest Digest
	data   []byte
	table  []byte // of the record; nil in what nobody has verified
}

// hashPiece is how much is hashed before its checksums are made, bytes: few
// enough to be in the processor's cache still.
const hashPiece = 64 << 10

// Verify is [Hash] for data that must be what d says: otherwise it fails with
// ErrDigest. Like [Store.Put], it takes at most MaxChunk bytes.
func Verify(d Digest, data []byte) (Verified, error) {
	if len(data) > MaxChunk {
		return Verified{}, chunkError(fserr.TooLarge, "verify", d, fmt.Errorf("%d bytes, at most %d", len(data), MaxChunk))
	}
	v := Hash(data)
	if v.digest != d {
		return Verified{}, chunkError(fserr.Corrupt, "verify", d, ErrDigest)
	}
	return v, nil
}

// Hash gives data the name it has.
func Hash(data []byte) Verified {
	v := Verified{data: data, table: make([]byte, 0, tableSize(int64(len(data))))}
	if len(data) <= hashPiece {
		v.digest = sha256.Sum256(data)
		v.table = appendTable(v.table, data)
		return v
	}
	h := sha256.New()
	for rest := data; len(rest) > 0; {
		piece := rest[:min(len(rest), hashPiece)]
		h.Write(piece) // never fails
		v.table = appendTable(v.table, piece)
		rest = rest[len(piece):]
	}
	h.Sum(v.digest[:0])
	return v
}

// Digest is the sha256 of the bytes.
func (v *Verified) Digest() Digest { return v.digest }

// Data is the bytes, which must not be changed.
func (v *Verified) Data() []byte { return v.data }

// ok tells a chunk that was hashed from the zero Verified.
func (v *Verified) ok() bool { return v.table != nil }

// appendTable adds the checksums of payload's blocks to an encoded table.
func appendTable(table, payload []byte) []byte {
	for len(payload) > 0 {
		n := min(len(payload), blockSize)
		table = binary.LittleEndian.AppendUint32(table, checksum(payload[:n]))
		payload = payload[n:]
	}
	return table
}
