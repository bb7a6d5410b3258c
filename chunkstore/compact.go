package chunkstore

import (
	"context"
	"fmt"
	"slices"

	"go.uber.org/zap"
)

const (
	// sparseShare: a segment of which less than this share is left is worth
	// emptying.
	sparseShare = 8
	// sparseCount is how many of them are emptied at once.
	sparseCount = 4
)

// compact moves what is left in nearly empty segments to a new one, so that the
// number of files, and the space lost at the edges of holes, stay bounded. A
// place moved from is found wanting by the reader, who looks the chunk up again.
func (s *Store) compact(ctx context.Context) {
	s.evictMu.Lock()
	defer s.evictMu.Unlock()
	list := slices.DeleteFunc(s.segments(), func(g *segment) bool { return !s.sparse(g) })
	if len(list) < sparseCount {
		return
	}
	need := int64(blockSize)
	for i, g := range list {
		need += g.charge.Load()
		if i >= sparseCount && need > s.opt.SegmentBytes {
			list = list[:i]
			break
		}
	}
	if s.overLimit(need) > 0 || s.indexRoom() != nil {
		return
	}
	if err := s.merge(ctx, list); err != nil {
		s.log.Warn("compaction", zap.String("dir", s.opt.Dir), zap.Error(err))
	}
}

func (s *Store) sparse(g *segment) bool {
	return g.is(stateClosed) && g.sealed.Load() && g.charge.Load() < s.opt.SegmentBytes/sparseShare && g.punched.Load() > 0
}

// merge copies the live records of the segments to a new one, seals that, and
// unlinks them. evictMu is held.
func (s *Store) merge(ctx context.Context, list []*segment) error {
	to, err := s.createSegment()
	if err != nil {
		return err
	}
	to.become(stateSealing)
	for _, g := range list {
		if err = s.moveRecords(ctx, g, to); err != nil {
			break
		}
	}
	if serr := s.seal(to); serr != nil {
		return serr // the old segments stay; what was moved is in both
	}
	if err != nil {
		return err
	}
	for _, g := range list {
		if err := s.removeSegment(g, nil); err != nil {
			return err
		}
	}
	return nil
}

// moveRecords copies the live records of g to the end of another segment.
// Damaged ones are dropped.
func (s *Store) moveRecords(ctx context.Context, g, to *segment) error {
	entries, err := s.entriesOf(g)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		old := e.loc(g.id)
		if cur, ok := s.lookup(e.digest); !ok || cur != old {
			continue
		}
		data := make([]byte, e.size)
		n, err := s.readFrom(g, old, e.digest, data, 0)
		if err != nil && !isDamage(err) {
			return err
		}
		v := Hash(data[:n])
		if v.digest != e.digest {
			s.dropDamaged(e.digest, old, fmt.Errorf("while moving it: %w", errStale))
			continue
		}
		loc, err := s.write(to, &v)
		if err != nil {
			return err
		}
		s.movePlace(e.digest, old, loc)
	}
	return nil
}

// movePlace records that d is at loc, if it is still at old on record.
func (s *Store) movePlace(d Digest, old, loc Loc) {
	s.placeMu.Lock()
	defer s.placeMu.Unlock()
	if cur, ok := s.lookup(d); !ok || cur != old {
		return
	}
	s.setPending(d, loc)
	s.count.moved.Add(1)
	if g := s.segment(old.segment()); g != nil {
		g.live.Add(-1)
		to := s.segment(loc.segment())
		if g.cool(old.unit()) {
			to.touch(loc.unit())
		}
		if g.isProven(old.unit()) {
			g.unprove(old)
			to.prove(loc.unit(), loc)
		}
	}
}
