package chunkstore

import (
	"context"
	"encoding/binary"
	"slices"

	"go.uber.org/zap"
)

// EachChunk calls fn with the digest of every chunk that is stored, in no order,
// until fn fails. Chunks put or evicted meanwhile may be left out, or still be in.
func (s *Store) EachChunk(ctx context.Context, fn func(Digest) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	recent := s.recent(func(uint32) bool { return true })
	err := s.db.walk([]byte{prefixChunk}, func(key, val []byte) error {
		if len(key) != 1+len(Digest{}) {
			return nil
		}
		d := Digest(key[1:])
		if _, ok := recent[d]; ok || s.segment(decodeLoc(val).segment()) == nil {
			return ctx.Err()
		}
		return fn(d)
	})
	if err != nil {
		return err
	}
	for d, loc := range recent {
		if loc == 0 || s.segment(loc.segment()) == nil {
			continue
		}
		if err := fn(d); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// EvictTo evicts until the store takes at most target bytes, and returns how many
// bytes it freed: less than that wants if the rest is pinned or being written.
func (s *Store) EvictTo(ctx context.Context, target int64) (int64, error) {
	return s.trim(ctx, func() int64 {
		over := s.used.Load() - target
		if over <= 0 {
			return 0
		}
		return s.sweepAll(ended(ctx), over)
	})
}

// Retain evicts every chunk but those that keep says are to stay and those that
// are pinned, and returns how many bytes it freed.
func (s *Store) Retain(ctx context.Context, keep func(Digest) bool) (int64, error) {
	return s.trim(ctx, func() int64 {
		freed := int64(0)
		for _, g := range s.segments() {
			if g.is(stateClosed) && ctx.Err() == nil {
				before := g.charge.Load()
				s.retain(g, keep)
				freed += before - g.charge.Load()
			}
		}
		s.count.evictedBytes.Add(freed)
		return freed
	})
}

// trim runs evict after the active segment was closed, so that all is within its
// reach, and merges what has become sparse.
func (s *Store) trim(ctx context.Context, evict func() int64) (int64, error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	if err := s.lockAppend(ctx); err != nil {
		return 0, err
	}
	err := s.closeActive(ctx)
	s.unlockAppend()
	if err != nil {
		return 0, err
	}
	s.evictMu.Lock()
	freed := evict()
	s.evictMu.Unlock()
	s.compact(ctx)
	return freed, ctx.Err()
}

// retain evicts from one segment; evictMu is held.
func (s *Store) retain(g *segment, keep func(Digest) bool) {
	entries, err := s.entriesOf(g)
	if err != nil && !isDamage(err) {
		s.log.Warn("segment passed over", zap.String("path", g.path), zap.Error(err))
		return
	}
	pins := s.pins.Load()
	var c choice
	for _, e := range entries {
		loc, ok := s.lookup(e.digest)
		switch {
		case !ok || loc != e.loc(g.id): // dead
		case pins.has(e.digest) || keep(e.digest):
			c.keep = append(c.keep, e)
		default:
			c.victims = append(c.victims, e)
		}
	}
	s.carryOut(g, c)
}

// carryOut evicts what was chosen.
func (s *Store) carryOut(g *segment, c choice) {
	var err error
	switch {
	case len(c.keep) == 0:
		err = s.removeSegment(g, c.victims)
	case len(c.victims) > 0 && !s.noHoles.Load():
		err = s.shrink(g, c.keep, c.victims)
	}
	if err != nil {
		s.log.Warn("eviction", zap.String("path", g.path), zap.Error(err))
	}
}

// Keys is a set of chunks by their [PinKey]: 8 bytes each.
type Keys struct{ sorted []uint64 }

// NewKeys makes a set of the list, which it takes over.
func NewKeys(list []uint64) Keys { return Keys{compactSorted(list)} }

// Has says whether the chunk, or another with the same key, is in the set.
func (k Keys) Has(d Digest) bool {
	_, ok := slices.BinarySearch(k.sorted, PinKey(d))
	return ok
}

// Len is the number of chunks.
func (k Keys) Len() int { return len(k.sorted) }

// All gives the keys in order.
func (k Keys) All() []uint64 { return k.sorted }

// Encode gives the set as bytes, eight for each chunk.
func (k Keys) Encode() []byte {
	buf := make([]byte, 0, 8*len(k.sorted))
	for _, key := range k.sorted {
		buf = binary.BigEndian.AppendUint64(buf, key)
	}
	return buf
}

// DecodeKeys is the inverse of [Keys.Encode]. It takes any bytes: a part of eight
// at the end is left out.
func DecodeKeys(buf []byte) Keys {
	list := make([]uint64, 0, len(buf)/8)
	for ; len(buf) >= 8; buf = buf[8:] {
		list = append(list, binary.BigEndian.Uint64(buf))
	}
	return NewKeys(list)
}
