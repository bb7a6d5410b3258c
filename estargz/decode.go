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
	whole := need <= max(wholeDecode, largest)
	size := largest
	if whole {
		size = need
	}
	room := size
	if zstd && whole {
		room += zstdSlack // for the end of the last frame
	}
	p := decodeBuffers.Get().(*[]byte)
	defer func() {
		if cap(*p) <= keepBuffer {
			decodeBuffers.Put(p)
		}
	}()
	if int64(cap(*p)) < room {
		*p = make([]byte, room)
	}
	buf := (*p)[:size]
	if zstd {
		return decodeZstd(member, buf, whole, want, emit)
	}
	if !whole {
		r, err := inflate.NewReader(member)
		if err != nil {
			return where(err)
		}
		defer r.Close() //nolint:errcheck // it only gives buffers back
		return decodeParts(r, buf, want, emit)
	}
	if err := inflate.Member(buf, member); err != nil {
		return where(err)
	}
	return deliverAll(buf, want, emit)
}

// decodeZstd is DecodeMember for zstd frames.
func decodeZstd(member, buf []byte, whole bool, want []Chunk, emit func(int, []byte) error) error {
	z, err := newZstdReader()
	if err != nil {
		return fmt.Errorf("member at %d: %w", want[0].Member, err)
	}
	defer z.Close() //nolint:errcheck // it only gives the decoder back
	if whole && z.frames(buf, member) {
		return deliverAll(buf, want, emit)
	}
	if err := z.start(member); err != nil {
		return fmt.Errorf("member at %d: %w", want[0].Member, err)
	}
	if !whole {
		return decodeParts(z, buf, want, emit)
	}
	if err := readFull(z, buf); err != nil {
		return fmt.Errorf("member at %d: %w", want[0].Member, ended(err))
	}
	return deliverAll(buf, want, emit)
}

// deliverAll hands on the chunks of a member whose decompressed bytes are in buf.
func deliverAll(buf []byte, want []Chunk, emit func(int, []byte) error) error {
	for i := range want {
		c := &want[i]
		if err := deliver(c, i, buf[c.Inner:c.Inner+c.Size], emit); err != nil {
			return err
		}
	}
	return nil
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

// discarder is a reader that can skip.
type discarder interface {
	io.Reader
	Discard(n int64) error
}

// decodeParts decodes the chunks one after the other into buf.
func decodeParts(r discarder, buf []byte, want []Chunk, emit func(int, []byte) error) error {
	var pos int64
	for i := range want {
		c := &want[i]
		if err := r.Discard(c.Inner - pos); err != nil {
			return fmt.Errorf("member at %d: %w", c.Member, ended(err))
		}
		if err := readFull(r, buf[:c.Size]); err != nil {
			return fmt.Errorf("member at %d: %w", c.Member, ended(err))
		}
		if err := deliver(c, i, buf[:c.Size], emit); err != nil {
			return err
		}
		pos = c.Inner + c.Size
	}
	return nil
}

func deliver(c *Chunk, i int, payload []byte, emit func(int, []byte) error) error {
	if Sum(payload) != c.Digest {
		return fmt.Errorf("chunk %s at %d+%d: %w", c.Digest, c.Member, c.Inner, ErrDigest)
	}
	return emit(i, payload)
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
