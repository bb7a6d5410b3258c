package p9server

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"unsafe"
)

// A ledger is shared memory in which a connection keeps all that its successor in
// another process needs: the requests received, the replies going out, and a log
// of what became of fids and tags. Whatever moment a process dies at, the ledger
// holds the state of the last commit; the kernel itself notes how many bytes a
// system call has received or sent since.
//
//	page       magic, number of the record that counts, two records, four mmsghdr
//	in[2]      received bytes; a read goes to the one that the record before did not use
//	out[2]     replies going out: those of the read loop, and those of requests that waited
//	log[2]     entries; when one has grown long, what is left of it is written to the other
const (
	ledgerMagic = "9Pledgr1"
	ledgerAt    = 8  // number of the record that counts
	recordAt    = 64 // two of recordSize
	recordSize  = 64
	mmsghdrAt   = 256 // out 0, out 1, in 0, in 1: by record, and by buffer
	mmsghdrSize = 64
	msgLenAt    = 56 // of msg_len in struct mmsghdr on 64-bit Linux
	inAt        = 64 << 10
	outAt       = 128 << 10
	outSize     = 5 << 18 // flushAt, one message, and some
	logAt       = 4 << 20
	logSize     = 64 << 20
	ledgerSize  = logAt + 2*logSize
	// logMin is how long a log may always grow.
	logMin = 64 << 10
)

// The buffers of replies.
const (
	outLoop = iota
	outWaited
)

// ErrLedger is wrapped by what ServeHeld returns for a ledger that cannot be.
var ErrLedger = errors.New("a ledger that cannot be")

// ledgerRecord is the state that a commit makes count.
type ledgerRecord struct {
	length                   uint64 // of the log
	in, base, start, skip    uint32 // bytes [start, base+received) of in are to be answered, but for skip
	log, out, sent, end      uint32 // bytes [sent, end) of out go out
	msize, attaches, greeted uint32
}

// ledger is one mapped. Without a note to the contrary its fields are guarded by
// conn.wmu.
type ledger struct {
	mem     []byte
	current uint32
	rec     ledgerRecord
	scratch []byte // entries of a request that waited
	limit   uint64 // the length at which the log is written anew
	full    bool   // an entry did not fit
	old     uint64 // length of the other log, while it takes memory
	state   *ledgerState

	// The read loop's own.
	staged []byte // entries that are yet to count
	names  map[uint32]string
	quiet  bool // nothing is noted: what happens is in the log already, or nobody's business
	sock   heldSocket
}

func newLedger(mem []byte) *ledger {
	return &ledger{mem: mem, names: map[uint32]string{}, limit: logMin}
}

func (l *ledger) in(i uint32) []byte {
	at := inAt + int(i)*requestBuffer
	return l.mem[at : at+requestBuffer : at+requestBuffer]
}

// out gives a buffer of replies; it starts as those of the pool do.
func (l *ledger) out(i uint32) []byte {
	at := outAt + int(i)*outSize
	return l.mem[at+bufferLead : at+outSize : at+outSize]
}

func (l *ledger) log(i uint32) []byte {
	at := logAt + int(i)*logSize
	return l.mem[at : at+logSize : at+logSize]
}

func word(mem []byte, at int) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&mem[at])) }

// msgLen is where the kernel notes how much it has sent or received.
func (l *ledger) msgLen(i uint32) *atomic.Uint32 {
	return word(l.mem, mmsghdrAt+int(i)*mmsghdrSize+msgLenAt)
}

// inLen is msgLen of a buffer of received bytes.
func (l *ledger) inLen(i uint32) *atomic.Uint32 { return l.msgLen(2 + i) }

// commit makes rec count, in one step.
func (l *ledger) commit() {
	next := l.current ^ 1
	l.msgLen(next).Store(0)
	l.rec.put(l.mem[recordAt+int(next)*recordSize:][:recordSize])
	word(l.mem, ledgerAt).Store(next)
	l.current = next
}

// put and get copy it as it is: only the same machine reads it again.
func (r *ledgerRecord) put(mem []byte) { *(*ledgerRecord)(unsafe.Pointer(&mem[0])) = *r }

func (r *ledgerRecord) get(mem []byte) { *r = *(*ledgerRecord)(unsafe.Pointer(&mem[0])) }

// entryKind says what an entry of the log does.
type entryKind uint8

const (
	// entryFID: a fid is there, or has changed.
	entryFID entryKind = iota + 1
	// entryDrop: a fid is gone.
	entryDrop
	// entryClear: all fids and requests are gone.
	entryClear
	// entryTree: a tree was attached.
	entryTree
	// entryRead: a Tread waits.
	entryRead
	// entryAttach: a Tattach waits.
	entryAttach
	// entryDone: a request waits no longer.
	entryDone
)

// ledgerEntry is one entry. Not all fields mean something for all kinds.
type ledgerEntry struct {
	kind  entryKind
	state fidState
	mode  uint8  // fid.kind
	id    uint32 // fid, or tag
	tree  uint32 // number of the attach
	node  uint64 // or what tells the tree
	size  uint64 // or offset
	n     uint32 // length of a read, or fid of an attach
}

const (
	entrySize = 40
	// entryShort is that of entries that name something and say nothing of it.
	entryShort = 16
)

func (k entryKind) size() int {
	switch k {
	case entryDrop, entryClear, entryDone:
		return entryShort
	}
	return entrySize
}

// appendEntry appends an entry, and the name that belongs to it.
func appendEntry[T string | []byte](b []byte, e *ledgerEntry, name T) []byte {
	le := binary.LittleEndian
	size := e.kind.size()
	b = le.AppendUint64(b, uint64(e.kind)|uint64(e.state)<<8|uint64(e.mode)<<16|uint64(len(name))<<32)
	b = le.AppendUint64(b, uint64(e.id)|uint64(e.tree)<<32)
	if size == entrySize {
		b = le.AppendUint64(b, e.node)
		b = le.AppendUint64(b, e.size)
		b = le.AppendUint64(b, uint64(e.n))
		b = append(b, name...)
		for range padding(len(name)) {
			b = append(b, 0)
		}
	}
	return b
}

func padding(n int) int { return -n & 7 }

// append writes entries to the log; false if it is full.
func (l *ledger) append(entries []byte) bool {
	if l.rec.length+uint64(len(entries)) > logSize {
		return false
	}
	copy(l.log(l.rec.log)[l.rec.length:], entries)
	l.rec.length += uint64(len(entries))
	return true
}

// note stages an entry of the read loop.
func (l *ledger) note(e ledgerEntry) {
	if !l.quiet {
		l.staged = appendEntry(l.staged, &e, "")
	}
}

// noteFID stages that f of at is there, or has changed.
func (l *ledger) noteFID(at *attach, f fid) {
	if l.quiet {
		return
	}
	name := ""
	if f.state == fidXattr {
		name = l.names[f.id]
	}
	e := fidEntry(at, f)
	l.staged = appendEntry(l.staged, &e, name)
}

func fidEntry(at *attach, f fid) ledgerEntry {
	return ledgerEntry{
		kind: entryFID, state: f.state, mode: f.kind, id: f.id, tree: at.id, node: f.node, size: f.size,
	}
}

func treeEntry(at *attach) ledgerEntry {
	return ledgerEntry{kind: entryTree, tree: at.id, node: at.fsid}
}

// entry is that of a request that waits.
func (r *request) entry() ledgerEntry {
	if r.isAttach() {
		return ledgerEntry{kind: entryAttach, id: uint32(r.tag), n: r.fid}
	}
	return ledgerEntry{kind: entryRead, id: uint32(r.tag), tree: r.at.id, node: r.node, size: uint64(r.off), n: uint32(r.n)}
}

// noteAnswer puts into the log that r is being answered, to count when the answer
// is sent; wmu is held.
func (l *ledger) noteAnswer(r *request, outcome *attachResult) {
	b := appendEntry(l.scratch[:0], &ledgerEntry{kind: entryDone, id: uint32(r.tag)}, "")
	if at := outcome.at; at != nil {
		l.rec.attaches++
		at.id = l.rec.attaches
		e := treeEntry(at)
		b = appendEntry(b, &e, at.aname)
		b = appendEntry(b, &ledgerEntry{
			kind: entryFID, state: fidWalked, mode: outcome.kind, id: outcome.fid, tree: at.id, node: outcome.root,
		}, "")
	}
	l.scratch = b
	l.full = l.full || !l.append(b)
}
