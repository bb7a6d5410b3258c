package chunkstore

import (
	"bytes"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
)

// MemIndex is an index database in memory that forgets, at a power cut, what
// was not synced.
type MemIndex struct {
	mu      sync.Mutex
	now     map[string][]byte
	durable map[string][]byte
	since   []change
	tick    func(op string) error
	fail    error
	watch   func()
}

// NewMemIndex gives an empty database. tick is asked before each change, and
// before each sync, whether it may be made.
func NewMemIndex(tick func(op string) error) *MemIndex {
	return &MemIndex{now: map[string][]byte{}, durable: map[string][]byte{}, tick: tick}
}

// Use makes opt use this database.
func (m *MemIndex) Use(opt Options) Options {
	opt.openIndex = func(string) (index, error) { return m, nil }
	return opt
}

// Fail has every change fail with err, until it is nil.
func (m *MemIndex) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Watch has fn called before every change.
func (m *MemIndex) Watch(fn func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watch = fn
}

// AfterPowerCut gives what may be left: everything synced, and of the changes
// since then a first part, as long as odds has it.
func (m *MemIndex) AfterPowerCut(rng *rand.Rand, odds float64, tick func(op string) error) *MemIndex {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := NewMemIndex(tick)
	next.now = maps.Clone(m.durable)
	for _, c := range m.since {
		if rng.Float64() >= odds {
			break
		}
		next.change(c)
	}
	next.since = nil
	next.durable = maps.Clone(next.now)
	return next
}

func (m *MemIndex) change(c change) {
	m.since = append(m.since, c)
	if c.val == nil {
		delete(m.now, string(c.key))
	} else {
		m.now[string(c.key)] = c.val
	}
}

func (m *MemIndex) check(op string) error {
	if err := m.tick(op); err != nil {
		return err
	}
	return m.fail
}

func (m *MemIndex) intact() bool { return true }

func (m *MemIndex) get(key []byte, fn func([]byte) error) error {
	m.mu.Lock()
	val, ok := m.now[string(key)]
	m.mu.Unlock()
	if !ok {
		return errNoKey
	}
	return fn(val)
}

func (m *MemIndex) apply(changes []change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("index write"); err != nil {
		return err
	}
	if m.watch != nil {
		m.watch()
	}
	for _, c := range changes {
		m.change(change{bytes.Clone(c.key), bytes.Clone(c.val)})
	}
	return nil
}

func (m *MemIndex) sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("index sync"); err != nil {
		return err
	}
	m.durable, m.since = maps.Clone(m.now), nil
	return nil
}

func (m *MemIndex) walk(prefix []byte, fn func(key, val []byte) error) error {
	m.mu.Lock()
	now := maps.Clone(m.now)
	m.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if strings.HasPrefix(key, string(prefix)) {
			if err := fn([]byte(key), now[key]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *MemIndex) close() error { return nil }

// Record is a record as a scan finds it.
type Record struct {
	Digest    Digest
	Off, Size int64
}

// Scan finds the records of a segment file.
func Scan(r io.ReaderAt, size int64, id uint32, cookie uint64, verify bool) (records []Record, sealed bool) {
	found := scanSegment(r, size, id, cookie, verify)
	for _, e := range found.entries {
		records = append(records, Record{e.digest, e.offset() + headerSize + tableSize(int64(e.size)), int64(e.size)})
	}
	return records, found.sealed
}

// Loc packing, for its own test.
var (
	MakeLoc = makeLoc
)

// Parts takes a Loc apart.
func (l Loc) Parts() (segment, unit uint32, blocks int) { return l.segment(), l.unit(), l.blocks() }
