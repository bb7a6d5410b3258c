package estargz

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/inflate"
)

const (
	// wholeDecode is how much of a member is decompressed in one go into one
	// buffer; beyond it, chunk after chunk.
	wholeDecode = 4 << 20
	// keepBuffer is the largest buffer kept for the next call.
	keepBuffer = 8 << 20
)

var decodeBuffers = sync.Pool{New: func() any { return new([]byte) }} //nolint:gochecknoglobals // a pool keeps nothing that matters

// DecodeMember decompresses the gzip member or the zstd frames at the start of
// member, whichever its first bytes say, as far as the last wanted chunk, checks
// each wanted chunk against its digest, and calls emit with the chunk's index in
// want and its bytes. want lists chunks of this one member in ascending order;
// there may be others in between, but no holes. The bytes are valid until emit
// returns.
//
// It fails with [ErrDigest] for the first chunk that does not match, with the
// errors of internal/inflate or with [ErrZstd] if the member is damaged before
// that, with an [fserr.Invalid] if want is not as described, and with emit's
// error. It needs memory for one chunk, or 4 MiB, and in a zstd frame that is not
// read to its end the frame's window; none of it before the member turns out long
// enough to become what is wanted.
func DecodeMember(member []byte, want []Chunk, emit func(i int, payload []byte) error) error {
	p := decodeBuffers.Get().(*[]byte)
	defer func() {
		if cap(*p) <= keepBuffer {
			decodeBuffers.Put(p)
		}
	}()
	room := func(n int) ([]byte, error) {
		if cap(*p) < n {
			*p = make([]byte, n)
		}
		return (*p)[:n], nil
	}
	return DecodeUnverified(member, want, room, func(i int, payload []byte) error {
		if c := &want[i]; Sum(payload) != c.Digest {
			return fmt.Errorf("chunk %s at %d+%d: %w", c.Digest, c.Member, c.Inner, ErrDigest)
		}
		return emit(i, payload)
	})
}

// DecodeUnverified is [DecodeMember] for who verifies the chunks himself: emit gets
// what the member holds in their places, whatever it is. The bytes lie in memory
// that room gives, n bytes or more when asked for n, once for all chunks or else for
// each before it is decoded; they stay valid as long as that. An error of room ends
// it.
func DecodeUnverified(member []byte, want []Chunk, room func(n int) ([]byte, error), emit func(i int, payload []byte) error) error {
	if len(want) == 0 {
		return nil
	}
	need, largest, err := checkWanted(want)
	if err != nil {
		return err
	}
	where := func(err error) error { return fmt.Errorf("member at %d: %w", want[0].Member, err) }
	zstd := isZstd(member)
	switch {
	case zstd && need > zstdBound(member):
		return where(inflate.ErrShort)
	case !zstd && need/inflate.MaxExpansion > int64(len(member)):
		return where(inflate.ErrTruncated)
	}
	if need > max(wholeDecode, largest) {
		err = decodeParts(member, want, zstd, room, emit)
	} else {
		err = decodeWhole(member, want, need, zstd, room, emit)
	}
	var own callerError
	switch {
	case errors.As(err, &own):
		return own.error
	case err != nil:
		return where(err)
	}
	return nil
}

// callerError is an error of room or emit.
type callerError struct{ error }

// decodeWhole decompresses all that is needed at once, and hands it on.
func decodeWhole(member []byte, want []Chunk, need int64, zstd bool, room func(int) ([]byte, error), emit func(int, []byte) error) error {
	n := need
	if zstd {
		n += zstdSlack // for the end of the last frame
	}
	buf, err := room(int(n))
	if err != nil {
		return callerError{err}
	}
	buf = buf[:need]
	if zstd {
		err = unzstd(buf, member)
	} else {
		err = inflate.Member(buf, member)
	}
	if err != nil {
		return err
	}
	for i := range want {
		c := &want[i]
		if err := emit(i, buf[c.Inner:c.Inner+c.Size]); err != nil {
			return callerError{err}
		}
	}
	return nil
}

// unzstd fills buf from zstd frames.
func unzstd(buf, member []byte) error {
	z, err := newZstdReader()
	if err != nil {
		return err
	}
	defer z.Close() //nolint:errcheck // it only gives the decoder back
	if z.frames(buf, member) {
		return nil
	}
	if err := z.start(member); err != nil {
		return err
	}
	return ended(readFull(z, buf))
}

// decodeParts decompresses the chunks one after the other.
func decodeParts(member []byte, want []Chunk, zstd bool, room func(int) ([]byte, error), emit func(int, []byte) error) error {
	r, err := openMember(member, zstd)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // it only gives buffers back
	var pos int64
	for i := range want {
		c := &want[i]
		if err := r.Discard(c.Inner - pos); err != nil {
			return ended(err)
		}
		buf, err := room(int(c.Size))
		if err != nil {
			return callerError{err}
		}
		if err := readFull(r, buf[:c.Size]); err != nil {
			return ended(err)
		}
		if err := emit(i, buf[:c.Size]); err != nil {
			return callerError{err}
		}
		pos = c.Inner + c.Size
	}
	return nil
}

// partReader is a reader that can skip.
type partReader interface {
	io.ReadCloser
	Discard(n int64) error
}

func openMember(member []byte, zstd bool) (partReader, error) {
	if !zstd {
		return inflate.NewReader(member)
	}
	z, err := newZstdReader()
	if err != nil {
		return nil, err
	}
	if err := z.start(member); err != nil {
		_ = z.Close() // it only gives the decoder back
		return nil, err
	}
	return z, nil
}

// checkWanted gives how much of the member has to be decompressed, and the size
// of the largest chunk.
func checkWanted(want []Chunk) (need, largest int64, err error) {
	for i := range want {
		c := &want[i]
		if c.Member != want[0].Member || c.Size <= 0 || c.Inner < need || c.Inner+c.Size < c.Inner {
			return 0, 0, fserr.Newf(fserr.Invalid, "decode member", "",
				"chunk %d of %d bytes at %d+%d after %d+%d", i, c.Size, c.Member, c.Inner, want[0].Member, need)
		}
		need = c.Inner + c.Size
		largest = max(largest, c.Size)
	}
	return need, largest, nil
}

func readFull(r io.Reader, p []byte) error {
	_, err := io.ReadFull(r, p)
	return err
}

// ended turns the end of a member into the error that it is here.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return inflate.ErrShort
	}
	return err
}
