package chunkstore

import (
	"errors"
	"maps"

	"go.uber.org/zap"
)

// Locate gives the place of a chunk. Callers keep it and pass it to
// [Store.ReadAt]; asking once per chunk is enough.
func (s *Store) Locate(d Digest) (Loc, bool) {
	if err := s.enter(); err != nil {
		return 0, false
	}
	defer s.leave()
	if loc, ok := s.places.get(d); ok && s.segment(loc.segment()) != nil {
		return loc, true
	}
	loc, ok := s.present(d)
	if !ok {
		s.count.misses.Add(1)
		return 0, false
	}
	s.places.put(d, loc)
	return loc, true
}

// Has says whether the chunk is stored. The answer may be out of date at once.
func (s *Store) Has(d Digest) bool {
	if err := s.enter(); err != nil {
		return false
	}
	defer s.leave()
	_, ok := s.present(d)
	return ok
}

// present is the authoritative lookup: the place of a chunk in a segment that
// exists.
func (s *Store) present(d Digest) (Loc, bool) {
	loc, ok := s.lookup(d)
	if ok && s.segment(loc.segment()) == nil {
		s.dropPlace(d, loc)
		return 0, false
	}
	return loc, ok
}

// lookup gives the place on record for d: recent ones from memory, the others
// from the database. A failing database knows nothing.
func (s *Store) lookup(d Digest) (Loc, bool) {
	loc, ok := s.pendingPlace(d)
	if ok {
		return loc, loc != 0
	}
	err := s.db.get(chunkKey(d), func(val []byte) error {
		loc = decodeLoc(val)
		return nil
	})
	if err != nil && !errors.Is(err, errNoKey) {
		s.distrustIndex(err)
	}
	return loc, err == nil && loc != 0
}

// distrustIndex notes, before anything else happens, that the database has
// failed: the next open finds the places in the segments again.
func (s *Store) distrustIndex(why error) {
	s.tableMu.Lock()
	defer s.tableMu.Unlock()
	if s.state.suspect {
		return
	}
	s.log.Warn("chunk index unreadable in part; it will be rebuilt at the next start", zap.Error(why))
	s.state.suspect = true
	if err := writeState(s.fs, s.opt.Dir, s.state); err != nil {
		s.log.Warn("chunk index not marked", zap.Error(err))
	}
}

// setSuspect notes durably whether the next open has to find the places anew.
func (s *Store) setSuspect(suspect bool) error {
	s.tableMu.Lock()
	defer s.tableMu.Unlock()
	st := s.state
	st.suspect = suspect
	if err := writeState(s.fs, s.opt.Dir, st); err != nil {
		return err
	}
	s.state = st
	return nil
}

// pendingPlace is what is known of d that the database does not know yet: its
// place, or 0 if it has none any more.
func (s *Store) pendingPlace(d Digest) (Loc, bool) {
	s.pendingMu.RLock()
	defer s.pendingMu.RUnlock()
	loc, ok := s.pending[d]
	return loc, ok
}

// setPending records the place of a chunk just written.
func (s *Store) setPending(d Digest, loc Loc) {
	s.pendingMu.Lock()
	s.pending[d] = loc
	s.pendingMu.Unlock()
	s.places.put(d, loc)
}

// dropPlace forgets that d is at loc, unless it is somewhere else by now. It
// says whether it did.
func (s *Store) dropPlace(d Digest, loc Loc) bool {
	s.placeMu.Lock()
	defer s.placeMu.Unlock()
	n, err := s.dropPlaces([]placed{{d, loc}})
	if err != nil {
		s.log.Warn("chunk place not removed", zap.Error(err))
	}
	return n > 0
}

type placed struct {
	digest Digest
	loc    Loc
}

// dropPlaces forgets those of the places that still hold, and gives their
// number. placeMu is held.
func (s *Store) dropPlaces(list []placed, also ...change) (int, error) {
	changes := also
	n := 0
	defer s.hot.forget() // also what was read meanwhile
	s.hot.forget()
	for _, p := range list {
		s.metas.forget(p.loc)
		if cur, ok := s.lookup(p.digest); !ok || cur != p.loc {
			continue
		}
		n++
		if g := s.segment(p.loc.segment()); g != nil {
			g.live.Add(-1)
			g.unprove(p.loc)
		}
		s.pendingMu.Lock()
		s.pending[p.digest] = 0
		s.pendingMu.Unlock()
		changes = append(changes, change{key: chunkKey(p.digest)})
	}
	for _, p := range list {
		if loc, ok := s.places.get(p.digest); ok && loc == p.loc {
			s.places.remove(p.digest)
		}
	}
	if len(changes) == 0 {
		return n, nil
	}
	if err := s.applyIndex(changes); err != nil {
		return n, err // the next commit removes them
	}
	s.pendingMu.Lock()
	defer s.pendingMu.Unlock()
	for _, p := range list {
		if loc, ok := s.pending[p.digest]; ok && loc == 0 {
			delete(s.pending, p.digest)
		}
	}
	return n, nil
}

// applyIndex changes the database, unless the disk is too full to risk it.
func (s *Store) applyIndex(changes []change) error {
	if err := s.indexRoom(); err != nil {
		return err
	}
	return s.db.apply(changes)
}

// recent copies the pending places in segments for which keep holds, and what
// is to be removed.
func (s *Store) recent(keep func(segment uint32) bool) map[Digest]Loc {
	s.pendingMu.RLock()
	defer s.pendingMu.RUnlock()
	list := maps.Clone(s.pending)
	maps.DeleteFunc(list, func(_ Digest, loc Loc) bool { return loc != 0 && !keep(loc.segment()) })
	return list
}

// commit moves places from memory to the database, with the summaries of
// segments that were sealed since the last time, and makes both durable.
func (s *Store) commit(list map[Digest]Loc) error {
	s.placeMu.Lock()
	defer s.placeMu.Unlock()
	changes := make([]change, 0, len(list))
	s.pendingMu.RLock()
	for d, loc := range list {
		switch cur, ok := s.pending[d]; {
		case !ok || cur != loc:
		case loc == 0:
			changes = append(changes, change{key: chunkKey(d)})
		default:
			changes = append(changes, change{chunkKey(d), encodeLoc(loc)})
		}
	}
	s.pendingMu.RUnlock()
	var sealed []*segment
	for _, g := range s.segments() {
		if g.is(stateClosed) && g.sealed.Load() && !g.recorded {
			sealed = append(sealed, g)
			changes = append(changes, change{segmentKey(prefixSegment, g.id), g.summary().encode()})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	if err := s.applyIndex(changes); err != nil {
		return err
	}
	for _, g := range sealed {
		g.recorded = true
	}
	s.commits.Add(1)
	s.pendingMu.Lock()
	for d, loc := range list {
		if cur, ok := s.pending[d]; ok && cur == loc {
			delete(s.pending, d)
		}
	}
	if len(s.pending) < len(list)/4 { // a map never shrinks by itself
		small := make(map[Digest]Loc, len(s.pending))
		maps.Copy(small, s.pending)
		s.pending = small
	}
	s.pendingMu.Unlock()
	return s.db.sync()
}

func (g *segment) summary() summary {
	return summary{
		size:     g.size.Load(),
		punched:  g.punched.Load(),
		dataEnd:  g.dataEnd,
		live:     max(g.live.Load(), 0),
		indexSum: g.indexSum,
		swept:    g.swept,
	}
}
