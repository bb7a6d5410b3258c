package estargz

import (
	"bytes"
	"fmt"
	"io"
)

// Fields of a tar header block, POSIX.1-1988 and later.
const (
	tarBlock = 512

	tarNameEnd  = 100
	tarSize     = 124
	tarSizeEnd  = 136
	tarSum      = 148
	tarSumEnd   = 156
	tarTypeFlag = 156
)

// tocSize reads the tar header of the TOC and gives the size of its file. The
// header is held to the form writers give it: one block, a regular file.
func tocSize(r io.Reader) (int64, error) {
	var h [tarBlock]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return 0, fmt.Errorf("%w: no tar header", ErrTOCHeader)
		}
		return 0, err
	}
	sum, ok := octal(h[tarSum:tarSumEnd])
	if !ok || sum != headerSum(&h) {
		return 0, fmt.Errorf("%w: bad tar header checksum", ErrTOCHeader)
	}
	name, _, _ := bytes.Cut(h[:tarNameEnd], []byte{0})
	if string(name) != TOCName || h[tarTypeFlag] != '0' && h[tarTypeFlag] != 0 {
		return 0, fmt.Errorf("%w: it is %.100q of type %q", ErrTOCHeader, name, h[tarTypeFlag])
	}
	size, ok := octal(h[tarSize:tarSizeEnd])
	if !ok {
		return 0, fmt.Errorf("%w: bad size", ErrTOCHeader)
	}
	return size, nil
}

// headerSum adds up the header's bytes with blanks in the place of the sum.
func headerSum(h *[tarBlock]byte) (sum int64) {
	for i, c := range h {
		if i >= tarSum && i < tarSumEnd {
			c = ' '
		}
		sum += int64(c)
	}
	return sum
}

// octal reads a number field, which is padded by blanks and zero bytes.
func octal(p []byte) (v int64, ok bool) {
	p = bytes.TrimLeft(bytes.TrimRight(p, " \x00"), " ")
	for _, c := range p {
		if c < '0' || c > '7' {
			return 0, false
		}
		v = v<<3 | int64(c-'0')
	}
	return v, len(p) > 0
}
