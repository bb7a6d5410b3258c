package chunkstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"go.uber.org/zap"
)

// loadSegments takes the segments found into the table: from their summaries
// in the database where these can be believed, else by looking at the files. It
// returns those that are yet to be sealed.
func (s *Store) loadSegments(ctx context.Context, ids []uint32) ([]*segment, error) {
	summaries, err := s.loadSummaries(ids)
	if err != nil {
		return nil, err
	}
	table := make(map[uint32]*segment, len(ids))
	s.table.Store(&table) // nothing else runs yet
	var unknown, unsealed []*segment
	for _, id := range ids {
		g, err := s.openFound(id)
		if err != nil {
			s.log.Warn("segment unreadable, left out", zap.Error(err))
			continue
		}
		table[id] = g
		if sum, ok := summaries[id]; !ok || !s.believe(g, sum) {
			unknown = append(unknown, g)
			continue
		}
		s.recharge(g)
		if g.punched.Load() > 0 && !s.state.clean {
			s.punchAgain(g)
		}
	}
	for i, g := range unknown {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.rescan(g, i == len(unknown)-1 && g.id == ids[len(ids)-1]); err != nil {
			return nil, err
		}
		if g.is(stateSealing) {
			unsealed = append(unsealed, g)
		}
	}
	return unsealed, s.loadHeat()
}

// loadSummaries reads what the database says of the segments, and removes what
// it says of others.
func (s *Store) loadSummaries(ids []uint32) (map[uint32]summary, error) {
	there := make(map[uint32]bool, len(ids))
	for _, id := range ids {
		there[id] = true
	}
	found := make(map[uint32]summary, len(ids))
	var gone []change
	err := s.db.walk([]byte{prefixSegment}, func(key, val []byte) error {
		sum, ok := decodeSummary(val)
		if len(key) == 5 && ok && there[binary.BigEndian.Uint32(key[1:])] {
			found[binary.BigEndian.Uint32(key[1:])] = sum
			return nil
		}
		gone = append(gone, change{key: append([]byte(nil), key...)})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read segment summaries: %w", err)
	}
	if len(gone) > 0 {
		s.log.Warn("segments are missing; their chunks will be fetched again", zap.Int("count", len(gone)))
		err = s.applyIndex(gone)
	}
	return found, err
}

// openFound opens a segment file found at open.
func (s *Store) openFound(id uint32) (*segment, error) {
	g := newSegment(s.opt.Dir+"/"+segmentsDir, id, s.opt.SegmentBytes)
	g.become(stateClosed)
	g.dirSynced = true
	f, err := s.open(g)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		s.files.release(g)
		return nil, err
	}
	g.size.Store(size)
	if bits := size/blockSize + 1; bits > int64(len(g.touched)*32) {
		larger := newSegment("", id, size)
		g.touched, g.proven = larger.touched, larger.proven
	}
	return g, nil
}

// believe takes over what the database says of a sealed segment, if the file
// agrees: in size, and, unless the store was closed in good order, in the index
// at its end.
func (s *Store) believe(g *segment, sum summary) bool {
	if sum.size > g.size.Load() {
		return false
	}
	if !s.state.clean || sum.size != g.size.Load() {
		f, err := s.open(g)
		if err != nil {
			return false
		}
		t, err := readTrailer(f, sum.size, g.id, s.cookie)
		if err != nil || t.indexSum != sum.indexSum {
			return false
		}
		if sum.size != g.size.Load() {
			// An eviction was interrupted before it took anything.
			if err := f.Truncate(sum.size); err != nil {
				return false
			}
			g.size.Store(sum.size)
		}
	}
	g.sealed.Store(true)
	g.recorded = true
	g.swept = sum.swept
	g.dataEnd = sum.dataEnd
	g.indexSum = sum.indexSum
	g.punched.Store(sum.punched)
	g.live.Store(sum.live)
	s.noteFooter(diskCharge(g.size.Load() - sum.dataEnd))
	return true
}

// rescan finds out what a segment holds by looking at it, and puts that in the
// database or, if the segment is not sealed, among the pending places. The
// newest segment of all goes on being the active one, if it is whole.
func (s *Store) rescan(g *segment, newest bool) error {
	f, err := s.open(g)
	if err != nil {
		return err
	}
	found := scanSegment(f, g.size.Load(), g.id, s.cookie, !s.sameBoot())
	g.dataEnd, g.swept, g.indexSum = found.dataEnd, found.swept, found.sum
	g.sealed.Store(found.sealed)
	s.log.Info("segment scanned", zap.String("path", g.path), zap.Int("chunks", len(found.entries)), zap.Bool("sealed", found.sealed))
	if found.sealed {
		return s.adoptSealed(g, found)
	}
	g.entries = found.entries
	g.dirSynced = false
	if !found.swept {
		// What is behind the last whole record is the beginning of another.
		if err := f.Truncate(found.dataEnd); err != nil {
			return fmt.Errorf("cut off unfinished record: %w", err)
		}
		g.size.Store(found.dataEnd)
	}
	for _, e := range found.entries {
		if s.claim(e.digest, e.loc(g.id)) {
			g.live.Add(1)
			s.setPending(e.digest, e.loc(g.id))
		}
	}
	s.recharge(g)
	if newest && !found.swept {
		g.become(stateActive)
		s.active.Store(g)
		s.resumed = true
		return nil
	}
	g.become(stateSealing)
	return nil
}

// sameBoot says whether the machine has run on since the store was last opened, so
// that everything ever written is there.
func (s *Store) sameBoot() bool {
	boot := s.fs.BootID()
	return boot != "" && boot == s.state.bootID
}

// punchAgain frees what a segment has lost: its holes may not have been synced, and
// a power cut may have filled them.
func (s *Store) punchAgain(g *segment) {
	g.holes.Store(true)
	if s.sameBoot() {
		return
	}
	entries, err := s.entriesOf(g)
	if err == nil {
		g.punched.Store(0)
		s.recharge(g)
		err = s.reclaim(g, entries)
	}
	if err != nil {
		s.log.Warn("evicted bytes not freed again", zap.String("path", g.path), zap.Error(err))
	}
}

// claim says whether d may be said to be at loc: unless it is known to be in
// another segment that is there.
func (s *Store) claim(d Digest, loc Loc) bool {
	cur, ok := s.lookup(d)
	return !ok || cur.segment() == loc.segment() || s.segment(cur.segment()) == nil
}

// adoptSealed puts the places of a sealed segment in the database and makes
// sure that the rest of it is free.
func (s *Store) adoptSealed(g *segment, found scanned) error {
	changes := make([]change, 0, len(found.entries))
	for _, e := range found.entries {
		loc := e.loc(g.id)
		if s.claim(e.digest, loc) {
			g.live.Add(1)
			changes = append(changes, change{chunkKey(e.digest), encodeLoc(loc)})
		}
	}
	if err := s.applyIndex(changes); err != nil {
		return err
	}
	s.noteFooter(footerSize(len(found.entries)))
	s.recharge(g)
	return s.reclaim(g, found.entries)
}

// loadHeat gives the segments the bits saved last.
func (s *Store) loadHeat() error {
	err := s.db.walk([]byte{prefixHeat}, func(key, val []byte) error {
		if len(key) != 5 {
			return nil
		}
		if g := s.segment(binary.BigEndian.Uint32(key[1:])); g != nil {
			g.warmUp(val)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read heat: %w", err)
	}
	return nil
}

// resume makes the newest segment the active one again after a restart, if it
// is sealed but far from full and has lost nothing: else every restart would
// leave a small segment behind. It is tried once. nil if there is none such;
// appendSem is held.
func (s *Store) resume() *segment {
	if s.resumed {
		return nil
	}
	s.resumed = true
	s.evictMu.Lock()
	defer s.evictMu.Unlock()
	list := s.segments()
	if len(list) == 0 {
		return nil
	}
	g := list[len(list)-1]
	if !g.is(stateClosed) || !g.sealed.Load() || g.swept || g.dataEnd > s.opt.SegmentBytes/4*3 {
		return nil
	}
	if err := s.unseal(g); err != nil {
		if !errors.Is(err, errNoIndex) && !errors.Is(err, fs.ErrClosed) {
			s.log.Warn("segment not resumed", zap.String("path", g.path), zap.Error(err))
		}
		return nil
	}
	s.active.Store(g)
	return g
}

// unseal cuts the index off a sealed segment. A crash from here on finds a
// segment that must be walked.
func (s *Store) unseal(g *segment) error {
	f, err := s.open(g)
	if err != nil {
		return err
	}
	entries, _, err := readIndex(f, g.size.Load(), g.id, s.cookie)
	if err != nil {
		return err
	}
	s.placeMu.Lock()
	defer s.placeMu.Unlock()
	if err := s.applyIndex([]change{{key: segmentKey(prefixSegment, g.id)}}); err != nil {
		return err
	}
	if err := f.Truncate(g.dataEnd); err != nil {
		g.recorded = false
		return err
	}
	g.size.Store(g.dataEnd)
	g.entries = entries
	g.recorded = false
	g.sealed.Store(false)
	g.become(stateActive)
	s.recharge(g)
	return nil
}

// Rebuild forgets all places and finds them again in the segments. Chunks put
// or looked up meanwhile wait or seem missing; reads with a Loc go on. fn, which
// may be nil, is told how many segments were looked at, of how many.
func (s *Store) Rebuild(ctx context.Context, fn func(done, all int)) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if err := s.lockAppend(ctx); err != nil {
		return err
	}
	defer s.unlockAppend()
	if err := s.closeActive(ctx); err != nil {
		return err
	}
	s.evictMu.Lock()
	defer s.evictMu.Unlock()
	// A database that knows half of the places must not be believed.
	if err := s.setSuspect(true); err != nil {
		return err
	}
	if err := s.clearPlaces(ctx); err != nil {
		return err
	}
	list := s.segments()
	for i, g := range list {
		if !g.is(stateClosed) {
			continue
		}
		if err := s.rebuildSegment(g); err != nil {
			return err
		}
		if fn != nil {
			fn(i+1, len(list))
		}
	}
	if err := s.db.sync(); err != nil {
		return err
	}
	return s.setSuspect(false)
}

func (s *Store) rebuildSegment(g *segment) error {
	f, err := s.open(g)
	if err != nil {
		return err
	}
	found := scanSegment(f, g.size.Load(), g.id, s.cookie, true)
	g.live.Store(0)
	if !found.sealed {
		s.placeMu.Lock()
		g.recorded, g.dataEnd, g.swept = false, found.dataEnd, true
		g.sealed.Store(false)
		s.placeMu.Unlock()
		index, err := s.writeFooter(g, found.entries, true)
		if err != nil {
			return err
		}
		s.placeMu.Lock()
		s.adoptFooter(g, index)
		s.placeMu.Unlock()
	}
	return s.adoptSealed(g, found)
}
