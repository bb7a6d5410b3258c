package chunkstore

import (
	"context"
	"slices"

	"go.uber.org/zap"
)

// Chunks are of two kinds, as in the 2Q algorithm. One that was put is on
// probation. If it was read again by the time the first hand comes by, it is
// proven; else it goes. That hand moves only while more than a share of the
// store is on probation: what is read once, be it ever so much, pushes out
// nothing but its like. The second hand takes from the proven chunks those that
// were not read since it last came by. Where both find too little, the second goes
// round again for whatever was not read lately, and then for whatever there is but
// for the pinned.

const (
	// probationShare: a part of the limit this small may be on probation before
	// the first hand takes any of it.
	probationShare = 8
	// maxSpared is how many records a hand spares in one sweep before the next
	// hand is tried: a bound on how long Put waits if everything is in use.
	maxSpared = 1 << 14
	// nearlyProven: a segment of which less than this share is on probation is
	// passed over by the first hand.
	nearlyProven = 32
)

// The kinds of sweeps, in the order in which they are tried.
const (
	sweepProbation = iota
	sweepProven
	sweepCold
	sweepAny
	sweepKinds
)

// handOf gives the hand that makes a sweep.
func (s *Store) handOf(kind int) *hand { return &s.hands[min(kind, sweepProven)] }

// hand is a place among the segments, which are in the order of their ids.
type hand struct{ segment, unit uint32 }

// sweepAll moves the hands over the closed segments, in order of age, until want
// bytes are freed or stop says so. evictMu is held.
func (s *Store) sweepAll(stop func() bool, want int64) int64 {
	freed := int64(0)
	for kind := range sweepKinds {
		spared, quota := 0, int64(0)
		if kind == sweepProbation {
			quota = s.onProbation() - s.probationQuota() // that may be taken or proven
		}
		for _, g := range s.fromHand(kind) {
			if freed >= want || stop() || kind != sweepAny && spared > maxSpared || kind == sweepProbation && quota <= 0 {
				break
			}
			if g.passesOver(kind) {
				*s.handOf(kind) = hand{segment: g.id + 1}
				continue
			}
			before, unproven := g.charge.Load(), g.onProbation()
			spared += s.sweep(g, want-freed, kind)
			freed += before - g.charge.Load()
			quota -= unproven - g.onProbation()
		}
	}
	s.count.evictedBytes.Add(freed)
	return freed
}

// passesOver says that a sweep need not look into the segment.
func (g *segment) passesOver(kind int) bool {
	switch kind {
	case sweepProbation:
		return g.onProbation() < g.charge.Load()/nearlyProven
	case sweepProven:
		return g.provenBytes.Load() == 0
	}
	return false
}

func ended(ctx context.Context) func() bool {
	return func() bool { return ctx.Err() != nil }
}

// onProbation is about how many bytes of a closed segment are of records that
// are not proven. evictMu is held.
func (g *segment) onProbation() int64 {
	data := g.charge.Load() - max(0, diskCharge(g.size.Load()-g.dataEnd))
	return max(0, data-g.provenBytes.Load())
}

func (s *Store) onProbation() int64 {
	var n int64
	for _, g := range s.segments() {
		if g.is(stateClosed) {
			n += g.onProbation()
		}
	}
	return n
}

// probationQuota is a share of the limit, or of what there is.
func (s *Store) probationQuota() int64 {
	if s.opt.MaxBytes > 0 {
		return s.opt.MaxBytes / probationShare
	}
	return s.used.Load() / probationShare
}

// fromHand gives the closed segments in the order the hand meets them.
func (s *Store) fromHand(kind int) []*segment {
	list := slices.DeleteFunc(s.segments(), func(g *segment) bool { return !g.is(stateClosed) })
	i, _ := slices.BinarySearchFunc(list, s.handOf(kind).segment, func(g *segment, id uint32) int {
		return int(int64(g.id) - int64(id))
	})
	return append(list[i:len(list):len(list)], list[:i]...)
}

// sweep frees up to about want bytes of one segment, from where the hand is in
// it, and moves the hand. It says how many records it spared.
func (s *Store) sweep(g *segment, want int64, kind int) int {
	h := s.handOf(kind)
	from := uint32(0)
	if g.id == h.segment {
		from = h.unit
	}
	*h = hand{segment: g.id + 1}
	entries, err := s.entriesOf(g)
	if err != nil && !isDamage(err) {
		s.log.Warn("segment passed over", zap.String("path", g.path), zap.Error(err))
		return 0
	}
	live := slices.DeleteFunc(entries, func(e entry) bool {
		loc, ok := s.lookup(e.digest)
		return !ok || loc != e.loc(g.id)
	})
	if s.noHoles.Load() {
		from, want = 0, 1<<62 // space comes back only with the whole file
	}
	c := choose(g, live, from, want, kind, s.pins.Load())
	if c.stopped {
		*h = hand{segment: g.id, unit: c.next}
	}
	s.carryOut(g, c)
	return len(c.keep)
}

// choice is what becomes of a segment's records.
type choice struct {
	keep, victims []entry
	stopped       bool   // enough was found before the segment's end
	next          uint32 // where to go on then
}

// choose splits a segment's live records into those to keep and those to evict;
// it judges those from one unit on, until it has found want bytes. A file block
// is judged as a whole, but for pins.
func choose(g *segment, live []entry, from uint32, want int64, kind int, pins *pinned) (c choice) {
	block, now := int64(-1), spare
	for i, e := range live {
		if want <= 0 {
			c.keep = append(c.keep, live[i:]...)
			c.stopped, c.next = true, e.unit
			return c
		}
		if e.unit < from {
			c.keep = append(c.keep, e)
			continue
		}
		if b := e.offset() / blockSize; b != block {
			block, now = b, g.judge(e.unit, kind)
		}
		if now == promote {
			g.prove(e.unit, e.loc(g.id))
		}
		if now != take || pins.has(e.digest) {
			c.keep = append(c.keep, e)
			continue
		}
		c.victims = append(c.victims, e)
		want -= recordSize(int64(e.size))
	}
	return c
}

// verdict is what a hand does with a block.
type verdict int

const (
	spare verdict = iota
	promote
	take
)

// judge says what a hand does with the block at unit, and takes its heat away.
func (g *segment) judge(unit uint32, kind int) verdict {
	proven := g.isProven(unit)
	switch kind {
	case sweepProbation:
		switch {
		case proven:
			return spare
		case g.cool(unit):
			return promote
		}
		return take
	case sweepProven:
		if !proven || g.cool(unit) {
			return spare
		}
		return take
	case sweepCold:
		if g.cool(unit) {
			return spare
		}
		return take
	}
	return take
}
