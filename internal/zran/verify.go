package zran

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/nineply/nineply/internal/fserr"
)

// maxSpanInput is the largest span with a digest, which is kept in memory until it
// was compared; bytes of the blob.
const maxSpanInput = 64 << 20

// ErrDigest reports a span whose bytes are not those of its digest. It is of kind
// [fserr.Corrupt].
var ErrDigest = fserr.New(fserr.Corrupt, "", "", errors.New("span digest differs"))

// verifier passes the bytes of the blob on, span by span, each once it has proved
// right.
type verifier struct {
	x    *Index
	body io.Reader
	span int // the next one

	buf  []byte // the span
	rest []byte // what of it was not read
	err  error
}

func (v *verifier) Read(p []byte) (int, error) {
	for len(v.rest) == 0 {
		if v.err == nil {
			v.err = v.next()
		}
		if v.err != nil {
			return 0, v.err
		}
	}
	n := copy(p, v.rest)
	v.rest = v.rest[n:]
	return n, nil
}

// next reads and compares the next span.
func (v *verifier) next() error {
	if v.span == len(v.x.entries) {
		return io.EOF
	}
	lo, hi := v.x.entries[v.span].in, v.x.spanEnd(v.span)
	if hi-lo > maxSpanInput {
		return fserr.Newf(fserr.TooLarge, "verify", "span", "%d bytes, more than %d", hi-lo, maxSpanInput)
	}
	shared := 0
	if n := len(v.buf); n > 0 && v.x.entries[v.span].bit > 0 {
		shared = copy(v.buf, v.buf[n-1:]) // the byte that the span before ends in
	}
	v.buf = grow(v.buf[:shared], int(hi-lo))
	if _, err := io.ReadFull(v.body, v.buf[shared:]); err != nil {
		if errors.Is(err, io.EOF) {
			return io.EOF // nobody asked for this span
		}
		return fmt.Errorf("read span at %d: %w", lo, err)
	}
	if sha256.Sum256(v.buf) != v.x.digests[v.span] {
		return fmt.Errorf("%w: of %d bytes at %d", ErrDigest, hi-lo, lo)
	}
	v.rest = v.buf[shared:]
	v.span++
	return nil
}

// grow makes p n bytes long and keeps what is in it.
func grow(p []byte, n int) []byte {
	if cap(p) >= n {
		return p[:n]
	}
	return append(make([]byte, 0, n), p...)[:n]
}

// plain reads a blob that is not compressed.
type plain struct{ io.Reader }

func (plain) Close() error { return nil }

func (p plain) Discard(n int64) error {
	if n == 0 {
		return nil
	}
	_, err := io.CopyN(io.Discard, p.Reader, n)
	return err
}
