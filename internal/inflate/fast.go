package inflate

import "encoding/binary"

// fast decodes symbols while input and room last for the worst case of a whole
// turn of its loop, so that nothing has to be asked in between.
func (d *decoder) fast(out []byte, pos int) (int, error) {
	src, next, acc, n := d.src, d.next, d.acc, d.n
	lastIn, lastOut := len(src)-fastInput, len(out)-fastRoom
	var err error
	for next <= lastIn && pos <= lastOut {
		acc |= binary.LittleEndian.Uint64(src[next:]) << (n & 63)
		next += int(63-n) >> 3
		n |= 56
		e := d.lit[acc&(1<<litBits-1)]
		if e&entLiteral != 0 {
			acc, n = acc>>(e&entBits), n-uint(e&entBits)
			out[pos] = byte(e >> entValue)
			pos++
			e = d.lit[acc&(1<<litBits-1)]
			if e&entLiteral != 0 {
				acc, n = acc>>(e&entBits), n-uint(e&entBits)
				out[pos] = byte(e >> entValue)
				pos++
				e = d.lit[acc&(1<<litBits-1)]
			}
			acc |= binary.LittleEndian.Uint64(src[next:]) << (n & 63)
			next += int(63-n) >> 3
			n |= 56
		}
		if e&entLink != 0 {
			e = d.lit[linked(e, acc, litBits)]
		}
		saved := acc
		acc, n = acc>>(e&entBits), n-uint(e&entBits)
		if e&entLiteral != 0 {
			out[pos] = byte(e >> entValue)
			pos++
			continue
		}
		if e&entSpecial != 0 {
			err = d.endOfBlock(e)
			break
		}
		length := int(e>>entValue) + int(saved&(1<<(e&entBits)-1)>>(e>>entShift&entWidth))

		e = d.dst[acc&(1<<dstBits-1)]
		if e&entLink != 0 {
			e = d.dst[linked(e, acc, dstBits)]
		}
		dist := int(e>>entValue) + int(acc&(1<<(e&entBits)-1)>>(e>>entShift&entWidth))
		acc, n = acc>>(e&entBits), n-uint(e&entBits)
		if e&entSpecial != 0 || dist > pos {
			err = ErrCorrupt
			break
		}
		copyWords(out, pos, dist, length)
		pos += length
	}
	d.next, d.acc, d.n = next, acc, n
	return pos, err
}

// endOfBlock handles the entries that are neither literal nor length.
func (d *decoder) endOfBlock(e uint32) error {
	if e&entEnd == 0 {
		return ErrCorrupt
	}
	d.state = atHeader
	return nil
}

// copyWords copies a match of length bytes from dist before pos. It may write up
// to 15 bytes more, which out must have room for.
func copyWords(out []byte, pos, dist, length int) {
	from := pos - dist
	if dist < 8 {
		copyPattern(out[pos-dist:pos+length+8], dist, length)
		return
	}
	if dist >= length && length > 32 {
		copy(out[pos:pos+length], out[from:])
		return
	}
	for end := pos + length; pos < end; pos, from = pos+8, from+8 {
		binary.LittleEndian.PutUint64(out[pos:], binary.LittleEndian.Uint64(out[from:]))
	}
}

// copyPattern repeats the dist < 8 bytes at the start of p for length bytes.
func copyPattern(p []byte, dist, length int) {
	if dist == 1 {
		word := uint64(p[0]) * 0x0101010101010101
		for i := 1; i < length+1; i += 8 {
			binary.LittleEndian.PutUint64(p[i:], word)
		}
		return
	}
	for i := range length {
		p[dist+i] = p[i]
	}
}
