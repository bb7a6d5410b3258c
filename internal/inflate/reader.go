package inflate

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"sync"
)

// readerBuffer is how much a [Reader] decodes ahead of what it keeps as window.
const readerBuffer = 96 << 10

// Reader decodes one gzip member held in memory, piece by piece. It is not safe
// for concurrent use.
type Reader struct {
	d     *decoder
	start int // of the deflate stream in src
	src   []byte
	buf   []byte // window, then decoded bytes
	r, w  int    // buf[r:w] is decoded and not read
	crc   uint32
	size  uint32
	err   error
}

var readerBufs = sync.Pool{New: func() any { return new([windowLen + readerBuffer]byte) }} //nolint:gochecknoglobals // a pool keeps nothing that matters

// NewReader checks the gzip header at the start of src, or fails with
// [ErrHeader]. src must not change until Close, which must be called.
func NewReader(src []byte) (*Reader, error) {
	n, err := headerLen(src)
	if err != nil {
		return nil, err
	}
	buf := readerBufs.Get().(*[windowLen + readerBuffer]byte)
	return &Reader{d: getDecoder(src[n:]), start: n, src: src, buf: buf[:]}, nil
}

// Close gives the reader's buffers back; reading afterwards fails.
func (r *Reader) Close() error {
	if r.d == nil {
		return nil
	}
	putDecoder(r.d)
	readerBufs.Put((*[windowLen + readerBuffer]byte)(r.buf))
	r.d, r.buf, r.src, r.r, r.w = nil, nil, nil, 0, 0
	r.err = io.ErrClosedPipe
	return nil
}

// Read implements [io.Reader]. At the end of the member it checks CRC and size
// before it says [io.EOF], or fails with [ErrChecksum]; bytes behind the member
// are left alone.
func (r *Reader) Read(p []byte) (int, error) {
	if r.r == r.w {
		if err := r.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf[r.r:r.w])
	r.r += n
	return n, nil
}

// Discard skips n bytes, or fails as Read does.
func (r *Reader) Discard(n int64) error {
	for n > 0 {
		if r.r == r.w {
			if err := r.more(); err != nil {
				return err
			}
		}
		k := min(n, int64(r.w-r.r))
		r.r += int(k)
		n -= k
	}
	return nil
}

// more decodes the next piece; buf[r:w] is empty before and not after.
func (r *Reader) more() error {
	if r.err != nil {
		return r.err
	}
	if r.w > windowLen {
		copy(r.buf, r.buf[r.w-windowLen:r.w])
		r.w = windowLen
	}
	r.r = r.w
	r.w, r.err = r.d.run(r.buf, r.w)
	if r.w == r.r && r.err == nil {
		r.err = r.trailer()
	}
	if r.w == r.r {
		return r.err
	}
	r.crc = crc32.Update(r.crc, crc32.IEEETable, r.buf[r.r:r.w])
	r.size += uint32(r.w - r.r)
	return nil
}

// trailer checks what follows the deflate stream.
func (r *Reader) trailer() error {
	p := r.src[r.start+r.d.unread():]
	if len(p) < trailerBytes {
		return ErrTruncated
	}
	if binary.LittleEndian.Uint32(p) != r.crc || binary.LittleEndian.Uint32(p[4:]) != r.size {
		return ErrChecksum
	}
	return io.EOF
}
