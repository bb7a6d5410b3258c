package soci

import "encoding/binary"

// buffer is a flatbuffer that nobody vouches for. Its first failed access is
// kept and makes all later ones give nothing.
type buffer struct {
	data []byte
	// work is how many more bytes may be visited. Parts may be referred to from
	// many places, so that a short buffer can be a long read.
	work int
	err  error
}

// workFactor is how often, on average, each byte of a buffer may be visited.
const workFactor = 4

func newBuffer(data []byte) *buffer {
	return &buffer{data: data, work: workFactor*len(data) + 1024}
}

func (b *buffer) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// spend accounts for n bytes of work.
func (b *buffer) spend(n int) bool {
	if b.err != nil {
		return false
	}
	if b.work -= n; b.work < 0 {
		b.fail(ErrRepeated)
		return false
	}
	return true
}

// bytes gives n bytes at off, or nil when they are not there.
func (b *buffer) bytes(off, n int) []byte {
	if b.err != nil {
		return nil
	}
	if off < 0 || n < 0 || off > len(b.data) || n > len(b.data)-off {
		b.fail(ErrFlatbuffer)
		return nil
	}
	return b.data[off : off+n : off+n]
}

func (b *buffer) u8(off int) uint8 {
	if p := b.bytes(off, 1); p != nil {
		return p[0]
	}
	return 0
}

func (b *buffer) u16(off int) int {
	if p := b.bytes(off, 2); p != nil {
		return int(binary.LittleEndian.Uint16(p))
	}
	return 0
}

func (b *buffer) u32(off int) uint32 {
	if p := b.bytes(off, 4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (b *buffer) i64(off int) int64 {
	if p := b.bytes(off, 8); p != nil {
		return int64(binary.LittleEndian.Uint64(p))
	}
	return 0
}

// follow gives what the reference at off points to.
func (b *buffer) follow(off int) int {
	rel := int64(b.u32(off))
	if rel == 0 || int64(off)+rel >= int64(len(b.data)) {
		b.fail(ErrFlatbuffer)
		return 0
	}
	return off + int(rel)
}

// table is a table of a buffer: where it is, and its vtable.
type table struct {
	b       *buffer
	pos     int
	vtable  int
	vfields int // fields that the vtable has room for
}

// root gives the table that the buffer stands for.
func (b *buffer) root() table { return b.table(b.follow(0)) }

func (b *buffer) table(pos int) table {
	vtable := int64(pos) - int64(int32(b.u32(pos)))
	if vtable < 0 || vtable >= int64(len(b.data)) {
		b.fail(ErrFlatbuffer)
		return table{b: b}
	}
	t := table{b: b, pos: pos, vtable: int(vtable)}
	size := b.u16(t.vtable)
	if size < 4 {
		b.fail(ErrFlatbuffer)
		return table{b: b}
	}
	t.vfields = (size - 4) / 2
	return t
}

// field gives where field number i is; ok is false when the table does not have
// it.
func (t table) field(i int) (off int, ok bool) {
	if t.b.err != nil || i >= t.vfields {
		return 0, false
	}
	rel := t.b.u16(t.vtable + 4 + 2*i)
	return t.pos + rel, rel != 0
}

func (t table) i64(i int) int64 {
	if off, ok := t.field(i); ok {
		return t.b.i64(off)
	}
	return 0
}

func (t table) u32(i int) uint32 {
	if off, ok := t.field(i); ok {
		return t.b.u32(off)
	}
	return 0
}

func (t table) u8(i int, missing uint8) uint8 {
	if off, ok := t.field(i); ok {
		return t.b.u8(off)
	}
	return missing
}

// bytes gives a string or a vector of bytes, a view of the buffer.
func (t table) bytes(i int) []byte {
	off, ok := t.field(i)
	if !ok {
		return nil
	}
	return t.b.text(off)
}

// text gives the bytes that the reference at off points to.
func (b *buffer) text(off int) []byte {
	at := b.follow(off)
	n := int64(b.u32(at))
	if n > int64(len(b.data)) {
		b.fail(ErrFlatbuffer)
		return nil
	}
	if !b.spend(int(n) + 4) {
		return nil
	}
	return b.bytes(at+4, int(n))
}

// table gives a table that is a field of this one.
func (t table) table(i int) (table, bool) {
	off, ok := t.field(i)
	if !ok {
		return table{b: t.b}, false
	}
	return t.b.table(t.b.follow(off)), t.b.err == nil
}

// vector is a vector of references.
type vector struct {
	b    *buffer
	off  int // of the first element
	size int // elements
}

// vector gives a vector of references; it has no elements when it is missing.
func (t table) vector(i int) vector {
	off, ok := t.field(i)
	if !ok {
		return vector{b: t.b}
	}
	at := t.b.follow(off)
	n := int64(t.b.u32(at))
	if t.b.err != nil || n*4 > int64(len(t.b.data)-at-4) {
		t.b.fail(ErrFlatbuffer)
		return vector{b: t.b}
	}
	return vector{b: t.b, off: at + 4, size: int(n)}
}

// table gives element i, a table.
func (v vector) table(i int) table {
	v.b.spend(8)
	return v.b.table(v.b.follow(v.off + 4*i))
}

// bytes gives element i, a string.
func (v vector) bytes(i int) []byte { return v.b.text(v.off + 4*i) }
