package chunkstore

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// hotSlots bounds the blocks held in memory: 4 MiB of them.
const hotSlots = 1024

// hotBlocks keeps verified blocks that are read again and again, as when many
// guests start from one image: a read of one costs neither a system call nor a
// checksum. A block is taken in when it is met for the third time and none that
// shares its slot was met in between, so that reads all over many files displace
// little and copy next to nothing.
//
// What is held are the very bytes that were verified: they are right whatever has
// become of the file. All of it is forgotten whenever a chunk leaves the store.
type hotBlocks struct {
	age atomic.Uint64 // how often that happened
	// keys and met tell what is held in the slots and which other block was met last,
	// with how often before in its lowest bits. They only save a look at the slot,
	// which has the digest: close together, they stay in the processor's cache.
	keys, met [hotSlots]atomic.Uint64
	slots     [hotSlots]hotSlot
}

// timesMet are the bits of met that count.
const timesMet = 3

type hotSlot struct {
	mu     sync.RWMutex // only ever tried: whoever does not get it reads the file
	digest Digest
	block  int64 // number in the chunk
	age    uint64
	held   int // bytes from the start of the block; 0: nothing
	buf    *[blockSize]byte
}

// hotKey tells blocks from each other, nearly always. Its top bits number the slot.
func hotKey(d *Digest, block int64) uint64 {
	key := (binary.LittleEndian.Uint64(d[16:]) + uint64(block)) * 0x9e3779b97f4a7c15
	return key&^timesMet | timesMet + 1 // never 0
}

func hotSlotOf(key uint64) int { return int(key >> 54) } // 10 bits

// read fills p from off of a chunk on, all of it or nothing.
func (h *hotBlocks) read(d *Digest, p []byte, off int64) bool {
	block, at := off/blockSize, int(off%blockSize)
	key := hotKey(d, block)
	i := hotSlotOf(key)
	s := &h.slots[i]
	if h.keys[i].Load() != key || !s.mu.TryRLock() {
		return false
	}
	defer s.mu.RUnlock()
	if s.held < at+len(p) || s.block != block || s.age != h.age.Load() || s.digest != *d {
		return false
	}
	copy(p, s.buf[at:])
	return true
}

// offer is told of p, just read from off of a chunk on and verified, and of the age
// when that began.
func (h *hotBlocks) offer(d *Digest, p []byte, off int64, age uint64) {
	if off%blockSize != 0 {
		return
	}
	block := off / blockSize
	key := hotKey(d, block)
	i := hotSlotOf(key)
	if met := h.met[i].Load(); met&^timesMet != key {
		h.met[i].Store(key)
		return
	} else if met&timesMet == 0 {
		h.met[i].Store(met + 1)
		return
	}
	s := &h.slots[i]
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	if s.buf == nil {
		s.buf = new([blockSize]byte)
	}
	s.digest, s.block, s.age = *d, block, age
	s.held = copy(s.buf[:], p)
	h.keys[i].Store(key)
}

// forget makes the blocks held so far unknown.
func (h *hotBlocks) forget() { h.age.Add(1) }

// Rest gives memory back that is taken to be fast: the blocks that were read again
// and again are read from their segments next time.
func (s *Store) Rest() { s.hot.release() }

func (h *hotBlocks) release() {
	for i := range h.slots {
		s := &h.slots[i]
		s.mu.Lock()
		s.held, s.buf = 0, nil
		s.mu.Unlock()
		h.keys[i].Store(0)
		h.met[i].Store(0)
	}
}
