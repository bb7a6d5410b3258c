package chunkstore

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
)

// idBatch is how many segment ids one write of the state file reserves.
const idBatch = 64

// segment gives the segment of this id, nil if there is none. It takes no lock.
func (s *Store) segment(id uint32) *segment { return (*s.table.Load())[id] }

// segments gives all segments, oldest first.
func (s *Store) segments() []*segment {
	list := slices.Collect(maps.Values(*s.table.Load()))
	slices.SortFunc(list, func(a, b *segment) int { return cmp.Compare(a.id, b.id) })
	return list
}

func (s *Store) addSegment(g *segment) {
	s.tableMu.Lock()
	defer s.tableMu.Unlock()
	next := maps.Clone(*s.table.Load())
	next[g.id] = g
	s.table.Store(&next)
}

func (s *Store) forgetSegment(g *segment) {
	s.tableMu.Lock()
	defer s.tableMu.Unlock()
	next := maps.Clone(*s.table.Load())
	delete(next, g.id)
	s.table.Store(&next)
}

// takeID gives a segment id that was never used before. Ids are reserved in
// the state file ahead of use, so that this holds whatever else gets lost.
func (s *Store) takeID() (uint32, error) {
	s.tableMu.Lock()
	defer s.tableMu.Unlock()
	if s.nextID > maxSegmentID {
		return 0, fmt.Errorf("all %d segment ids are used up", maxSegmentID)
	}
	if s.nextID >= s.state.nextID {
		st := s.state
		st.nextID = s.nextID + idBatch
		if err := writeState(s.fs, s.opt.Dir, st); err != nil {
			return 0, err
		}
		s.state = st
	}
	id := s.nextID
	s.nextID++
	return id, nil
}

// createSegment makes an empty segment file.
func (s *Store) createSegment() (*segment, error) {
	id, err := s.takeID()
	if err != nil {
		return nil, err
	}
	g := newSegment(s.opt.Dir+"/"+segmentsDir, id, s.opt.SegmentBytes)
	f, err := s.fs.OpenFile(g.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create segment: %w", err)
	}
	if _, err = f.WriteAt(encodeSuperblock(id, s.cookie), 0); err != nil {
		_ = f.Close()
		_ = s.fs.Remove(g.path) // an empty segment does no harm
		return nil, fmt.Errorf("create segment: %w", err)
	}
	g.dataEnd = superblockSize
	g.size.Store(superblockSize)
	if _, err := s.files.add(g, f); err != nil {
		return nil, err
	}
	s.recharge(g)
	s.addSegment(g)
	return g, nil
}

// diskCharge is what a segment of this file size takes, holes not deducted.
func diskCharge(size int64) int64 { return align(size, blockSize) }

// chargeWith is what an unsealed segment takes once it has this many records,
// the last ending at end, and its index.
func chargeWith(end int64, records int) int64 {
	return diskCharge(align(end, unitSize) + footerSize(records))
}

// recharge brings the bytes counted for g up to date. Only the owner of g's
// state calls it.
func (s *Store) recharge(g *segment) {
	charge := diskCharge(g.size.Load()) - g.punched.Load()
	if !g.sealed.Load() {
		charge = max(charge, chargeWith(g.dataEnd, len(g.entries))-g.punched.Load())
	}
	s.used.Add(charge - g.charge.Swap(charge))
}

// fileCache holds the descriptors of segments, a bounded number of them.
type fileCache struct {
	mu   sync.Mutex
	max  int
	shut bool
	held []*segment // in the order opened
}

func (c *fileCache) count() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(len(c.held))
}

// add gives g a descriptor, unless it has one by now, and returns the one it
// has. Beyond the bound it closes the one held longest; reads in progress on
// that one end undisturbed. Segments still written to keep theirs.
func (c *fileCache) add(g *segment, f File) (File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have := g.file.Load(); have != nil {
		_ = f.Close() // nothing was written through it
		return have.File, nil
	}
	if c.shut || g.is(stateGone) {
		_ = f.Close()
		return nil, fs.ErrClosed
	}
	g.file.Store(&openFile{f})
	c.held = append(c.held, g)
	for i := 0; len(c.held) > c.max && i < len(c.held)-1; {
		old := c.held[i]
		if !old.is(stateClosed) {
			i++
			continue
		}
		c.held = slices.Delete(c.held, i, i+1)
		_ = old.file.Swap(nil).Close() // synced when it was sealed
	}
	return f, nil
}

// release closes g's descriptor, if it has one.
func (c *fileCache) release(g *segment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := g.file.Swap(nil); f != nil {
		_ = f.Close() // synced when it was sealed, or unlinked
		c.held = slices.DeleteFunc(c.held, func(h *segment) bool { return h == g })
	}
}

// closeAll closes every descriptor, for good.
func (c *fileCache) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shut = true
	for _, g := range c.held {
		_ = g.file.Swap(nil).Close() // synced when it was sealed
	}
	c.held = nil
}

// open gives g's descriptor, opening the file if it is not held.
func (s *Store) open(g *segment) (File, error) {
	if f := g.file.Load(); f != nil {
		return f.File, nil
	}
	return s.reopen(g)
}

func (s *Store) reopen(g *segment) (File, error) {
	f, err := s.fs.OpenFile(g.path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return s.files.add(g, f)
}
