package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"go.uber.org/zap"
)

// Evict gives up chunks until wantFree bytes of disk have been freed, the least
// valuable first, and returns how many bytes it freed. It can free less if there
// is not more: pinned chunks stay, and the active segment is not evicted from.
func (s *Store) Evict(ctx context.Context, wantFree int64) (int64, error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	return s.evict(ctx, wantFree)
}

// evictAhead keeps a little room below the limit, so that Put rarely waits.
func (s *Store) evictAhead(ctx context.Context) {
	limit := s.opt.MaxBytes
	if over := s.used.Load() - (limit - limit/16); limit > 0 && over > 0 {
		s.evictMu.Lock()
		defer s.evictMu.Unlock()
		s.sweepAll(ended(ctx), over)
	}
}

func (s *Store) evict(ctx context.Context, want int64) (int64, error) {
	s.evictMu.Lock()
	defer s.evictMu.Unlock()
	freed := s.sweepAll(ended(ctx), want)
	return freed, ctx.Err()
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
// then their places are taken off the record, durably, and only then are their
// bytes freed: an open that finds the index but not the rest can cut it off
// again. If there is no room for the index, the whole segment goes.
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
	sum := g.summary()
	sum.live = int64(len(keep))
	_, err = s.dropPlaces(placesOf(g, victims), change{segmentKey(prefixSegment, g.id), sum.encode()})
	g.recorded = err == nil
	s.placeMu.Unlock()
	if err == nil {
		err = s.db.sync()
	}
	// If the database cannot be written, for want of space, space is freed all
	// the same: places that come back with a restart will be found wanting.
	s.count.evictedChunks.Add(int64(len(victims)))
	return errors.Join(err, s.reclaim(g, keep))
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
			g.holes.Store(true)
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
	serr := s.applyIndex([]change{{segmentKey(prefixSegment, g.id), g.summary().encode()}})
	g.recorded = serr == nil
	return errors.Join(err, serr)
}

// removeSegment evicts all that is left of g.
func (s *Store) removeSegment(g *segment, live []entry) error {
	s.placeMu.Lock()
	_, err := s.dropPlaces(placesOf(g, live),
		change{key: segmentKey(prefixSegment, g.id)}, change{key: segmentKey(prefixHeat, g.id)})
	s.placeMu.Unlock()
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
