package p9server

import "math/rand/v2"

// fid is one entry of the table: 24 bytes without pointers, so that a guest
// holding a fid for every directory entry it knows costs little memory and the
// garbage collector nothing.
type fid struct {
	node uint64
	// size is the file's size once open, the value's size for an xattr fid.
	size uint64
	id   uint32
	// slot is the place of the attach in conn.attaches.
	slot  uint16
	state fidState
	// kind is the file type, the S_IFMT bits of the mode shifted right by 12.
	kind uint8
}

// mode gives the file type bits of the node's mode.
func (f *fid) mode() uint32 { return uint32(f.kind) << 12 }

// fidState tells what may be done with a fid. The zero state marks an empty
// place of the table.
type fidState uint8

const (
	// fidWalked: names a node.
	fidWalked fidState = iota + 1
	// fidOpen: opened for reading.
	fidOpen
	// fidXattr: holds the value of an extended attribute.
	fidXattr
	// fidXattrList: holds the list of the names of extended attributes.
	fidXattrList
	// fidAttaching: reserved by an attach that has not been answered.
	fidAttaching
)

// fidTable maps fid numbers to entries: open addressing with linear probing,
// at most three quarters full, shrinking again when emptied. It belongs to the
// read loop of one connection and has no lock.
type fidTable struct {
	places []fid // power of two
	count  int
	shift  uint8
	// seed makes probing sequences unpredictable to the peer.
	seed uint64
}

const minFIDPlaces = 128

func newFIDTable() fidTable {
	t := fidTable{seed: rand.Uint64() | 1}
	t.resize(minFIDPlaces)
	return t
}

func (t *fidTable) resize(n int) {
	old := t.places
	t.places = make([]fid, n)
	t.shift = 64
	for m := n; m > 1; m >>= 1 {
		t.shift--
	}
	for i := range old {
		if old[i].state != 0 {
			t.places[t.probe(old[i].id)] = old[i]
		}
	}
}

// home is the first place probed for id.
func (t *fidTable) home(id uint32) int {
	return int((uint64(id) + 1) * t.seed >> t.shift)
}

// probe finds the place of id, or the empty place where it belongs.
func (t *fidTable) probe(id uint32) int {
	mask := len(t.places) - 1
	for i := t.home(id); ; i = (i + 1) & mask {
		if p := &t.places[i]; p.state == 0 || p.id == id {
			return i
		}
	}
}

// get gives the entry of id, or nil. The pointer is valid until the next put or
// remove.
func (t *fidTable) get(id uint32) *fid {
	if p := &t.places[t.probe(id)]; p.state != 0 {
		return p
	}
	return nil
}

// put stores f under f.id, replacing what was there. f.state must not be 0.
func (t *fidTable) put(f fid) {
	i := t.probe(f.id)
	if t.places[i].state == 0 {
		if (t.count+1)*4 > len(t.places)*3 {
			t.resize(len(t.places) * 2)
			i = t.probe(f.id)
		}
		t.count++
	}
	t.places[i] = f
}

// remove takes id out and gives what it was; ok is false if it was not there.
func (t *fidTable) remove(id uint32) (f fid, ok bool) {
	i := t.probe(id)
	if t.places[i].state == 0 {
		return fid{}, false
	}
	f = t.places[i]
	t.closeGap(i)
	t.count--
	if len(t.places) > minFIDPlaces && t.count*4 < len(t.places) {
		t.resize(len(t.places) / 2)
	}
	return f, true
}

// closeGap empties place i and moves later entries of the same run forward,
// so that no probing sequence is cut by the gap.
func (t *fidTable) closeGap(i int) {
	mask := len(t.places) - 1
	for j := (i + 1) & mask; t.places[j].state != 0; j = (j + 1) & mask {
		// The entry at j may move to i unless its home lies after i.
		if (j-t.home(t.places[j].id))&mask >= (j-i)&mask {
			t.places[i] = t.places[j]
			i = j
		}
	}
	t.places[i] = fid{}
}

// each calls fn for every entry, in no order. fn must not change the table.
func (t *fidTable) each(fn func(f fid)) {
	for i := range t.places {
		if t.places[i].state != 0 {
			fn(t.places[i])
		}
	}
}

// clear drops every entry and the memory they took.
func (t *fidTable) clear() {
	t.count = 0
	t.places = nil
	t.resize(minFIDPlaces)
}
