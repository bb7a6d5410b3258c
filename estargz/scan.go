package estargz

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// scanBuffer is the length of the longest JSON string that can be read: an
	// extended attribute of the largest size Linux has, in base64, fits.
	scanBuffer = 128 << 10
	// maxNesting bounds the depth of values under keys that are not known.
	maxNesting = 32
)

// scanner reads JSON tokens from a stream. It hashes every byte it reads, holds
// at most one buffer of input, and never goes deeper than maxNesting.
type scanner struct {
	r    io.Reader
	hash hash.Hash
	buf  []byte // of length scanBuffer
	pos  int    // buf[pos:end] is read and not consumed
	end  int
	base int64  // offset in the input of buf[0]
	text []byte // the last string that had escapes in it
}

func (s *scanner) syntax(format string, args ...any) error {
	return fmt.Errorf("%w: %s at byte %d", ErrTOCSyntax, fmt.Sprintf(format, args...), s.base+int64(s.pos))
}

// more reads further input behind buf[keep:end], which it moves to the front.
// The input's end is a syntax error; eof asks for it.
func (s *scanner) more(keep int) error {
	n := copy(s.buf, s.buf[keep:s.end])
	s.base += int64(keep)
	s.pos -= keep
	s.end = n
	if n == len(s.buf) {
		return fmt.Errorf("%w: at byte %d", ErrTokenSize, s.base)
	}
	for range 100 {
		k, err := s.r.Read(s.buf[n:])
		if k > 0 {
			s.end += k
			_, err = s.hash.Write(s.buf[n : n+k])
			return err
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: it ends in the middle", ErrTOCSyntax)
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// next skips white space and gives the byte it comes to, without consuming it.
func (s *scanner) next() (byte, error) {
	for {
		for s.pos < s.end {
			switch c := s.buf[s.pos]; c {
			case ' ', '\t', '\n', '\r':
				s.pos++
			default:
				return c, nil
			}
		}
		if err := s.more(s.pos); err != nil {
			return 0, err
		}
	}
}

// want consumes white space and the byte c.
func (s *scanner) want(c byte) error {
	got, err := s.next()
	if err != nil {
		return err
	}
	if got != c {
		return s.syntax("%q where %q belongs", got, c)
	}
	s.pos++
	return nil
}

// accept consumes c if it is next.
func (s *scanner) accept(c byte) (bool, error) {
	got, err := s.next()
	if err != nil || got != c {
		return false, err
	}
	s.pos++
	return true, nil
}

// literal consumes the rest of true, false or null, where s.buf[s.pos] begins it.
func (s *scanner) literal(word string) error {
	for i := range len(word) {
		if s.pos == s.end {
			if err := s.more(s.pos); err != nil {
				return err
			}
		}
		if s.buf[s.pos] != word[i] {
			return s.syntax("%q in %s", s.buf[s.pos], word)
		}
		s.pos++
	}
	return nil
}

// null consumes a null if it is next.
func (s *scanner) null() (bool, error) {
	c, err := s.next()
	if err != nil || c != 'n' {
		return false, err
	}
	return true, s.literal("null")
}

// members calls fn for each key of an object, with the value next. A null is an
// object without keys. The key is valid until fn reads.
func (s *scanner) members(fn func(key []byte) error) error {
	return s.list('{', '}', func() error {
		key, err := s.str()
		if err != nil {
			return err
		}
		// Keys are told apart before the buffer moves on, so that they need not
		// be copied: fn begins by consuming the colon.
		return fn(key)
	})
}

// list calls fn for each element between open and end.
func (s *scanner) list(open, end byte, fn func() error) error {
	if done, err := s.null(); done || err != nil {
		return err
	}
	if err := s.want(open); err != nil {
		return err
	}
	if done, err := s.accept(end); done || err != nil {
		return err
	}
	for {
		if err := fn(); err != nil {
			return err
		}
		more, err := s.accept(',')
		if err != nil {
			return err
		}
		if !more {
			return s.want(end)
		}
	}
}

// plain marks the bytes that stand for themselves in a JSON string.
var plain = func() (t [256]bool) { //nolint:gochecknoglobals // a constant table
	for i := range t {
		t[i] = i >= ' ' && i != '"' && i != '\\'
	}
	return t
}()

// str consumes a string. The result is valid until the next call of any method.
func (s *scanner) str() ([]byte, error) {
	if err := s.want('"'); err != nil {
		return nil, err
	}
	start := s.pos
	for {
		p := s.buf[s.pos:s.end]
		i := 0
		for i < len(p) && plain[p[i]] {
			i++
		}
		s.pos += i
		if i < len(p) {
			break
		}
		if err := s.more(start); err != nil {
			return nil, err
		}
		start = 0
	}
	switch s.buf[s.pos] {
	case '"':
		s.pos++
		return s.buf[start : s.pos-1], nil
	case '\\':
		return s.escaped(s.buf[start:s.pos])
	}
	return nil, s.syntax("control character in a string")
}

// escaped goes on with a string that began with head, at its first backslash.
func (s *scanner) escaped(head []byte) ([]byte, error) {
	s.text = append(s.text[:0], head...)
	for {
		if s.pos == s.end {
			if err := s.more(s.pos); err != nil {
				return nil, err
			}
		}
		c := s.buf[s.pos]
		s.pos++
		switch {
		case c == '"':
			return s.text, nil
		case c == '\\':
			if err := s.escape(); err != nil {
				return nil, err
			}
		case c < ' ':
			return nil, s.syntax("control character in a string")
		default:
			s.text = append(s.text, c)
		}
		if len(s.text) > scanBuffer {
			return nil, fmt.Errorf("%w: at byte %d", ErrTokenSize, s.base+int64(s.pos))
		}
	}
}

// peek makes n bytes available at buf[pos:].
func (s *scanner) peek(n int) ([]byte, error) {
	for s.end-s.pos < n {
		if err := s.more(s.pos); err != nil {
			return nil, err
		}
	}
	return s.buf[s.pos : s.pos+n], nil
}

// unescape gives what a letter after a backslash stands for.
var unescape = [256]byte{ //nolint:gochecknoglobals // a constant table
	'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t',
}

// escape appends what follows a backslash to text.
func (s *scanner) escape() error {
	p, err := s.peek(1)
	if err != nil {
		return err
	}
	s.pos++
	if c := unescape[p[0]]; c != 0 {
		s.text = append(s.text, c)
		return nil
	}
	if p[0] != 'u' {
		return s.syntax("unknown escape")
	}
	r, err := s.hex4()
	if err != nil {
		return err
	}
	if utf16.IsSurrogate(r) {
		r, err = s.lowSurrogate(r)
		if err != nil {
			return err
		}
	}
	s.text = utf8.AppendRune(s.text, r)
	return nil
}

// lowSurrogate consumes the second half of a surrogate pair; without one, the
// first half stands for the replacement character.
func (s *scanner) lowSurrogate(high rune) (rune, error) {
	p, err := s.peek(2)
	if err != nil {
		return 0, err
	}
	if p[0] != '\\' || p[1] != 'u' {
		return utf8.RuneError, nil
	}
	if p, err = s.peek(6); err != nil {
		return 0, err
	}
	low, ok := parseHex(p[2:])
	if !ok {
		return 0, s.syntax("bad \\u escape")
	}
	r := utf16.DecodeRune(high, rune(low))
	if r != utf8.RuneError {
		s.pos += 6
	}
	return r, nil
}

func (s *scanner) hex4() (rune, error) {
	p, err := s.peek(4)
	if err != nil {
		return 0, err
	}
	v, ok := parseHex(p)
	if !ok {
		return 0, s.syntax("bad \\u escape")
	}
	s.pos += 4
	return rune(v), nil
}

// int consumes a whole number, or null for 0.
func (s *scanner) int() (int64, error) {
	if done, err := s.null(); done || err != nil {
		return 0, err
	}
	negative, err := s.accept('-')
	if err != nil {
		return 0, err
	}
	var v uint64
	digits := 0
	for {
		p, err := s.peek(1)
		if err != nil {
			return 0, err
		}
		c := p[0]
		if c < '0' || c > '9' {
			break
		}
		if digits > 0 && v == 0 {
			return 0, s.syntax("leading zero")
		}
		if v > (math.MaxInt64-9)/10 { // some values short of the very last, all absurd
			return 0, fmt.Errorf("%w: at byte %d", ErrNumber, s.base+int64(s.pos))
		}
		v = v*10 + uint64(c-'0')
		digits++
		s.pos++
	}
	if digits == 0 || s.buf[s.pos] == '.' || s.buf[s.pos]|0x20 == 'e' {
		return 0, s.syntax("not a whole number")
	}
	if negative {
		return -int64(v), nil
	}
	return int64(v), nil
}

// digest consumes a sha256 digest; an empty string or null is none.
func (s *scanner) digest() (d Digest, ok bool, err error) {
	c, err := s.next()
	if err != nil {
		return d, false, err
	}
	const size = 1 + len(digestPrefix) + 2*len(d)
	if p := s.buf[s.pos:s.end]; c == '"' && len(p) > size && p[size] == '"' && d.parse(p[1:size]) {
		s.pos += size + 1
		return d, true, nil
	}
	if c == 'n' {
		return Digest{}, false, s.literal("null")
	}
	p, err := s.str()
	if err != nil || len(p) == 0 {
		return Digest{}, false, err
	}
	if !d.parse(p) {
		return Digest{}, false, fmt.Errorf("%w: %.80q", ErrDigestText, p)
	}
	return d, true, nil
}

// parse reads the text form, in digits of either case.
func (d *Digest) parse(p []byte) bool {
	if len(p) != len(digestPrefix)+2*len(d) || string(p[:len(digestPrefix)]) != digestPrefix {
		return false
	}
	p = p[len(digestPrefix):]
	bad := byte(0)
	for i := range d {
		hi, lo := unhex[p[2*i]], unhex[p[2*i+1]]
		bad |= hi | lo
		d[i] = hi<<4 | lo
	}
	return bad <= 15
}

// finish requires that only white space is left, and reads it.
func (s *scanner) finish() error {
	for {
		for ; s.pos < s.end; s.pos++ {
			switch c := s.buf[s.pos]; c {
			case ' ', '\t', '\n', '\r':
			default:
				return fmt.Errorf("%w: %q at byte %d", ErrTOCTrailing, c, s.base+int64(s.pos))
			}
		}
		s.base += int64(s.end)
		s.pos, s.end = 0, 0
		k, err := s.r.Read(s.buf)
		if _, herr := s.hash.Write(s.buf[:k]); herr != nil {
			return herr
		}
		s.end = k
		if k == 0 && err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}
