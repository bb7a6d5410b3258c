package chunkstore

import (
	"encoding/binary"
	"sync/atomic"
)

const (
	cacheWays = 4
	cacheSets = 1 << 13
)

// locCache remembers places by digest: 32 Ki of them in 512 KiB without a
// pointer, a lock or an allocation. A pair is stored as (key XOR loc, loc), so
// that a half-written pair matches no key. The key is 64 bits of the digest; a
// false match sends a reader to a record whose digest differs, which it notices.
type locCache struct {
	sets [cacheSets][cacheWays]locSlot
}

type locSlot struct{ mix, loc atomic.Uint64 }

func (c *locCache) set(d Digest) (*[cacheWays]locSlot, uint64) {
	h := binary.LittleEndian.Uint32(d[8:])
	return &c.sets[h%cacheSets], binary.LittleEndian.Uint64(d[:])
}

// get gives the place last put for d.
func (c *locCache) get(d Digest) (Loc, bool) {
	set, key := c.set(d)
	for i := range set {
		loc := set[i].loc.Load()
		if loc != 0 && set[i].mix.Load()^loc == key {
			return Loc(loc), true
		}
	}
	return 0, false
}

// put remembers loc for d, in place of an older place of d, in a free slot, or
// in place of the pair that has been there longest.
func (c *locCache) put(d Digest, loc Loc) {
	set, key := c.set(d)
	at := cacheWays - 1
	for i := range set {
		have := set[i].loc.Load()
		if have == 0 || set[i].mix.Load()^have == key {
			at = i
			break
		}
	}
	for ; at > 0; at-- {
		have := set[at-1].loc.Load()
		mix := set[at-1].mix.Load()
		set[at].store(mix^have, have)
	}
	set[0].store(key, uint64(loc))
}

// remove forgets d.
func (c *locCache) remove(d Digest) {
	set, key := c.set(d)
	for i := range set {
		if have := set[i].loc.Load(); have != 0 && set[i].mix.Load()^have == key {
			set[i].store(0, 0)
		}
	}
}

func (s *locSlot) store(key, loc uint64) {
	s.mix.Store(key ^ loc)
	s.loc.Store(loc)
}
