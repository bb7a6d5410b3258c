package estargz

import (
	"fmt"
	"math"
	"strings"
)

// checker holds the entries of a TOC against the rules of the format, in order
// and in constant space.
type checker struct {
	lim     Limits
	end     int64 // of the data: where the TOC starts
	count   int
	foreign bool // the error is the caller's

	// The regular file whose chunks are being read, and the bytes seen of it.
	file    string
	size    int64
	covered int64

	// The last chunk: its member, and where it ends in there.
	member   int64
	innerEnd int64
}

// locate says in which entry an error happened.
func (c *checker) locate(e *Entry, err error) error {
	return fmt.Errorf("entry %d %.100q: %w", c.count, e.Name, err)
}

// entry checks e and completes it.
func (c *checker) entry(e *Entry) error {
	if c.count++; c.count > c.lim.Entries {
		return fmt.Errorf("%w: limit %d", ErrEntries, c.lim.Entries)
	}
	switch e.Type {
	case 0:
		return ErrEntryType
	case TypeChunk:
		return c.chunk(e)
	}
	if err := c.finish(); err != nil {
		return err
	}
	if err := c.name(e); err != nil {
		return err
	}
	if e.Type != TypeSymlink && e.Type != TypeHardlink {
		e.LinkName = "" // tar headers, and TOCs made of them, may have one all the same
	}
	switch e.Type {
	case TypeReg:
		return c.regular(e)
	case TypeHardlink:
		if e.LinkName == "" || cleanName(e.LinkName) == cleanName(e.Name) {
			return fmt.Errorf("%w: to %.100q", ErrLink, e.LinkName)
		}
	}
	c.file, c.size, c.covered = "", 0, 0
	noContent(e)
	return nil
}

// noContent clears what only makes sense for content.
func noContent(e *Entry) {
	e.Size, e.Offset, e.InnerOffset, e.ChunkOffset, e.ChunkSize = 0, 0, 0, 0, 0
	e.ChunkDigest, e.HasChunkDigest, e.Hole = Digest{}, false, false
}

// finish checks that the file before is complete.
func (c *checker) finish() error {
	if c.covered != c.size {
		return fmt.Errorf("%w: %.100q has %d bytes in chunks of %d", ErrTiling, c.file, c.covered, c.size)
	}
	return nil
}

func (c *checker) regular(e *Entry) error {
	c.file, c.size, c.covered = e.Name, e.Size, 0
	if e.Size == 0 {
		noContent(e)
		return nil
	}
	return c.place(e)
}

func (c *checker) chunk(e *Entry) error {
	if c.covered == c.size {
		return ErrStrayChunk
	}
	e.Name = c.file
	e.Size, e.HasDigest, e.Digest = 0, false, Digest{}
	return c.place(e)
}

// place checks where a chunk is, in its file and in the blob.
func (c *checker) place(e *Entry) error {
	left := c.size - c.covered
	if e.ChunkSize == 0 {
		e.ChunkSize = left
	}
	if e.ChunkOffset != c.covered || e.ChunkSize > left {
		return fmt.Errorf("%w: chunk of %d bytes at %d, %d of %d seen", ErrTiling,
			e.ChunkSize, e.ChunkOffset, c.covered, c.size)
	}
	switch {
	case !e.Hole && e.ChunkSize > c.lim.ChunkSize:
		return fmt.Errorf("%w: %d bytes, limit %d", ErrChunkSize, e.ChunkSize, c.lim.ChunkSize)
	case e.InnerOffset > c.lim.InnerOffset:
		return fmt.Errorf("%w: %d, limit %d", ErrInnerOffset, e.InnerOffset, c.lim.InnerOffset)
	case e.Offset >= c.end, e.Offset < c.member,
		e.Offset == c.member && e.InnerOffset < c.innerEnd:
		return fmt.Errorf("%w: %d+%d after %d+%d of %d", ErrOffset,
			e.Offset, e.InnerOffset, c.member, c.innerEnd, c.end)
	}
	if !e.HasChunkDigest && e.HasDigest && e.ChunkSize == c.size {
		e.ChunkDigest, e.HasChunkDigest = e.Digest, true
	}
	if !e.HasChunkDigest && !e.Hole {
		return ErrNoChunkDigest
	}
	c.covered += e.ChunkSize
	c.member, c.innerEnd = e.Offset, math.MaxInt64
	if e.ChunkSize <= math.MaxInt64-e.InnerOffset { // the end of a hole may be anywhere
		c.innerEnd = e.InnerOffset + e.ChunkSize
	}
	return nil
}

// name checks an entry's name: the limits, and that only a directory is the root.
func (c *checker) name(e *Entry) error {
	if len(e.Name) > c.lim.NameBytes {
		return fmt.Errorf("%w: %d bytes", ErrNameSize, len(e.Name))
	}
	if strings.IndexByte(e.Name, 0) >= 0 || strings.IndexByte(e.LinkName, 0) >= 0 {
		return fmt.Errorf("%w: zero byte", ErrName)
	}
	depth, level := 0, 0
	for rest := e.Name; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch {
		case len(part) > c.lim.ComponentBytes:
			return fmt.Errorf("%w: %d bytes", ErrComponentSize, len(part))
		case part == "" || part == ".":
		case part == "..":
			level = max(0, level-1)
		default:
			level++
			depth = max(depth, level)
		}
	}
	if depth > c.lim.Depth {
		return fmt.Errorf("%w: %d", ErrDepth, depth)
	}
	if level == 0 && e.Type != TypeDir {
		return fmt.Errorf("%w: the root is no directory", ErrName)
	}
	return nil
}
