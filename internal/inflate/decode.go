package inflate

import "encoding/binary"

// What the decoder is in the middle of.
const (
	atHeader = iota // before a block header, or at the end if last
	inStored
	inCoded
	atEnd
)

const (
	maxMatch  = 258
	windowLen = 32 << 10

	// The fast loop runs while this much input and room are left: two refills of
	// eight bytes; three literals, a match, and the words a copy may overshoot.
	fastInput = 16
	fastRoom  = 3 + maxMatch + 16

	// headerInput is more than a block header can be long, bytes.
	headerInput = 512
)

// decoder is the state of one deflate stream over src. It can stop anywhere in
// its output and go on later.
type decoder struct {
	src  []byte
	next int    // src[next:] is not in acc yet
	acc  uint64 // input bits, the next one lowest; above n either 0 or what follows
	n    uint   // bits of acc that count

	state            uint8
	last             bool // the current block is the last
	fixed            bool // lit and dst hold the fixed code
	more             bool // src is only the front of the input
	pause            bool // run stops before each block
	paused           bool // it has, before the block that is next
	stored           int  // bytes left of a stored block
	matchLen, matchD int  // match that did not fit in the output

	lens [numLit + numDst]uint8
	lit  [litEntries]uint32
	dst  [dstEntries]uint32
	pre  [1 << preBits]uint32
	b    builder
}

func (d *decoder) reset(src []byte) {
	d.src, d.next, d.acc, d.n = src, 0, 0, 0
	d.state, d.last = atHeader, false
	d.more, d.pause, d.paused = false, false, false
	d.stored, d.matchLen = 0, 0
}

// run decodes into out[pos:], where out[:pos] is the output before it, until out
// is full or the stream ends, and returns the new pos. It also stops, at a place
// where it can go on, with errInput when src may not last and there is more, and
// with errBlock where it is to pause.
func (d *decoder) run(out []byte, pos int) (int, error) {
	for pos < len(out) {
		var err error
		switch d.state {
		case atEnd:
			return pos, nil
		case atHeader:
			err = d.between()
		case inStored:
			pos, err = d.copyStored(out, pos)
		default:
			pos, err = d.symbols(out, pos)
		}
		if err != nil {
			return pos, err
		}
	}
	return pos, nil
}

// fill loads whole bytes until acc holds more than 56 bits or src is used up.
func (d *decoder) fill() {
	for d.n <= 56 && d.next < len(d.src) {
		d.acc |= uint64(d.src[d.next]) << d.n
		d.next++
		d.n += 8
	}
}

// bits takes k <= 16 bits; fill must have been called.
func (d *decoder) bits(k uint) (uint, error) {
	if k > d.n {
		return 0, ErrTruncated
	}
	v := uint(d.acc & (1<<k - 1))
	d.acc >>= k
	d.n -= k
	return v, nil
}

// between is what there is to do between two blocks.
func (d *decoder) between() error {
	switch {
	case d.last:
		d.state = atEnd
		return nil
	case d.pause && !d.paused:
		d.paused = true
		return errBlock
	case d.low(headerInput):
		return errInput
	}
	d.paused = false
	return d.header()
}

// low reports that less than n bytes of input are left while there is more.
func (d *decoder) low(n int) bool { return d.more && len(d.src)-d.next < n }

func (d *decoder) header() error {
	d.fill()
	h, err := d.bits(3)
	if err != nil {
		return err
	}
	d.last = h&1 != 0
	switch h >> 1 {
	case 0:
		return d.storedHeader()
	case 1:
		return d.fixedHeader()
	case 2:
		return d.dynamicHeader()
	}
	return ErrCorrupt
}

// unread gives whole bytes in acc back to src, drops the rest of a byte begun,
// and returns the place in src of the next byte.
func (d *decoder) unread() int {
	d.next -= int(d.n >> 3)
	d.acc, d.n = 0, 0
	return d.next
}

func (d *decoder) storedHeader() error {
	p := d.src[d.unread():]
	if len(p) < 4 {
		return ErrTruncated
	}
	size := binary.LittleEndian.Uint16(p)
	if size != ^binary.LittleEndian.Uint16(p[2:]) {
		return ErrCorrupt
	}
	d.next += 4
	d.stored = int(size)
	d.state = inStored
	return nil
}

func (d *decoder) copyStored(out []byte, pos int) (int, error) {
	n := min(d.stored, len(d.src)-d.next)
	n = copy(out[pos:], d.src[d.next:d.next+n])
	d.next += n
	d.stored -= n
	pos += n
	if d.stored == 0 {
		d.state = atHeader
		return pos, nil
	}
	if pos < len(out) {
		if d.more {
			return pos, errInput
		}
		return pos, ErrTruncated
	}
	return pos, nil
}

func (d *decoder) fixedHeader() error {
	d.state = inCoded
	if d.fixed {
		return nil
	}
	for i := range numLit {
		switch {
		case i < 144:
			d.lens[i] = 8
		case i < 256:
			d.lens[i] = 9
		case i < 280:
			d.lens[i] = 7
		default:
			d.lens[i] = 8
		}
	}
	for i := range numDst {
		d.lens[numLit+i] = 5
	}
	d.fixed = d.b.build(d.lit[:], litBits, d.lens[:numLit], litSymbols[:]) &&
		d.b.build(d.dst[:], dstBits, d.lens[numLit:], dstSymbols[:])
	if !d.fixed {
		return ErrCorrupt
	}
	return nil
}

// preOrder is the order in which a dynamic block lists the lengths of the code
// that its code lengths are written in.
var preOrder = [numPre]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15} //nolint:gochecknoglobals // a constant table

func (d *decoder) dynamicHeader() error {
	d.fill()
	h, err := d.bits(14)
	if err != nil {
		return err
	}
	lits, dsts, pres := int(h&31)+257, int(h>>5&31)+1, int(h>>10)+4
	if lits > 286 || dsts > 30 {
		return ErrCorrupt
	}
	var preLens [numPre]uint8
	for _, sym := range preOrder[:pres] {
		d.fill()
		l, err := d.bits(3)
		if err != nil {
			return err
		}
		preLens[sym] = uint8(l)
	}
	if !d.b.build(d.pre[:], preBits, preLens[:], preSymbols[:]) {
		return ErrCorrupt
	}
	if err := d.codeLengths(d.lens[:lits+dsts]); err != nil {
		return err
	}
	d.fixed = false
	if !d.b.build(d.lit[:], litBits, d.lens[:lits], litSymbols[:]) ||
		!d.b.build(d.dst[:], dstBits, d.lens[lits:lits+dsts], dstSymbols[:]) {
		return ErrCorrupt
	}
	d.state = inCoded
	return nil
}

// codeLengths reads the run-length coded lengths of both codes.
func (d *decoder) codeLengths(lens []uint8) error {
	for i := 0; i < len(lens); {
		d.fill()
		e := d.pre[d.acc&(1<<preBits-1)]
		if e&entSpecial != 0 {
			return ErrCorrupt
		}
		if _, err := d.bits(uint(e & entBits)); err != nil {
			return err
		}
		sym := uint8(e >> entValue)
		if sym < 16 {
			lens[i] = sym
			i++
			continue
		}
		run, err := d.lengthRun(lens, i, sym)
		if err != nil {
			return err
		}
		i += run
	}
	return nil
}

// lengthRun expands one of the three repeat codes at lens[i].
func (d *decoder) lengthRun(lens []uint8, i int, sym uint8) (int, error) {
	var value uint8
	base, extra := uint(3), uint(3)
	switch sym {
	case 16:
		if i == 0 {
			return 0, ErrCorrupt
		}
		value, extra = lens[i-1], 2
	case 18:
		base, extra = 11, 7
	}
	more, err := d.bits(extra)
	if err != nil {
		return 0, err
	}
	run := int(base + more)
	if run > len(lens)-i {
		return 0, ErrCorrupt
	}
	for j := range run {
		lens[i+j] = value
	}
	return run, nil
}

// symbols decodes a Huffman coded block until it ends or out is full.
func (d *decoder) symbols(out []byte, pos int) (int, error) {
	if d.matchLen > 0 {
		pos = d.copyMatch(out, pos)
	}
	for pos < len(out) && d.state == inCoded {
		var err error
		if len(d.src)-d.next >= fastInput && len(out)-pos >= fastRoom {
			pos, err = d.fast(out, pos)
		} else if d.low(fastInput) {
			err = errInput
		} else {
			pos, err = d.careful(out, pos)
		}
		if err != nil {
			return pos, err
		}
	}
	return pos, nil
}

// careful decodes one symbol anywhere in the input and output.
func (d *decoder) careful(out []byte, pos int) (int, error) {
	d.fill()
	e := d.lit[d.acc&(1<<litBits-1)]
	if e&entLink != 0 {
		e = d.lit[linked(e, d.acc, litBits)]
	}
	v, err := d.take(e)
	switch {
	case err != nil:
		return pos, err
	case e&entLiteral != 0:
		out[pos] = byte(v)
		return pos + 1, nil
	case e&entEnd != 0:
		d.state = atHeader
		return pos, nil
	}
	d.matchLen = v
	e = d.dst[d.acc&(1<<dstBits-1)]
	if e&entLink != 0 {
		e = d.dst[linked(e, d.acc, dstBits)]
	}
	if d.matchD, err = d.take(e); err != nil {
		return pos, err
	}
	if d.matchD > pos {
		return pos, ErrCorrupt
	}
	return d.copyMatch(out, pos), nil
}

// linked is the place in a table of the entry that link e leads to.
func linked(e uint32, acc uint64, primary uint) uint32 {
	return e>>entValue&entIndex + uint32(acc>>primary)&(1<<(e>>entShift&entWidth)-1)
}

// take consumes what entry e stands for and gives its value with extra bits.
func (d *decoder) take(e uint32) (int, error) {
	if e&(entSpecial|entEnd) == entSpecial {
		return 0, ErrCorrupt
	}
	k := uint(e & entBits)
	if k > d.n {
		return 0, ErrTruncated
	}
	extra := d.acc & (1<<k - 1) >> (e >> entShift & entWidth)
	d.acc >>= k
	d.n -= k
	return int(e>>entValue&entIndex) + int(extra), nil
}

// copyMatch copies the pending match as far as out has room.
func (d *decoder) copyMatch(out []byte, pos int) int {
	end := min(pos+d.matchLen, len(out))
	d.matchLen -= end - pos
	from := pos - d.matchD
	for pos < end {
		// What is copied doubles as long as source and destination overlap.
		pos += copy(out[pos:end], out[from:pos])
	}
	return pos
}
