package inflate

import "math/bits"

// Sizes of the decoding tables. The first-level tables are indexed by this many
// bits of input; codes that are longer go on in a second-level table behind it.
// The totals are the largest any complete code of up to 15 bits over 288 and 32
// symbols can need with these first levels.
const (
	maxCodeLen = 15
	litBits    = 11
	litEntries = 2342
	dstBits    = 8
	dstEntries = 402
	preBits    = 7

	numLit = 288 // 286 and 287 take part in the fixed code, and are invalid
	numDst = 32  // likewise 30 and 31
	numPre = 19
)

// A table entry says what the next input bits mean:
//
//	bits 0-4   input bits to consume, extra bits included
//	bits 8-11  of these, how many are the code; in a link: index bits of the
//	           second-level table
//	bit  13    link to a second-level table
//	bit  14    end of block
//	bit  15    set with either of these, alone: no such code
//	bits 16-30 literal byte, base length, base distance, or the index of the
//	           second-level table
//	bit  31    literal
const (
	entLink    = 1 << 13
	entEnd     = 1 << 14
	entSpecial = 1 << 15
	entLiteral = 1 << 31

	entBits   = 31
	entShift  = 8
	entWidth  = 15
	entValue  = 16
	entIndex  = 0x7fff
	entPerLen = 1 | 1<<entShift // adds one code bit to an entry
)

// The symbols' entries without their code lengths.
var (
	litSymbols = makeLitSymbols() //nolint:gochecknoglobals // a constant table
	dstSymbols = makeDstSymbols() //nolint:gochecknoglobals // a constant table
	preSymbols = makePreSymbols() //nolint:gochecknoglobals // a constant table
)

func makeLitSymbols() (s [numLit]uint32) {
	for i := range 256 {
		s[i] = entLiteral | uint32(i)<<entValue
	}
	s[256] = entSpecial | entEnd
	base := uint32(3)
	for i := range 28 {
		extra := uint32(max(0, i/4-1))
		s[257+i] = base<<entValue | extra
		base += 1 << extra
	}
	s[285] = 258 << entValue
	s[286], s[287] = entSpecial, entSpecial
	return s
}

func makeDstSymbols() (s [numDst]uint32) {
	base := uint32(1)
	for i := range 30 {
		extra := uint32(max(0, i/2-1))
		s[i] = base<<entValue | extra
		base += 1 << extra
	}
	s[30], s[31] = entSpecial, entSpecial
	return s
}

func makePreSymbols() (s [numPre]uint32) {
	for i := range s {
		s[i] = uint32(i) << entValue
	}
	return s
}

// builder turns code lengths into a decoding table.
type builder struct {
	count  [maxCodeLen + 1]uint16 // codes of each length not placed yet
	sorted [numLit]uint16         // symbols by (code length, symbol)
}

// build fills table from the code lengths of the symbols. It refuses codes that
// are over-subscribed or incomplete, but for the two forms that have a use: no
// code at all, and a single code of one bit. Both leave entries that are no code.
func (b *builder) build(table []uint32, primary uint, lens []uint8, symbols []uint32) bool {
	used, ok := b.sort(lens)
	if !ok {
		return false
	}
	if used <= 1 {
		for i := range table[:1<<primary] {
			table[i] = entSpecial
		}
	}
	code, next := uint32(0), 0
	for l := uint(1); l <= primary; l++ {
		for range b.count[l] {
			sym := b.sorted[next]
			next++
			table[code] = symbols[sym] + uint32(l)*entPerLen
			code = nextCode(code, l)
		}
		if l < primary {
			copy(table[1<<l:2<<l], table[:1<<l])
		}
	}
	return next == used || b.buildLong(table, primary, symbols, b.sorted[next:used], lens, code)
}

// buildLong places the codes longer than the first level, which begin with code.
func (b *builder) buildLong(table []uint32, primary uint, symbols []uint32, rest []uint16, lens []uint8, code uint32) bool {
	end, start, width, prefix := uint32(1)<<primary, uint32(0), uint(0), ^uint32(0)
	for _, sym := range rest {
		l := uint(lens[sym])
		if p := code & (1<<primary - 1); p != prefix {
			prefix, start = p, end
			width = b.width(l, primary)
			if end += 1 << width; end > uint32(len(table)) {
				return false
			}
			table[prefix] = entSpecial | entLink | start<<entValue | uint32(width)<<entShift | uint32(primary)
		}
		entry := symbols[sym] + uint32(l)*entPerLen
		for i := code >> primary; i < 1<<width; i += 1 << (l - primary) {
			table[start+i] = entry
		}
		b.count[l]--
		code = nextCode(code, l)
	}
	return true
}

// sort counts the code lengths, checks them, and orders the symbols.
func (b *builder) sort(lens []uint8) (used int, ok bool) {
	b.count = [maxCodeLen + 1]uint16{}
	for _, l := range lens {
		b.count[l&maxCodeLen]++
	}
	used = len(lens) - int(b.count[0])
	b.count[0] = 0
	var place [maxCodeLen + 2]uint16
	left := 1
	for l := 1; l <= maxCodeLen; l++ {
		place[l+1] = place[l] + b.count[l]
		if left = left<<1 - int(b.count[l]); left < 0 {
			return 0, false
		}
	}
	if left != 0 && used != 0 && (used != 1 || b.count[1] != 1) {
		return 0, false
	}
	for sym, l := range lens {
		if l != 0 {
			b.sorted[place[l&maxCodeLen]] = uint16(sym)
			place[l&maxCodeLen]++
		}
	}
	return used, true
}

// width finds the index bits of the second-level table whose first code has
// length l: wide enough for all codes that share its first-level prefix.
func (b *builder) width(l, primary uint) uint {
	w := l - primary
	for space := int(b.count[l]); space < 1<<w && primary+w < maxCodeLen; {
		w++
		space = space<<1 + int(b.count[primary+w])
	}
	return w
}

// nextCode increments a bit-reversed code of l bits; after the last it is 0.
func nextCode(code uint32, l uint) uint32 {
	free := ^code & (1<<l - 1)
	if free == 0 {
		return 0
	}
	top := uint32(1) << (bits.Len32(free) - 1)
	return code&(top-1) | top
}
