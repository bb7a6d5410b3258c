package crc32c

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	// foldBytes is what one step of fold takes.
	foldBytes = 256
	// foldFrom is the length from which on folding is the faster way.
	foldFrom = foldBytes
)

// Sum gives the checksum of p.
func Sum(p []byte) uint32 { return Update(0, p) }

// Update gives the checksum of what has the checksum sum, followed by p.
func Update(sum uint32, p []byte) uint32 {
	if len(p) >= foldFrom && folds() {
		n := len(p) &^ (foldBytes - 1)
		sum = ^fold(^sum, &p[0], n)
		if p = p[n:]; len(p) == 0 {
			return sum
		}
	}
	return crc32.Update(sum, castagnoli, p)
}
