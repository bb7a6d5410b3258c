package chunkstore

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/fserr"
)

// Open opens the store in opt.Dir, making it if there is none. It repairs what
// it finds: after the death of the process the unsealed end is walked, an index
// database that is lost, damaged or older than the segments is rebuilt from
// them. It fails with fserr.Busy if the directory is open already, here or in
// another process, and with fserr.Unsupported if a later version has written it.
func Open(ctx context.Context, opt Options) (*Store, error) {
	if opt.Dir == "" {
		return nil, fserr.Newf(fserr.Invalid, "open chunk store", "", "no directory given")
	}
	opt = opt.withDefaults()
	if err := opt.FS.MkdirAll(opt.Dir+"/"+segmentsDir, 0o700); err != nil {
		return nil, openError(opt.Dir, err)
	}
	lock, err := opt.FS.Lock(opt.Dir + "/" + lockName)
	if err != nil {
		return nil, openError(opt.Dir, err)
	}
	s := newStore(opt)
	s.lock = lock
	if err := s.start(ctx); err != nil {
		s.abandon()
		return nil, openError(opt.Dir, err)
	}
	return s, nil
}

func newStore(opt Options) *Store {
	s := &Store{
		opt:         opt,
		fs:          opt.FS,
		log:         opt.Logger,
		life:        newGate(),
		files:       fileCache{max: opt.MaxOpenSegments},
		appendSem:   make(chan struct{}, 1),
		pending:     map[Digest]Loc{},
		sinceStatfs: statfsEvery,
		seals:       make(chan *segment, 2),
		syncs:       make(chan chan error),
		wake:        make(chan struct{}, 1),
		done:        make(chan struct{}),
	}
	s.records.s = s
	s.scratch.New = func() any { return new(scratch) }
	s.table.Store(&map[uint32]*segment{})
	return s
}

// abandon gives back what a failed start has taken.
func (s *Store) abandon() {
	s.files.closeAll()
	if s.db != nil {
		if err := s.db.close(); err != nil {
			s.log.Warn("closing after a failed open", zap.Error(err))
		}
	}
	if err := s.lock.Close(); err != nil {
		s.log.Warn("closing after a failed open", zap.Error(err))
	}
}

func (s *Store) start(ctx context.Context) error {
	names, err := s.fs.ReadDir(s.opt.Dir + "/" + segmentsDir)
	if err != nil {
		return err
	}
	ids := segmentIDs(names)
	known, err := s.loadState(ids)
	if err != nil {
		return err
	}
	if ids, err = s.freeForIndex(ids); err != nil {
		return err
	}
	if err := s.openDatabase(); err != nil {
		return err
	}
	trusted := known && !s.state.suspect && s.db.intact() && s.databaseFits()
	if !trusted {
		if known || len(ids) > 0 {
			s.log.Warn("chunk index does not fit the segments, rebuilding", zap.String("dir", s.opt.Dir))
		}
		if err := s.clearPlaces(ctx); err != nil {
			return err
		}
	}
	unsealed, err := s.loadSegments(ctx, ids)
	if err != nil {
		return err
	}
	if err := s.beginEpoch(); err != nil {
		return err
	}
	// The background outlives the call; Close ends it.
	background, quit := context.WithCancel(context.WithoutCancel(ctx))
	s.quit = quit
	go s.loop(background, unsealed)
	return nil
}

// segmentIDs picks the segment files out of a directory listing.
func segmentIDs(names []string) []uint32 {
	var ids []uint32
	for _, name := range names {
		if id, ok := parseSegmentName(name); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// loadState reads the state file, or makes up for it: the cookie is also in
// every segment. It says whether the state is as it was left.
func (s *Store) loadState(ids []uint32) (bool, error) {
	st, err := readState(s.fs, s.opt.Dir)
	known := err == nil
	switch {
	case known:
	case errors.Is(err, errStateVersion):
		return false, fserr.New(fserr.Unsupported, "read", stateName, err)
	case errors.Is(err, fs.ErrNotExist) && len(ids) == 0:
	default:
		s.log.Warn("state file lost", zap.String("dir", s.opt.Dir), zap.Error(err))
	}
	if !known {
		st = storeState{nextID: 1, cookie: s.findCookie(ids)}
	}
	if st.cookie == 0 {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return false, err
		}
		st.cookie = binary.LittleEndian.Uint64(b[:]) | 1
	}
	for _, id := range ids {
		st.nextID = max(st.nextID, id+1)
	}
	s.state, s.cookie, s.nextID = st, st.cookie, st.nextID
	return known, nil
}

// findCookie asks the segments, newest first.
func (s *Store) findCookie(ids []uint32) uint64 {
	for i := len(ids) - 1; i >= 0; i-- {
		g := newSegment(s.opt.Dir+"/"+segmentsDir, ids[i], 0)
		f, err := s.fs.OpenFile(g.path, os.O_RDONLY, 0)
		if err != nil {
			continue
		}
		buf := make([]byte, superblockSize)
		err = readFull(f, buf, 0)
		_ = f.Close() // nothing was written
		if cookie, ok := decodeSuperblock(buf, ids[i]); ok && err == nil {
			return cookie
		}
	}
	return 0
}

// openDatabase opens the index database. One that cannot be opened, or that the
// process keeps dying of, is put aside, and an empty one takes its place.
func (s *Store) openDatabase() error {
	open := s.opt.openIndex
	if open == nil {
		open = func(dir string) (index, error) { return openBadger(dir, s.log) }
	}
	dir := s.opt.Dir + "/" + indexDir
	deaths, err := s.beginOpening()
	if err != nil {
		return err
	}
	var db index
	if deaths < maxDeaths {
		db, err = open(dir)
	} else {
		err = fmt.Errorf("process ended %d times while opening it", deaths)
	}
	if err != nil {
		s.log.Warn("chunk index damaged, put aside", zap.String("dir", dir), zap.Error(err))
		if err := putAside(dir); err != nil {
			return err
		}
		if db, err = open(dir); err != nil {
			return err
		}
	}
	s.db = db
	return s.fs.Remove(s.opt.Dir + "/" + openingName)
}

// freeForIndex makes sure the database can be opened on a disk that is full, if
// need be by giving up the oldest segments. It gives the ids of the others.
func (s *Store) freeForIndex(ids []uint32) ([]uint32, error) {
	for {
		err := s.indexRoom()
		if err == nil || len(ids) == 0 {
			return ids, err
		}
		g := newSegment(s.opt.Dir+"/"+segmentsDir, ids[0], 0)
		s.log.Warn("disk full, oldest segment given up", zap.String("path", g.path))
		if err := s.fs.Remove(g.path); err != nil {
			return ids, err
		}
		ids = ids[1:]
	}
}

// maxDeaths is how often in a row the process may end while the database is
// being opened before the database is taken to be the cause.
const maxDeaths = 5

// beginOpening leaves a mark that goes once the database is open, and says how
// many times in a row it had stayed.
func (s *Store) beginOpening() (deaths int, err error) {
	f, err := s.fs.OpenFile(s.opt.Dir+"/"+openingName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	var mark [1]byte
	if n, _ := f.ReadAt(mark[:], 0); n == 1 { // unreadable: as if there were none
		deaths = int(mark[0])
	}
	mark[0] = byte(min(deaths+1, maxDeaths))
	_, err = f.WriteAt(mark[:], 0)
	return deaths, errors.Join(err, f.Close())
}

// putAside renames a damaged database, in place of one put aside earlier.
func putAside(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.RemoveAll(dir + ".damaged"); err != nil {
		return err
	}
	return os.Rename(dir, dir+".damaged")
}

func epochKey() []byte { return []byte{prefixMeta, 'e'} }

// stamp is what ties the database to the segments.
func stamp(cookie, epoch uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, cookie), epoch)
}

// databaseFits says whether the database has seen every open the state file
// has. It is one ahead if the last open ended between the two.
func (s *Store) databaseFits() bool {
	fits := false
	err := s.db.get(epochKey(), func(val []byte) error {
		fits = string(val) == string(stamp(s.cookie, s.state.epoch)) ||
			string(val) == string(stamp(s.cookie, s.state.epoch+1))
		return nil
	})
	return err == nil && fits
}

// beginEpoch marks the store as open, first in the database, then in the state
// file.
func (s *Store) beginEpoch() error {
	s.tableMu.Lock()
	defer s.tableMu.Unlock()
	st := s.state
	st.epoch++
	st.clean, st.suspect = false, false
	st.bootID = s.fs.BootID()
	st.nextID = max(st.nextID, s.nextID) + idBatch
	if err := s.applyIndex([]change{{epochKey(), stamp(s.cookie, st.epoch)}}); err != nil {
		return err
	}
	if err := s.db.sync(); err != nil {
		return err
	}
	if err := writeState(s.fs, s.opt.Dir, st); err != nil {
		return err
	}
	s.state = st
	return nil
}

// clearPlaces removes from the database all that the segments tell better.
func (s *Store) clearPlaces(ctx context.Context) error {
	for _, prefix := range []byte{prefixChunk, prefixSegment} {
		if err := s.clearPrefix(ctx, prefix); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) clearPrefix(ctx context.Context, prefix byte) error {
	const batch = 4096
	for {
		var doomed []change
		err := s.db.walk([]byte{prefix}, func(key, _ []byte) error {
			doomed = append(doomed, change{key: append([]byte(nil), key...)})
			if len(doomed) == batch {
				return errBatchFull
			}
			return ctx.Err()
		})
		if err != nil && !errors.Is(err, errBatchFull) {
			return fmt.Errorf("clear index: %w", err)
		}
		if len(doomed) == 0 {
			return nil
		}
		if err := s.applyIndex(doomed); err != nil {
			return err
		}
	}
}

var errBatchFull = errors.New("batch full")
