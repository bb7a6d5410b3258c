package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// loop is the background: it seals the segments Put has filled, syncs on
// request and now and then, and evicts ahead of need. The segments in first
// were found unsealed at open. It ends with ctx, with all queued segments
// sealed.
func (s *Store) loop(ctx context.Context, first []*segment) {
	defer close(s.done)
	for _, g := range first {
		s.report(s.seal(g))
	}
	var tick <-chan time.Time
	if s.opt.SyncInterval > 0 {
		t := time.NewTicker(s.opt.SyncInterval)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case g := <-s.seals:
			s.report(s.seal(g))
		case done := <-s.syncs:
			done <- s.syncAll()
		case <-s.wake:
			s.evictAhead(ctx)
			s.compact(ctx)
		case <-tick:
			s.report(s.syncAll())
			s.report(s.saveHeat())
			s.compact(ctx)
		case <-ctx.Done():
			s.drainSeals()
			return
		}
	}
}

func (s *Store) report(err error) {
	if err != nil {
		s.log.Warn("chunk store not made durable", zap.String("dir", s.opt.Dir), zap.Error(err))
	}
}

func (s *Store) drainSeals() {
	for {
		select {
		case g := <-s.seals:
			s.report(s.seal(g))
		default:
			return
		}
	}
}

// syncAll makes everything written before the call durable.
func (s *Store) syncAll() error {
	s.drainSeals()
	g := s.active.Load()
	list := s.recent(func(id uint32) bool {
		other := s.segment(id)
		return other == g || other != nil && other.is(stateClosed)
	})
	if g != nil {
		if err := s.syncFile(g); err != nil {
			s.count.sealErr.Add(1)
			return fmt.Errorf("sync segment %s: %w", g.path, err)
		}
	}
	return s.commit(list)
}

// syncHoles makes the holes of evicted chunks durable. It is for a close in good
// order, after which nobody looks for those that a power cut has filled.
func (s *Store) syncHoles() error {
	var errs []error
	for _, g := range s.segments() {
		if !g.holes.Swap(false) {
			continue
		}
		f, err := s.open(g)
		if err == nil {
			err = f.Sync()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// syncFile makes the content of g, and that it exists, durable.
func (s *Store) syncFile(g *segment) error {
	f, err := s.open(g)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if g.dirSynced {
		return nil
	}
	if err := s.fs.SyncDir(s.opt.Dir + "/" + segmentsDir); err != nil {
		return err
	}
	g.dirSynced = true
	return nil
}

// seal ends a segment: its records are made durable, then an index is written
// behind them and made durable too, so that an index on disk means that all
// it lists is there; then the places go to the database. If a step fails the
// segment stays usable: its places go to the database all the same, as every
// read is checked, and the next open will walk its records.
func (s *Store) seal(g *segment) error {
	if len(g.entries) == 0 {
		return s.unlink(g)
	}
	err := s.syncFile(g)
	if err == nil {
		var index footer
		if index, err = s.writeFooter(g, g.entries, g.swept); err == nil {
			s.adoptFooter(g, index)
		}
	}
	if err != nil {
		s.count.sealErr.Add(1)
		err = fmt.Errorf("seal segment %s: %w", g.path, err)
	}
	g.entries = nil
	s.recharge(g)
	g.become(stateClosed)
	places := s.recent(func(id uint32) bool {
		other := s.segment(id)
		return other != nil && other.is(stateClosed)
	})
	return errors.Join(err, s.commit(places))
}

// footer is an index as written.
type footer struct {
	size int64 // of the file with it
	sum  uint32
}

// writeFooter appends an index to g and syncs it. On failure the file is as
// long as before, if at all possible.
func (s *Store) writeFooter(g *segment, entries []entry, swept bool) (footer, error) {
	f, err := s.open(g)
	if err != nil {
		return footer{}, err
	}
	off := align(g.size.Load(), unitSize)
	buf := encodeFooter(entries, off, g.dataEnd, swept, g.id, s.cookie)
	_, err = f.WriteAt(buf, off)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return footer{}, errors.Join(err, f.Truncate(g.size.Load()))
	}
	return footer{size: off + int64(len(buf)), sum: footerSum(buf)}, nil
}

// adoptFooter makes the index just written the one that counts.
func (s *Store) adoptFooter(g *segment, index footer) {
	s.noteFooter(index.size - g.size.Load())
	g.size.Store(index.size)
	g.indexSum = index.sum
	g.sealed.Store(true)
}

// noteFooter remembers the largest index there is: what a sweep may need more
// before it frees anything.
func (s *Store) noteFooter(size int64) {
	reserve := diskCharge(size) + 2*blockSize
	for {
		have := s.indexReserve.Load()
		if have >= reserve || s.indexReserve.CompareAndSwap(have, reserve) {
			return
		}
	}
}

// sealActive is Close's: the background has ended.
func (s *Store) sealActive() error {
	g := s.active.Swap(nil)
	if g == nil {
		return s.commit(s.recent(func(uint32) bool { return true }))
	}
	g.become(stateSealing)
	return s.seal(g)
}

// saveHeat writes what has changed of the segments' heat to the database.
func (s *Store) saveHeat() error {
	var changes []change
	for _, g := range s.segments() {
		if g.warm.Swap(false) {
			changes = append(changes, change{segmentKey(prefixHeat, g.id), g.heat()})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	return s.applyIndex(changes)
}
