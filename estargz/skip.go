package estargz

import "fmt"

// skip consumes any value.
func (s *scanner) skip(depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("%w: at byte %d", ErrNesting, s.base+int64(s.pos))
	}
	c, err := s.next()
	if err != nil {
		return err
	}
	switch c {
	case '{':
		return s.members(func([]byte) error {
			if err := s.want(':'); err != nil {
				return err
			}
			return s.skip(depth + 1)
		})
	case '[':
		return s.list('[', ']', func() error { return s.skip(depth + 1) })
	case '"':
		return s.skipString()
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	}
	return s.skipNumber()
}

// skipString is str for strings of any length.
func (s *scanner) skipString() error {
	s.pos++
	for {
		p, err := s.peek(1)
		if err != nil {
			return err
		}
		c := p[0]
		s.pos++
		switch {
		case c == '"':
			return nil
		case c < ' ':
			return s.syntax("control character in a string")
		case c == '\\':
			s.text = s.text[:0]
			if err := s.escape(); err != nil {
				return err
			}
		}
	}
}

// skipNumber consumes the characters numbers are made of; that they make a
// number is nobody's concern.
func (s *scanner) skipNumber() error {
	for n := 0; ; n++ {
		p, err := s.peek(1)
		if err != nil {
			return err
		}
		switch c := p[0]; {
		case c >= '0' && c <= '9', c == '-', c == '+', c == '.', c|0x20 == 'e':
			s.pos++
		case n == 0:
			return s.syntax("unexpected %q", c)
		default:
			return nil
		}
	}
}
