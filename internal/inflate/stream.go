package inflate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
)

const (
	// streamInput is how much of the input is read at a time. A gzip header must
	// fit in it, bytes.
	streamInput = 256 << 10
	// keepInput is what stays of the input that was taken in: as many bytes as the
	// decoder can have in its bit buffer.
	keepInput = 8
)

// Point is a place in a gzip blob where decoding can start.
type Point struct {
	In     int64 // offset of the first byte in the blob
	Bit    uint8 // bits of that byte which belong to what is before, 0 to 7
	Member bool  // a gzip member's header is there; else a deflate block
	Out    int64 // offset in the decompressed blob
	// Window is the output before Out that what follows may refer to, up to 32 KiB;
	// nil at the start of a member.
	Window []byte
}

// Stream decompresses a blob of gzip members one after the other as it arrives.
// It is not safe for concurrent use.
type Stream struct {
	// OnPoint, to be set before the first Read if at all, is called at each place where decoding could start, in
	// order. The window is valid during the call. ahead is input read already,
	// from the byte the point is in on.
	OnPoint func(p Point, ahead []byte)

	mem  *streamMemory
	r    io.Reader
	in   []byte // input; in[:len] is read, d.next says how far it is used
	base int64  // offset in the blob of in[0]
	eof  bool   // r has ended

	d   *decoder
	buf []byte // window, then output
	rd  int    // buf[rd:wr] is decoded and not read
	wr  int
	out int64 // offset in the decompressed blob of buf[wr]

	window int // bytes before wr that belong to the member
	member bool
	whole  bool // the member was decoded from its start, so that its CRC is known
	crc    uint32
	size   uint32
	err    error
}

// streamMemory is what a Stream needs while it is open.
type streamMemory struct {
	in  [streamInput]byte
	buf [windowLen + readerBuffer]byte
	d   decoder
}

var streamMemories = sync.Pool{New: func() any { return new(streamMemory) }} //nolint:gochecknoglobals // a pool keeps nothing that matters

// NewStream starts at p of the blob, whose bytes from p.In on are in r. The zero
// Point with Member set is the start of the blob. Close must be called.
func NewStream(r io.Reader, p Point) (*Stream, error) {
	if len(p.Window) > windowLen || p.Bit > 7 || p.Member && (p.Bit != 0 || p.Window != nil) {
		return nil, fmt.Errorf("%w: no place to start", ErrCorrupt)
	}
	mem := streamMemories.Get().(*streamMemory)
	s := &Stream{mem: mem, r: r, buf: mem.buf[:], in: mem.in[:0], d: &mem.d, base: p.In, out: p.Out}
	s.d.reset(nil)
	if p.Member {
		return s, nil
	}
	s.rd = copy(s.buf, p.Window)
	s.wr, s.window, s.member = s.rd, s.rd, true
	if p.Bit == 0 {
		s.feed()
		return s, nil
	}
	if err := s.fill(1); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.d.src, s.d.next = s.in, 1
	s.d.acc, s.d.n = uint64(s.in[0])>>p.Bit, 8-uint(p.Bit)
	s.feed()
	return s, nil
}

// Close gives buffers back; reading afterwards fails. The underlying reader is
// the caller's to close.
func (s *Stream) Close() error {
	if s.mem == nil {
		return nil
	}
	s.d.src = nil
	streamMemories.Put(s.mem)
	s.mem, s.buf, s.in, s.d, s.rd, s.wr = nil, nil, nil, nil, 0, 0
	s.err = io.ErrClosedPipe
	return nil
}

// Read implements [io.Reader]. The blob must end with a member, which zero bytes
// may follow. CRC and length of every member that was read from its start are
// checked.
func (s *Stream) Read(p []byte) (int, error) {
	for s.rd == s.wr {
		if s.err != nil {
			return 0, s.err
		}
		s.step()
	}
	n := copy(p, s.buf[s.rd:s.wr])
	s.rd += n
	return n, nil
}

// Discard skips n bytes, or fails as Read does.
func (s *Stream) Discard(n int64) error {
	for n > 0 {
		for s.rd == s.wr {
			if s.err != nil {
				return s.err
			}
			s.step()
		}
		k := min(n, int64(s.wr-s.rd))
		s.rd += int(k)
		n -= k
	}
	return nil
}

// step decodes on, which may yield nothing yet; buf[rd:wr] is empty before.
func (s *Stream) step() {
	if !s.member {
		s.err = s.begin()
		return
	}
	if s.wr > windowLen {
		s.window = min(s.window, windowLen)
		copy(s.buf, s.buf[s.wr-windowLen:s.wr])
		s.wr = windowLen
	}
	s.rd = s.wr
	// What the member may refer to begins at out[:window].
	from := s.wr - s.window
	end, err := s.d.run(s.buf[from:], s.window)
	n := from + end - s.wr
	if s.whole {
		s.crc = crc32.Update(s.crc, crc32.IEEETable, s.buf[s.wr:s.wr+n])
		s.size += uint32(n)
	}
	s.wr, s.window, s.out = s.wr+n, s.window+n, s.out+int64(n)
	switch {
	case errors.Is(err, errInput):
		if err = s.fill(len(s.in) - s.d.next + 1); s.eof && errors.Is(err, ErrTruncated) {
			err = nil // what is there is all, and may be enough
		}
		s.feed()
	case errors.Is(err, errBlock):
		err = nil
		s.point()
	case err == nil && n == 0 && s.d.state == atEnd:
		err = s.trailer()
	}
	s.err = err
}

// point reports the place between two blocks.
func (s *Stream) point() {
	bits := s.d.n & 7
	at := s.d.next - int(s.d.n>>3)
	p := Point{Bit: uint8(8-bits) & 7, Out: s.out, Window: s.buf[s.wr-min(s.window, windowLen) : s.wr]}
	if bits > 0 {
		at--
	}
	p.In = s.base + int64(at)
	s.OnPoint(p, s.in[at:])
}

// begin starts the next member, or finds the end of the blob.
func (s *Stream) begin() error {
	for {
		p := s.in[s.d.next:]
		n, err := headerLen(p)
		if err == nil {
			if s.OnPoint != nil {
				s.OnPoint(Point{In: s.base + int64(s.d.next), Member: true, Out: s.out}, p)
			}
			s.d.next += n
			break
		}
		if !s.eof && len(p) < streamInput-keepInput && (len(p) < fixedHeader || bytes.HasPrefix(p, []byte{0x1f, 0x8b})) {
			if err := s.fill(len(p) + 1); err != nil && !errors.Is(err, ErrTruncated) {
				return err
			}
			continue
		}
		if s.whole {
			return s.padding()
		}
		return err
	}
	next := s.d.next
	s.d.reset(nil)
	s.d.next = next
	s.feed()
	s.d.paused = true // the member's start was reported
	s.member, s.whole = true, true
	s.window, s.crc, s.size = 0, 0, 0
	return nil
}

// padding accepts zero bytes up to the end of the blob.
func (s *Stream) padding() error {
	for {
		for _, c := range s.in[s.d.next:] {
			if c != 0 {
				return ErrHeader
			}
		}
		s.d.next = len(s.in)
		if s.eof {
			return io.EOF
		}
		if err := s.fill(1); err != nil && !errors.Is(err, ErrTruncated) {
			return err
		}
	}
}

// trailer checks what follows the deflate stream of a member.
func (s *Stream) trailer() error {
	s.d.unread()
	if err := s.fill(trailerBytes); err != nil {
		return err
	}
	p := s.in[s.d.next:]
	if s.whole && (binary.LittleEndian.Uint32(p) != s.crc || binary.LittleEndian.Uint32(p[4:]) != s.size) {
		return ErrChecksum
	}
	s.d.next += trailerBytes
	s.member, s.whole = false, true
	return nil
}

// fill reads until want bytes of input are there, and fails with [ErrTruncated]
// if the blob ends before.
func (s *Stream) fill(want int) error {
	for empty := 0; len(s.in)-s.d.next < want; empty++ {
		if empty > 100 {
			return io.ErrNoProgress
		}
		if s.eof {
			return ErrTruncated
		}
		if keep := s.d.next - keepInput; keep > 0 {
			s.in = s.in[:copy(s.in, s.in[keep:])]
			s.base += int64(keep)
			s.d.next = keepInput
		}
		n, err := s.r.Read(s.in[len(s.in):streamInput])
		s.in = s.in[:len(s.in)+n]
		if n > 0 {
			empty = 0
		}
		if errors.Is(err, io.EOF) {
			s.eof = true
		} else if err != nil {
			return err
		}
	}
	return nil
}

// feed shows the decoder what input there is.
func (s *Stream) feed() {
	s.d.src, s.d.more, s.d.pause = s.in, !s.eof, s.OnPoint != nil
}
