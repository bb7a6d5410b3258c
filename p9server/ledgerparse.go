package p9server

import (
	"encoding/binary"
	"fmt"
)

// ledgerState is what a ledger says. All of it has been checked as far as that is
// possible without the trees.
type ledgerState struct {
	current  uint32
	rec      ledgerRecord
	received int // bytes in rec.in
	sent     int // bytes of rec.out
	trees    map[uint32]heldTree
	fids     map[uint32]heldFID
	waiting  map[uint16]heldRequest
}

type heldTree struct {
	aname string
	fsid  uint64
}

type heldFID struct {
	fid
	tree uint32
	name string // of an extended attribute
}

type heldRequest struct {
	ledgerEntry
	aname string
}

func badLedger(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrLedger, fmt.Sprintf(format, a...))
}

// parseLedger reads a ledger that a dead process left, which may hold anything:
// nil if it has not been used yet.
func parseLedger(mem []byte, maxFIDs int) (*ledgerState, error) {
	if len(mem) != ledgerSize {
		return nil, badLedger("%d bytes", len(mem))
	}
	if binary.LittleEndian.Uint64(mem) == 0 {
		return nil, nil
	}
	if string(mem[:len(ledgerMagic)]) != ledgerMagic {
		return nil, badLedger("magic %q", mem[:len(ledgerMagic)])
	}
	l := &ledger{mem: mem, current: word(mem, ledgerAt).Load()}
	if l.current > 1 {
		return nil, badLedger("record %d", l.current)
	}
	l.rec.get(mem[recordAt+int(l.current)*recordSize:][:recordSize])
	s := &ledgerState{
		current: l.current, rec: l.rec,
		trees: map[uint32]heldTree{}, fids: map[uint32]heldFID{}, waiting: map[uint16]heldRequest{},
	}
	if err := s.checkRecord(); err != nil {
		return nil, err
	}
	received, sent := l.inLen(l.rec.in).Load(), l.msgLen(l.current).Load()
	if received > requestBuffer-l.rec.base || l.rec.start > l.rec.base+received || sent > l.rec.end-l.rec.sent {
		return nil, badLedger("%d bytes received, %d sent", received, sent)
	}
	s.received, s.sent = int(l.rec.base+received), int(l.rec.sent+sent)
	if err := s.replay(l.log(l.rec.log)[:l.rec.length], maxFIDs); err != nil {
		return nil, err
	}
	return s, s.prune()
}

func (s *ledgerState) checkRecord() error {
	r := &s.rec
	switch {
	case r.in > 1, r.log > 1, r.out > outWaited:
		return badLedger("buffers %d, %d, %d", r.in, r.log, r.out)
	case r.base > requestBuffer, r.skip > maxMessageSize:
		return badLedger("base %d, skip %d", r.base, r.skip)
	case r.end > outSize-bufferLead, r.sent > r.end:
		return badLedger("replies from %d to %d", r.sent, r.end)
	case r.length > logSize:
		return badLedger("log of %d bytes", r.length)
	case r.msize != 0 && (r.msize < minMsize || r.msize > maxMessageSize):
		return badLedger("msize %d", r.msize)
	}
	return nil
}

// replay does what the log says.
func (s *ledgerState) replay(b []byte, maxFIDs int) error {
	for len(b) > 0 {
		e, name, rest, err := nextEntry(b)
		if err != nil {
			return err
		}
		if err := s.apply(&e, name); err != nil {
			return err
		}
		if len(s.fids) > maxFIDs || len(s.trees) > maxTrees {
			return badLedger("%d fids, %d trees", len(s.fids), len(s.trees))
		}
		b = rest
	}
	return nil
}

// maxTrees bounds the attaches that a log speaks of.
const maxTrees = 1 << 20

func nextEntry(b []byte) (e ledgerEntry, name, rest []byte, err error) {
	if len(b) < entryShort {
		return e, nil, nil, badLedger("%d bytes behind the last entry", len(b))
	}
	le := binary.LittleEndian
	head, ids := le.Uint64(b), le.Uint64(b[8:])
	e = ledgerEntry{
		kind: entryKind(head), state: fidState(head >> 8), mode: uint8(head >> 16), id: uint32(ids), tree: uint32(ids >> 32),
	}
	size, n := e.kind.size(), int(uint16(head>>32))
	if size == entryShort {
		n = 0
	}
	if len(b) < size+n+padding(n) {
		return e, nil, nil, badLedger("an entry of kind %d is cut", e.kind)
	}
	if size == entrySize {
		e.node, e.size, e.n = le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint32(b[32:])
	}
	return e, b[size : size+n], b[size+n+padding(n):], nil
}

func (s *ledgerState) apply(e *ledgerEntry, name []byte) error {
	switch e.kind {
	case entryFID:
		if e.state < fidWalked || e.state > fidXattrList || e.id == noFID || len(name) > nameMax {
			return badLedger("fid %d in state %d", e.id, e.state)
		}
		s.fids[e.id] = heldFID{
			fid:  fid{node: e.node, size: e.size, id: e.id, state: e.state, kind: e.mode & 0xf},
			tree: e.tree, name: string(name),
		}
	case entryDrop:
		delete(s.fids, e.id)
	case entryClear:
		clear(s.fids)
		clear(s.waiting)
	case entryTree:
		s.trees[e.tree] = heldTree{aname: string(name), fsid: e.node}
	case entryRead, entryAttach:
		if e.id > 0xffff || e.n > maxMessageSize && e.kind == entryRead || e.size>>63 != 0 || e.n == 0 && e.kind == entryRead {
			return badLedger("request %d of %d bytes", e.id, e.n)
		}
		s.waiting[uint16(e.id)] = heldRequest{ledgerEntry: *e, aname: string(name)}
	case entryDone:
		delete(s.waiting, uint16(e.id))
	default:
		return badLedger("an entry of kind %d", e.kind)
	}
	return nil
}

// prune forgets trees that nothing refers to, and finds references to none.
func (s *ledgerState) prune() error {
	used := map[uint32]bool{}
	for _, f := range s.fids {
		used[f.tree] = true
	}
	for _, r := range s.waiting {
		if r.kind == entryRead {
			used[r.tree] = true
		}
	}
	for id := range used {
		if _, ok := s.trees[id]; !ok {
			return badLedger("no tree %d", id)
		}
	}
	if len(used) > maxAttaches {
		return badLedger("%d trees", len(used))
	}
	for id := range s.trees {
		if !used[id] {
			delete(s.trees, id)
		}
	}
	return nil
}
