package chunkstore

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/nineply/nineply/internal/fserr"
)

// MaxPinned is how many chunks can be pinned at once: 8 bytes of memory each.
const MaxPinned = 4 << 20

// PinKey is what a pin remembers of a digest, 64 bits of it. Another chunk with
// the same bits would stay, too, which does no harm.
func PinKey(d Digest) uint64 { return binary.BigEndian.Uint64(d[:]) }

// SetPinned says which chunks must stay: these and no others. They are not
// evicted, for whatever reason, and count as usual against the limit; when nothing
// else is left to evict, Put fails with ErrNoSpace. Chunks that are not there yet
// are pinned as soon as they are put. The store does not remember pins: set them
// after every open. fserr.TooLarge if there are more than MaxPinned; then those
// before stay.
func (s *Store) SetPinned(keys Keys) error {
	if keys.Len() > MaxPinned {
		return fserr.Newf(fserr.TooLarge, "pin", "chunks", "%d, at most %d", keys.Len(), MaxPinned)
	}
	s.pins.Store(&pinned{keys})
	return nil
}

func compactSorted(keys []uint64) []uint64 {
	slices.Sort(keys)
	return slices.Compact(keys)
}

// pinned is the set of chunks that must stay; nil: none.
type pinned struct{ keys Keys }

func (p *pinned) count() int {
	if p == nil {
		return 0
	}
	return p.keys.Len()
}

func (p *pinned) has(d Digest) bool { return p != nil && p.keys.Has(d) }

// full is the error of a store that has nothing left to evict.
func (s *Store) full() error {
	if n := s.pins.Load().count(); n > 0 {
		return fmt.Errorf("%w: what is left is pinned (%d chunks are) or just being written", ErrNoSpace, n)
	}
	return ErrNoSpace
}
