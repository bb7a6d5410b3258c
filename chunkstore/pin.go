package chunkstore

import (
	"encoding/binary"
	"fmt"
	"iter"
	"slices"

	"github.com/nineply/nineply/internal/fserr"
)

// MaxPinned is how many chunks can be pinned at once: 8 bytes of memory each.
const MaxPinned = 4 << 20

// PinKey is what a pin remembers of a digest, 64 bits of it. Another chunk with
// the same bits would stay, too, which does no harm.
func PinKey(d Digest) uint64 { return binary.BigEndian.Uint64(d[:]) }

// SetPinned says which chunks must stay: no others than these, by their
// [PinKey]. They are not evicted, for whatever reason, and count as usual against
// the limit; when nothing else is left to evict, Put fails with ErrNoSpace. Chunks
// that are not there yet are pinned as soon as they are put. The store does not
// remember pins: set them after every open. fserr.TooLarge if there are more than
// MaxPinned; then those before stay.
func (s *Store) SetPinned(keys iter.Seq[uint64]) error {
	var p pinned
	for k := range keys {
		if len(p.keys) == 2*MaxPinned {
			p.keys = compactSorted(p.keys)
		}
		if len(p.keys) >= 2*MaxPinned {
			return tooManyPins()
		}
		p.keys = append(p.keys, k)
	}
	p.keys = compactSorted(p.keys)
	if len(p.keys) > MaxPinned {
		return tooManyPins()
	}
	p.keys = slices.Clip(p.keys)
	s.pins.Store(&p)
	return nil
}

func tooManyPins() error {
	return fserr.Newf(fserr.TooLarge, "pin", "chunks", "more than %d", MaxPinned)
}

func compactSorted(keys []uint64) []uint64 {
	slices.Sort(keys)
	return slices.Compact(keys)
}

// pinned is a set of chunks that must stay.
type pinned struct{ keys []uint64 } // sorted

func (p *pinned) count() int {
	if p == nil {
		return 0
	}
	return len(p.keys)
}

func (p *pinned) has(d Digest) bool {
	if p == nil {
		return false
	}
	_, ok := slices.BinarySearch(p.keys, PinKey(d))
	return ok
}

// full is the error of a store that has nothing left to evict.
func (s *Store) full() error {
	if n := s.pins.Load().count(); n > 0 {
		return fmt.Errorf("%w: what is left is pinned (%d chunks are) or just being written", ErrNoSpace, n)
	}
	return ErrNoSpace
}
