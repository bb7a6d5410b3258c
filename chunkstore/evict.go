package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"go.uber.org/zap"
)

// secondChances is how many segments the hand passes, sparing what was read,
// before it takes what it finds.
const secondChances = 16

// Evict gives up chunks until wantFree bytes of disk have been freed, those not
// read for longest first, and returns how many bytes it freed. It can free less
// if there is not more: the active segment is not evicted from.
func (s *Store) Evict(ctx context.Context, wantFree int64) (int64, error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	return s.evict(ctx, wantFree)
}

// evictAhead keeps a little room below the limit, so that Put rarely waits.
func (s *Store) evictAhead() {
	limit := s.opt.MaxBytes
	over := s.used.Load() - (limit - limit/16)
	if limit == 0 || over <= 0 {
		return
	}
	s.evictMu.Lock()
	defer s.evictMu.Unlock()
	s.sweepAll(func() bool {
		select {
		case <-s.quit:
			return false
		default:
			return s.used.Load() > limit-limit/16
		}
	}, over)
}

func (s *Store) evict(ctx context.Context, want int64) (int64, error) {
	s.evictMu.Lock()
	defer s.evictMu.Unlock()
	freed := s.sweepAll(func() bool { return ctx.Err() == nil }, want)
	return freed, ctx.Err()
}

// sweepAll moves the hand over the closed segments, in order of age, until want
// bytes are freed or more says no. First it spares what was read since the hand
// last came by, for a bounded number of segments; then it takes all. evictMu is
// held.
func (s *Store) sweepAll(more func() bool, want int64) int64 {
	freed := int64(0)
	for _, force := range []bool{false, true} {
		passed := 0
		for _, g := range s.fromHand() {
			if freed >= want || !more() || !force && passed == secondChances {
				break
			}
			passed++
			n, done := s.sweep(g, want-freed, force)
			freed += n
			if done {
				s.hand = g.id + 1
			} else {
				s.hand = g.id
			}
		}
		if freed >= want || !more() {
			break
		}
	}
	s.count.evictedBytes.Add(freed)
	return freed
}

// fromHand gives the closed segments in the order the hand meets them.
func (s *Store) fromHand() []*segment {
	list := slices.DeleteFunc(s.segments(), func(g *segment) bool { return !g.is(stateClosed) })
	i, _ := slices.BinarySearchFunc(list, s.hand, func(g *segment, id uint32) int {
		return int(int64(g.id) - int64(id))
	})
	return append(list[i:len(list):len(list)], list[:i]...)
}

// sweep frees up to about want bytes of one segment and says how many, and
// whether the hand has come to its end.
func (s *Store) sweep(g *segment, want int64, force bool) (int64, bool) {
	entries, err := s.entriesOf(g)
	if errors.Is(err, fs.ErrClosed) {
		return 0, true
	}
	if err != nil {
		s.log.Warn("segment unreadable, removed", zap.String("path", g.path), zap.Error(err))
	}
	live := slices.DeleteFunc(entries, func(e entry) bool {
		loc, ok := s.lookup(e.digest)
		return !ok || loc != e.loc(g.id)
	})
	if s.noHoles.Load() {
		want = 1 << 62 // space comes back only with the whole file
	}
	keep, victims, done := choose(g, live, want, force)
	charge := g.charge.Load()
	switch {
	case len(keep) == 0:
		err = s.removeSegment(g, victims)
	case len(victims) == 0 || s.noHoles.Load():
		return 0, done
	default:
		err = s.shrink(g, keep, victims)
	}
	if err != nil {
		s.log.Warn("eviction", zap.String("path", g.path), zap.Error(err))
	}
	return charge - g.charge.Load(), done
}

// choose splits a segment's live records into those to keep and those to evict.
// A file block is hot or cold as a whole.
func choose(g *segment, live []entry, want int64, force bool) (keep, victims []entry, done bool) {
	block, hot := int64(-1), false
	for i, e := range live {
		if want <= 0 {
			return append(keep, live[i:]...), victims, false
		}
		if b := e.offset() / blockSize; b != block {
			block, hot = b, g.cool(e.unit)
		}
		if hot && !force {
			keep = append(keep, e)
			continue
		}
		victims = append(victims, e)
		want -= recordSize(int64(e.size))
	}
	return keep, victims, true
}

// entriesOf gives the records of a closed segment, dead ones among them.
func (s *Store) entriesOf(g *segment) ([]entry, error) {
	for range 3 {
		f, err := s.open(g)
		if err != nil {
			return nil, err
		}
		if g.sealed.Load() {
			entries, _, err := readIndex(f, g.size.Load(), g.id, s.cookie)
			if errors.Is(err, fs.ErrClosed) && !g.is(stateGone) {
				continue // the descriptor was given up in between
			}
			if err == nil {
				return entries, nil
			}
		}
		w := walker{r: f, size: g.size.Load(), at: place{cookie: s.cookie, segment: g.id}}
		return w.walk().entries, nil
	}
	return nil, fs.ErrClosed
}

func placesOf(g *segment, entries []entry) []placed {
	list := make([]placed, len(entries))
	for i, e := range entries {
		list[i] = placed{e.digest, e.loc(g.id)}
	}
	return list
}

// shrink evicts victims from g. First an index without them is made durable,
// then their places are taken off the record, and only then are their bytes
// freed. If there is no room for the index, the whole segment goes.
func (s *Store) shrink(g *segment, keep, victims []entry) error {
	index, err := s.writeFooter(g, keep, true)
	if err != nil {
		s.log.Warn("segment index not rewritten", zap.String("path", g.path), zap.Error(err))
		return s.removeSegment(g, append(keep, victims...))
	}
	s.placeMu.Lock()
	g.swept = true
	s.adoptFooter(g, index)
	s.recharge(g)
	s.placeMu.Unlock()
	if err := s.forgetChunks(placesOf(g, victims)); err != nil {
		return err
	}
	s.count.evictedChunks.Add(int64(len(victims)))
	return s.reclaim(g, keep)
}

// forgetChunks takes evicted places off the record, with other changes.
func (s *Store) forgetChunks(list []placed, also ...change) error {
	s.placeMu.Lock()
	defer s.placeMu.Unlock()
	_, err := s.dropPlaces(list, also...)
	return err
}

// reclaim frees all of a sealed segment that is neither a record to keep nor
// its index, and records what it takes then.
func (s *Store) reclaim(g *segment, keep []entry) error {
	f, err := s.open(g)
	if err != nil {
		return err
	}
	index := g.size.Load() - footerSize(len(keep))
	punched, from := int64(0), int64(superblockSize)
	for i := 0; i <= len(keep) && err == nil; i++ {
		to := index
		if i < len(keep) {
			to = keep[i].offset()
		}
		lo, hi := align(from, blockSize), to/blockSize*blockSize
		if hi > lo {
			if err = f.PunchHole(lo, hi-lo); err == nil {
				punched += hi - lo
			}
		}
		if i < len(keep) {
			from = keep[i].end()
		}
	}
	if errors.Is(err, errors.ErrUnsupported) {
		s.noHoles.Store(true)
		s.log.Info("file system cannot punch holes; space is freed by whole segments", zap.String("dir", s.opt.Dir))
		err = nil
	}
	s.placeMu.Lock()
	defer s.placeMu.Unlock()
	g.punched.Store(max(punched, g.punched.Load()))
	s.recharge(g)
	g.recorded = true
	return errors.Join(err, s.db.apply([]change{{segmentKey(prefixSegment, g.id), g.summary().encode()}}))
}

// removeSegment evicts all that is left of g.
func (s *Store) removeSegment(g *segment, live []entry) error {
	err := s.forgetChunks(placesOf(g, live),
		change{key: segmentKey(prefixSegment, g.id)}, change{key: segmentKey(prefixHeat, g.id)})
	s.count.evictedChunks.Add(int64(len(live)))
	return errors.Join(err, s.unlink(g))
}

// unlink removes a segment file of which nothing is needed. Readers that have
// it open can finish.
func (s *Store) unlink(g *segment) error {
	g.become(stateGone)
	s.forgetSegment(g)
	s.files.release(g)
	if err := s.fs.Remove(g.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		// Its space stays charged: it is still taken.
		return fmt.Errorf("remove segment: %w", err)
	}
	s.used.Add(-g.charge.Swap(0))
	return nil
}
