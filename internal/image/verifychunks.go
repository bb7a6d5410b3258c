package image

import (
	"crypto/sha256"
	"fmt"
	"io"
	"slices"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/layertar"
)

// bufferedMember is the largest part of a member that is held in memory, bytes.
const bufferedMember = 32 << 20

// chunkReader holds the chunks of a TOC against the members of a blob, which it
// reads once from its beginning to its end.
type chunkReader struct {
	v    *verification
	r    io.Reader
	pos  int64 // how much of the blob was read
	buf  []byte
	want []estargz.Chunk // of the current member
	of   []string        // the files they belong to

	member int64 // offset of the current member
}

// readChunks verifies every chunk that the TOC lists.
func (v *verification) readChunks(r io.Reader) error {
	c := &chunkReader{v: v, r: r}
	err := v.toc.each(c.entry)
	if err == nil {
		err = c.flush(v.toc.footer.DataEnd())
	}
	if err != nil {
		v.problem("chunks from blob offset %d on: %v", c.pos, err)
	}
	return nil
}

func (c *chunkReader) entry(e *estargz.Entry) error {
	if e.ChunkSize == 0 {
		return nil
	}
	if e.Offset != c.member {
		if err := c.flush(e.Offset); err != nil {
			return err
		}
		c.member = e.Offset
	}
	if e.Hole {
		return nil // its zeros are part of what the file's digest is of
	}
	c.want = append(c.want, estargz.Chunk{Digest: e.ChunkDigest, Offset: e.ChunkOffset, Size: e.ChunkSize, Member: e.Offset, Inner: e.InnerOffset})
	c.of = append(c.of, e.Name)
	return nil
}

// flush verifies the chunks of the current member, which ends at end.
func (c *chunkReader) flush(end int64) error {
	defer func() { c.want, c.of = c.want[:0], c.of[:0] }()
	if len(c.want) == 0 {
		return nil
	}
	for i := range c.want {
		c.want[i].MemberSize = end - c.member
	}
	if end <= c.member || c.member < c.pos {
		return fmt.Errorf("member at %d: not behind the one before it", c.member)
	}
	n, err := io.CopyN(io.Discard, c.r, c.member-c.pos)
	c.pos += n
	if err != nil {
		return err
	}
	need := c.want[len(c.want)-1].FetchSize()
	if need > bufferedMember {
		return c.stream(end)
	}
	c.buf = slices.Grow(c.buf[:0], int(need))[:need]
	read, err := io.ReadFull(c.r, c.buf)
	c.pos += int64(read)
	if err != nil {
		return err
	}
	c.decode()
	return nil
}

// stream verifies the chunks of a member that is too large to be held in memory.
// Behind the first byte that cannot be decompressed there is nothing to verify.
func (c *chunkReader) stream(end int64) error {
	part := &io.LimitedReader{R: c.r, N: end - c.member}
	err := c.decodeStream(part)
	if err == nil {
		_, err = io.Copy(io.Discard, part)
	}
	c.pos = end - part.N
	return err
}

func (c *chunkReader) decodeStream(part io.Reader) error {
	s, err := layertar.Open(part)
	if err != nil {
		return fmt.Errorf("member at %d: %w", c.member, err)
	}
	defer s.Close()
	pos := int64(0)
	for i, w := range c.want {
		hash := sha256.New()
		if _, err := io.CopyN(io.Discard, s, w.Inner-pos); err != nil {
			return fmt.Errorf("%s: chunk of %d bytes at %d: %w", c.of[i], w.Size, w.Offset, err)
		}
		if _, err := io.CopyN(hash, s, w.Size); err != nil {
			return fmt.Errorf("%s: chunk of %d bytes at %d: %w", c.of[i], w.Size, w.Offset, err)
		}
		pos = w.Inner + w.Size
		if estargz.Digest(hash.Sum(nil)) != w.Digest {
			c.v.problem("%s: chunk of %d bytes at %d: %v", c.of[i], w.Size, w.Offset, estargz.ErrDigest)
			continue
		}
		c.v.count(1)
	}
	return nil
}

// decode verifies one chunk after the other: one that is wrong says nothing of
// those behind it.
func (c *chunkReader) decode() {
	for next := 0; next < len(c.want); {
		good := next
		err := estargz.DecodeMember(c.buf, c.want[next:], func(int, []byte) error {
			good++
			return nil
		})
		c.v.count(good - next)
		if err == nil {
			return
		}
		if good == len(c.want) {
			c.v.problem("member at %d: %v", c.member, err)
			return
		}
		w := c.want[good]
		c.v.problem("%s: chunk of %d bytes at %d: %v", c.of[good], w.Size, w.Offset, err)
		next = good + 1
	}
}

func (v *verification) count(chunks int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.verdict.Chunks += chunks
}
