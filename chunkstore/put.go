package chunkstore

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/fserr"
)

// smallRecord is the record size up to which header and payload are put
// together in one buffer and written with one call.
const smallRecord = 128 << 10

// statfsEvery is how many bytes are written between two looks at the free space
// of the disk.
const statfsEvery = 4 << 20

// Put stores a chunk of at most MaxChunk bytes and gives its place. It always
// hashes data first: ErrDigest if it is not what d says. It is [Verify] and
// [Store.PutVerified].
func (s *Store) Put(ctx context.Context, d Digest, data []byte) (Loc, error) {
	if s.closed.Load() {
		return 0, ErrClosed
	}
	v, err := Verify(d, data)
	if err != nil {
		return 0, err
	}
	return s.PutVerified(ctx, v)
}

// PutVerified stores a chunk and gives its place. A chunk that is there already is
// not written again. When it returns, the chunk survives the death of the process;
// it survives a power cut once its segment is sealed, or after [Store.Sync].
// ErrNoSpace if there is no room even after evicting; fserr.Invalid for the zero
// Verified. The chunk's bytes are not kept.
func (s *Store) PutVerified(ctx context.Context, v Verified) (Loc, error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	d := v.digest
	if !v.ok() || len(v.data) > MaxChunk {
		return 0, chunkError(fserr.Invalid, "put", d, fmt.Errorf("%d bytes that were not verified, or more than %d", len(v.data), MaxChunk))
	}
	commits := s.commits.Load()
	if loc, ok := s.dedup(d, s.present); ok {
		return loc, nil
	}
	if err := s.lockAppend(ctx); err != nil {
		return 0, chunkError(fserr.KindOf(err), "put", d, err)
	}
	defer s.unlockAppend()
	// Who has put it since is still among the pending ones, normally.
	again := s.pendingPlace
	if s.commits.Load() != commits {
		again = s.present
	}
	if loc, ok := s.dedup(d, again); ok {
		return loc, nil
	}
	loc, err := s.append(ctx, &v)
	switch {
	case err == nil:
		s.count.puts.Add(1)
		return loc, nil
	case isNoSpace(err):
		return 0, noSpace(d, err)
	}
	return 0, chunkError(fserr.KindOf(err), "put", d, err)
}

// dedup gives the place of a chunk that find finds, and counts it as used.
func (s *Store) dedup(d Digest, find func(Digest) (Loc, bool)) (Loc, bool) {
	loc, ok := find(d)
	if !ok || loc == 0 {
		return 0, false
	}
	s.count.dedups.Add(1)
	if g := s.segment(loc.segment()); g != nil {
		g.noteRead(loc.unit())
	}
	return loc, true
}

// append writes one record, under appendSem. A disk that turns out to be full
// is evicted from, more each time; a segment that cannot be written is given up
// for a new one, once.
func (s *Store) append(ctx context.Context, v *Verified) (Loc, error) {
	d, payload := v.digest, int64(len(v.data))
	want := recordSize(payload) + s.opt.SegmentBytes/8
	broken := false
	for try := 0; ; try++ {
		g, err := s.reserve(ctx, payload)
		if err == nil {
			var loc Loc
			if loc, err = s.write(g, v); err == nil {
				s.setPending(d, loc)
				s.sinceStatfs += recordSize(payload)
				s.wakeEvictor()
				return loc, nil
			}
		}
		switch {
		case errors.Is(err, ErrNoSpace) || ctx.Err() != nil:
			return 0, err
		case isNoSpace(err) && try < fullTries:
			err = s.freeDisk(ctx, want<<try, try)
		case !isNoSpace(err) && !broken:
			broken = true
			s.log.Warn("segment given up after a failed write", zap.Error(err))
			err = s.rotate(ctx)
		}
		if err != nil {
			return 0, err
		}
	}
}

// fullTries is how often room is made on a full disk for one record.
const fullTries = 4

// freeDisk makes room on a full disk: the first time from what is closed, then
// from the active segment, too.
func (s *Store) freeDisk(ctx context.Context, want int64, try int) error {
	if try == 1 {
		if err := s.closeActive(ctx); err != nil {
			return err
		}
	}
	_, err := s.evict(ctx, want)
	return err
}

// write puts the record at the end of g, which the caller owns.
func (s *Store) write(g *segment, v *Verified) (Loc, error) {
	f, err := s.open(g)
	if err != nil {
		return 0, err
	}
	data := v.data
	payload := int64(len(data))
	unit := uint32(g.dataEnd / unitSize)
	head := int(headerSize + tableSize(payload))
	buf := s.getScratch()
	defer s.putScratch(buf)
	rec := buf.grow(head)
	copy(rec[headerSize:], v.table)
	h := header{digest: v.digest, size: payload, tableSum: checksum(v.table)}
	encodeHeader(rec, h, place{cookie: s.cookie, segment: g.id, unit: unit})
	if int64(head)+payload <= smallRecord {
		rec = append(rec, data...)
		data = nil
	}
	buf.rec = rec
	_, err = f.WriteAt(rec, g.dataEnd)
	if err == nil && len(data) > 0 {
		_, err = f.WriteAt(data, g.dataEnd+int64(head))
	}
	if err != nil {
		return 0, errors.Join(err, f.Truncate(g.dataEnd))
	}
	e := entry{digest: v.digest, unit: unit, size: uint32(payload)}
	g.entries = append(g.entries, e)
	g.size.Store(g.dataEnd + int64(head) + payload)
	g.dataEnd = e.end()
	g.live.Add(1)
	s.recharge(g)
	return e.loc(g.id), nil
}

// reserve finds room for a record of this payload within the limit and on the
// disk: it evicts, and if everything that could go is in the active segment,
// closes that one to evict from it too.
func (s *Store) reserve(ctx context.Context, payload int64) (*segment, error) {
	if limit := s.opt.MaxBytes; limit > 0 && chargeWith(superblockSize+recordSize(payload), 1) > limit {
		return nil, ErrNoSpace
	}
	for try := 0; ; try++ {
		g, need := s.candidate(payload)
		missing := max(s.overLimit(need), s.diskShortage(need))
		if missing <= 0 {
			if g != nil {
				return g, nil
			}
			return s.replaceActive(ctx)
		}
		var err error
		switch try {
		case 0, 2, 3:
			_, err = s.evict(ctx, max(missing, s.opt.MaxBytes/32, s.opt.SegmentBytes/8))
		case 1:
			err = s.closeActive(ctx)
		default:
			err = s.full()
		}
		if err != nil {
			return nil, err
		}
	}
}

// closeActive seals the active segment and waits for that, so that it can be
// evicted from.
func (s *Store) closeActive(ctx context.Context) error {
	if err := s.rotate(ctx); err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil && ctx.Err() != nil {
		return err
	}
	return nil // a segment that could not be sealed can be evicted from, too
}

// maxRecords is how many records go into one segment, however small they are: until
// it is sealed, what is known of them is in memory.
const maxRecords = 1 << 15

// candidate gives the segment a record of this payload would go to, nil if to a
// new one, and the bytes it would add to the charge. A record larger than a
// segment gets one for itself.
func (s *Store) candidate(payload int64) (*segment, int64) {
	g := s.active.Load()
	if g == nil {
		g = s.resume()
	}
	if g != nil {
		charge := chargeWith(g.dataEnd+recordSize(payload), len(g.entries)+1)
		if len(g.entries) == 0 || charge <= s.opt.SegmentBytes && len(g.entries) < maxRecords {
			return g, charge - g.charge.Load()
		}
	}
	return nil, chargeWith(superblockSize+recordSize(payload), 1)
}

// replaceActive hands the active segment on and makes a new one.
func (s *Store) replaceActive(ctx context.Context) (*segment, error) {
	if err := s.rotate(ctx); err != nil {
		return nil, err
	}
	g, err := s.createSegment()
	if err != nil {
		return nil, err
	}
	s.active.Store(g)
	return g, nil
}

// overLimit is how many bytes too many there would be with need more.
func (s *Store) overLimit(need int64) int64 {
	if s.opt.MaxBytes == 0 {
		return 0
	}
	return s.used.Load() + need + s.indexReserve.Load() - s.opt.MaxBytes
}

// diskShortage is by how much the file system would be short of its headroom.
// It asks seldom while there is plenty.
func (s *Store) diskShortage(need int64) int64 {
	if s.opt.MinFreeBytes < 0 || s.sinceStatfs < statfsEvery {
		return 0
	}
	free, err := s.fs.Free(s.opt.Dir)
	if err != nil {
		return 0 // a write will tell
	}
	short := s.opt.MinFreeBytes + need - free
	if short <= -2*statfsEvery {
		s.sinceStatfs = 0
	}
	return short
}

// indexRoom fails while the disk is too full to let the database write: its log
// is a mapped sparse file, where a full disk is a fatal signal.
func (s *Store) indexRoom() error {
	if s.opt.MinFreeBytes < 0 {
		return nil
	}
	free, err := s.fs.Free(s.opt.Dir)
	if err == nil && free < s.opt.MinFreeBytes/2 {
		return fmt.Errorf("%d bytes free on disk: %w", free, ErrNoSpace)
	}
	return nil
}

// rotate hands the active segment to the background to be sealed. It waits if
// that has too many already.
func (s *Store) rotate(ctx context.Context) error {
	g := s.active.Load()
	if g == nil {
		return nil
	}
	g.become(stateSealing)
	select {
	case s.seals <- g:
		s.active.Store(nil)
		return nil
	case <-ctx.Done():
		g.become(stateActive)
		return ctx.Err()
	}
}

// wakeEvictor has the background evict before the limit is reached.
func (s *Store) wakeEvictor() {
	if s.opt.MaxBytes > 0 && s.used.Load() > s.opt.MaxBytes-s.opt.MaxBytes/32 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}
