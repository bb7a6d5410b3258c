package chunkstore

import (
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"go.uber.org/zap"
)

// badgerIndex is the index database. It holds only small values, so that the
// value log stays empty and its garbage collection is never needed.
type badgerIndex struct {
	db   *badger.DB
	lost bool // tables that were there are not part of the database
}

// openBadger opens or creates the database in dir, after checking its tables.
func openBadger(dir string, log *zap.Logger) (b *badgerIndex, err error) {
	defer asError(&err)
	tables, err := checkTables(dir)
	if err != nil {
		return nil, fmt.Errorf("open index database: %w", err)
	}
	opts := badger.DefaultOptions(dir).
		WithLogger(badgerLog{log.Named("index").Sugar()}).
		// Two small memtables bound the replay after a crash and the memory.
		WithMemTableSize(8 << 20).
		WithNumMemtables(2).
		WithNumLevelZeroTables(2).
		WithNumLevelZeroTablesStall(6).
		WithNumCompactors(2).
		WithCompactL0OnClose(true).
		// Digests do not compress; without compression no block cache is needed.
		WithCompression(options.None).
		WithBlockCacheSize(0).
		WithIndexCacheSize(0).
		// The default makes a sparse file of 2 GiB at once.
		WithValueLogFileSize(16 << 20).
		WithValueThreshold(1 << 20).
		WithNumVersionsToKeep(1).
		WithDetectConflicts(false).
		WithMetricsEnabled(false).
		WithSyncWrites(false).
		// A block is decoded only if its checksum is right.
		WithChecksumVerificationMode(options.OnBlockRead)
	db, err := badger.Open(opts)
	if err != nil {
		return nil, fmt.Errorf("open index database %s: %w", dir, err)
	}
	for _, t := range db.Tables() {
		delete(tables, t.ID)
	}
	return &badgerIndex{db: db, lost: len(tables) > 0}, nil
}

// intact is false where the list of tables has lost some, which badger then
// removes. Tables left over from a crash look the same.
func (b *badgerIndex) intact() bool { return !b.lost }

// asError makes a panic over damaged data the error it should have been.
func asError(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("index database: panic: %v", p)
	}
}

func (b *badgerIndex) get(key []byte, fn func(val []byte) error) (err error) {
	defer asError(&err)
	txn := b.db.NewTransaction(false)
	defer txn.Discard()
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return errNoKey
	}
	if err != nil {
		return fmt.Errorf("index get: %w", err)
	}
	return item.Value(fn)
}

func (b *badgerIndex) apply(changes []change) error {
	batch := b.db.NewWriteBatch()
	defer batch.Cancel()
	for _, c := range changes {
		var err error
		if c.val == nil {
			err = batch.Delete(c.key)
		} else {
			err = batch.SetEntry(badger.NewEntry(c.key, c.val))
		}
		if err != nil {
			return fmt.Errorf("index write: %w", err)
		}
	}
	if err := batch.Flush(); err != nil {
		return fmt.Errorf("index write: %w", err)
	}
	return nil
}

func (b *badgerIndex) sync() error {
	if err := b.db.Sync(); err != nil {
		return fmt.Errorf("index sync: %w", err)
	}
	return nil
}

func (b *badgerIndex) walk(prefix []byte, fn func(key, val []byte) error) (err error) {
	defer asError(&err)
	txn := b.db.NewTransaction(false)
	defer txn.Discard()
	opts := badger.DefaultIteratorOptions
	opts.Prefix = prefix
	it := txn.NewIterator(opts)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		if err := item.Value(func(val []byte) error { return fn(item.Key(), val) }); err != nil {
			return err
		}
	}
	return nil
}

func (b *badgerIndex) close() error {
	if err := b.db.Close(); err != nil {
		return fmt.Errorf("close index database: %w", err)
	}
	return nil
}

// badgerLog passes badger's warnings and errors on; its progress reports are
// debug messages here.
type badgerLog struct{ log *zap.SugaredLogger }

func (l badgerLog) Errorf(format string, args ...any)   { l.log.Errorf(format, args...) }
func (l badgerLog) Warningf(format string, args ...any) { l.log.Warnf(format, args...) }
func (l badgerLog) Infof(format string, args ...any)    { l.log.Debugf(format, args...) }
func (l badgerLog) Debugf(string, ...any)               {}
