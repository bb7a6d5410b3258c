package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/fserr"
)

// Options configures a store. Only Dir is needed.
type Options struct {
	// Dir is the store's directory; created if missing. One store at a time
	// may have it open.
	Dir string
	// MaxBytes bounds what the segments take on the disk, headers, indexes and
	// padding included; the index database, some 90 bytes a chunk, is not
	// counted. 0: no limit but the disk.
	MaxBytes int64
	// SegmentBytes is the size at which a segment file is sealed: 64 MiB if 0,
	// at most 1 GiB. It is lowered to an eighth of MaxBytes.
	SegmentBytes int64
	// MinFreeBytes is what is left free on the file system: below it, Put
	// evicts, then fails. The index database maps its log, and a full disk would
	// kill the process. 64 MiB if 0; negative: none.
	MinFreeBytes int64
	// MaxOpenSegments bounds the descriptors held. 512 if 0.
	MaxOpenSegments int
	// SyncInterval is how often recent chunks and the heat of old ones are made
	// durable in the background. 30 s if 0; negative: never but by Sync and Close.
	SyncInterval time.Duration
	// Logger gets warnings about damage and failing disks. May be nil.
	Logger *zap.Logger
	// FS is the file system of the segments; the operating system's if nil.
	FS FS

	openIndex func(dir string) (index, error) // instead of badger
}

const (
	defaultSegmentBytes = 64 << 20
	minSegmentBytes     = 64 << 10
	defaultMinFree      = 64 << 20
	defaultOpenSegments = 512
	defaultSyncInterval = 30 * time.Second
	segmentsDir         = "segments"
	indexDir            = "index"
	lockName            = "LOCK"
	openingName         = "OPENING"
)

func (o Options) withDefaults() Options {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = defaultSegmentBytes
	}
	if o.MaxBytes > 0 {
		o.SegmentBytes = min(o.SegmentBytes, o.MaxBytes/8)
	}
	o.SegmentBytes = min(max(o.SegmentBytes, minSegmentBytes), maxSegmentSize)
	if o.MinFreeBytes == 0 {
		o.MinFreeBytes = defaultMinFree
	}
	if o.MaxOpenSegments <= 0 {
		o.MaxOpenSegments = defaultOpenSegments
	}
	if o.SyncInterval == 0 {
		o.SyncInterval = defaultSyncInterval
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.FS == nil {
		o.FS = OSFS{}
	}
	return o
}

// Store is an open chunk store. Its methods may be called from any goroutine.
type Store struct {
	opt  Options
	fs   FS
	log  *zap.Logger
	lock io.Closer
	db   index

	life    *gate
	closed  atomic.Bool
	records Records

	cookie  uint64
	table   atomic.Pointer[map[uint32]*segment]
	tableMu sync.Mutex
	state   storeState // under tableMu after Open
	nextID  uint32     // under tableMu
	files   fileCache

	appendSem   chan struct{}
	active      atomic.Pointer[segment] // changed under appendSem
	resumed     bool                    // under appendSem
	sinceStatfs int64                   // under appendSem: bytes written since the disk was asked

	pendingMu sync.RWMutex
	pending   map[Digest]Loc // places not yet in the database
	commits   atomic.Int64   // how often places were moved from there to the database
	places    locCache
	metas     metaCache
	hot       hotBlocks
	scratch   sync.Pool
	placeMu   sync.Mutex

	evictMu      sync.Mutex
	hands        [2]hand                // under evictMu: where sweeps go on from
	pins         atomic.Pointer[pinned] // nil: none
	noHoles      atomic.Bool            // the file system cannot punch holes
	used         atomic.Int64           // bytes charged to the limit
	indexReserve atomic.Int64           // room a sweep needs for a new index

	seals chan *segment
	syncs chan chan error
	wake  chan struct{}
	quit  context.CancelFunc // ends the background
	done  chan struct{}

	count counters
}

type counters struct {
	hits, misses, corrupt, puts, dedups  atomic.Int64
	evictedBytes, evictedChunks, sealErr atomic.Int64
	moved                                atomic.Int64
}

// Stats is a snapshot of a store's counters. Bytes are bytes.
type Stats struct {
	Bytes         int64 // on disk in segments, with the room reserved for their indexes
	MaxBytes      int64 // the limit; 0 none
	Chunks        int64
	Segments      int64
	Hits          int64 // reads answered
	Misses        int64 // chunks asked for and not there
	Corrupt       int64 // records dropped because they were damaged
	Puts          int64 // chunks written
	Dedups        int64 // puts of chunks that were there
	EvictedBytes  int64 // disk space given back
	EvictedChunks int64
	MovedChunks   int64 // chunks moved out of segments that were nearly empty
	SealErrors    int64 // segments or batches that could not be made durable at the first try
	Pinned        int64 // chunks that must stay, whether they are there or not
	ProvenBytes   int64 // of chunks that were read again after they were put, about
	Pending       int64 // chunks whose place is not yet in the index database
	OpenFiles     int64
}

// Stats gives the counters. It can be called after Close.
func (s *Store) Stats() Stats {
	st := Stats{
		Bytes:         s.used.Load(),
		MaxBytes:      s.opt.MaxBytes,
		Hits:          s.count.hits.Load(),
		Misses:        s.count.misses.Load(),
		Corrupt:       s.count.corrupt.Load(),
		Puts:          s.count.puts.Load(),
		Dedups:        s.count.dedups.Load(),
		EvictedBytes:  s.count.evictedBytes.Load(),
		EvictedChunks: s.count.evictedChunks.Load(),
		MovedChunks:   s.count.moved.Load(),
		SealErrors:    s.count.sealErr.Load(),
		OpenFiles:     s.files.count(),
		Pinned:        int64(s.pins.Load().count()),
	}
	for _, g := range s.segments() {
		st.Segments++
		st.Chunks += g.live.Load()
		st.ProvenBytes += g.provenBytes.Load()
	}
	s.pendingMu.RLock()
	st.Pending = int64(len(s.pending))
	s.pendingMu.RUnlock()
	return st
}

// enter begins an operation that Close must wait for; leave ends it.
func (s *Store) enter() error {
	if !s.life.enter() {
		return ErrClosed
	}
	return nil
}

func (s *Store) leave() { s.life.leave() }

// lockAppend takes the end of the active segment; unlockAppend gives it back.
func (s *Store) lockAppend(ctx context.Context) error {
	select {
	case s.appendSem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) unlockAppend() { <-s.appendSem }

// Sync makes every chunk put so far survive a power cut.
func (s *Store) Sync(ctx context.Context) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return s.settle(ctx)
}

// settle has the background loop finish queued seals and sync the active
// segment, and waits for it.
func (s *Store) settle(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case s.syncs <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close seals what is open, waits for the operations under way and gives up the
// directory. Errors tell that recent chunks or heat may be lost, not the rest.
// Further calls return ErrClosed.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return ErrClosed
	}
	s.life.shut()
	s.quit()
	<-s.done
	err := errors.Join(s.sealActive(), s.saveHeat(), s.syncHoles(), s.closeIndex())
	s.files.closeAll()
	if err == nil {
		s.tableMu.Lock()
		s.state.clean = true
		s.state.nextID = s.nextID
		err = writeState(s.fs, s.opt.Dir, s.state)
		s.tableMu.Unlock()
	}
	err = errors.Join(err, s.lock.Close())
	if err != nil {
		return fmt.Errorf("close chunk store %s: %w", s.opt.Dir, err)
	}
	return nil
}

// closeIndex closes the database. On a full disk it makes room first, or else
// leaves it as a killed process would: closing means writing.
func (s *Store) closeIndex() error {
	if s.indexRoom() != nil {
		s.evictMu.Lock()
		s.sweepAll(func() bool { return false }, s.opt.MinFreeBytes)
		s.evictMu.Unlock()
	}
	if err := s.indexRoom(); err != nil {
		return fmt.Errorf("index database left open: %w", err)
	}
	return errors.Join(s.db.sync(), s.db.close())
}

// openError names the directory in every failure of Open.
func openError(dir string, err error) error {
	return fserr.New(fserr.KindOf(err), "open chunk store", dir, err)
}
