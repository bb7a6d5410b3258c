package chunkstore

import "encoding/binary"

// touch remembers that the record at unit was read. The bit is nearly always
// set already, so that readers share the line instead of fighting for it.
func (g *segment) touch(unit uint32) {
	i, bit := g.heatBit(unit)
	if word := &g.touched[i]; word.Load()&bit == 0 {
		word.Or(bit)
		g.warm.Store(true)
	}
}

// noteRead is touch, unless the segment is still being filled: a reader takes a
// chunk in many pieces just after it was put, and that is one use, not many.
func (g *segment) noteRead(unit uint32) {
	if g.is(stateClosed) {
		g.touch(unit)
	}
}

// cool forgets that the record was read, and says whether it had been.
func (g *segment) cool(unit uint32) bool {
	i, bit := g.heatBit(unit)
	word := &g.touched[i]
	if word.Load()&bit == 0 {
		return false
	}
	g.warm.Store(true)
	return word.And(^bit)&bit != 0
}

// isProven says whether the record was found to be read again after its put.
func (g *segment) isProven(unit uint32) bool {
	i, bit := g.heatBit(unit)
	return g.proven[i].Load()&bit != 0
}

// prove remembers that, and counts the record at loc.
func (g *segment) prove(unit uint32, loc Loc) {
	i, bit := g.heatBit(unit)
	g.proven[i].Or(bit)
	g.provenBytes.Add(loc.weight())
	g.warm.Store(true)
}

// unprove takes a record that goes off the count. Others may share its bit.
func (g *segment) unprove(loc Loc) {
	if g.isProven(loc.unit()) {
		g.provenBytes.Add(-min(loc.weight(), g.provenBytes.Load()))
		g.warm.Store(true)
	}
}

// weight is about what the record takes, bytes.
func (l Loc) weight() int64 { return headerSize + int64(l.blocks())*blockSize }

func (g *segment) heatBit(unit uint32) (int, uint32) {
	i := min(int(unit/(blockSize/unitSize)), len(g.touched)*32-1)
	return i / 32, 1 << (i % 32)
}

// heatVersion begins a saved heat. One without is of touched bits alone, and of
// a length that four divides.
const heatVersion = 1

// heat gives the bits in the form the database keeps: version, bytes proven, and
// for each 128 KiB of file a word of touched and one of proven bits.
func (g *segment) heat() []byte {
	buf := make([]byte, 0, 9+8*len(g.touched))
	buf = append(buf, heatVersion)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(g.provenBytes.Load()))
	for i := range g.touched {
		buf = binary.LittleEndian.AppendUint32(buf, g.touched[i].Load())
		buf = binary.LittleEndian.AppendUint32(buf, g.proven[i].Load())
	}
	return buf
}

// warmUp takes over bits that heat gave, or an earlier version did.
func (g *segment) warmUp(buf []byte) {
	le := binary.LittleEndian
	if len(buf)%4 == 0 {
		for i := 0; i < len(g.touched) && len(buf) >= 4; i++ {
			g.touched[i].Store(le.Uint32(buf))
			buf = buf[4:]
		}
		return
	}
	if len(buf) < 9 || buf[0] != heatVersion {
		return
	}
	// A number that cannot be right would upset the balance for ever.
	g.provenBytes.Store(min(max(int64(le.Uint64(buf[1:])), 0), g.charge.Load()))
	buf = buf[9:]
	for i := 0; i < len(g.touched) && len(buf) >= 8; i++ {
		g.touched[i].Store(le.Uint32(buf))
		g.proven[i].Store(le.Uint32(buf[4:]))
		buf = buf[8:]
	}
}
