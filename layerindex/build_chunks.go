package layerindex

import (
	"math"

	"github.com/nineply/nineply/estargz"
)

// chunkList collects the chunks of a layer in the order of the TOC, which is the
// order of the blob, and checks what a reader relies on: the chunks of a file
// tile it in ascending order, no two chunks overlap in the blob, and each can be
// verified.
type chunkList struct {
	info *LayerInfo
	lim  Limits
	all  []chunk // owner is a place in Builder.nodes
	// member is the place of the first chunk of the member that the last chunk
	// lies in. Its size is known when the next member begins.
	member int
	// last is the place of the last chunk that is no hole, plus 1; floor is where
	// the next chunk may begin in the blob.
	last  int
	floor int64

	// The regular file whose chunks are being added.
	open       bool
	name       string
	owner      uint32
	size, next int64
	sum        estargz.Digest // of the whole file
	hasSum     bool
}

// beginFile starts the regular file n, which has place owner. The entry is its
// first chunk, too.
func (l *chunkList) beginFile(e *estargz.Entry, owner uint32, n *treeNode) error {
	if e.Size < 0 {
		return refuse(e.Name, ErrEntry, "size %d", e.Size)
	}
	l.open, l.name, l.owner, l.size, l.next = true, e.Name, owner, e.Size, 0
	l.sum, l.hasSum = e.Digest, e.HasDigest
	n.size, n.a = uint64(e.Size), uint32(len(l.all))
	if e.Size == 0 {
		return nil
	}
	return l.add(e)
}

// more adds a further chunk of the file before it.
func (l *chunkList) more(e *estargz.Entry) error {
	if !l.open {
		return refuse(e.Name, ErrChunks, "chunk without a file")
	}
	return l.add(e)
}

// endFile checks that the file is covered.
func (l *chunkList) endFile() error {
	if l.open && l.next != l.size {
		return refuse(l.name, ErrChunks, "%d of %d bytes have chunks", l.next, l.size)
	}
	l.open = false
	return nil
}

func (l *chunkList) add(e *estargz.Entry) error {
	rest := l.size - l.next
	size := e.ChunkSize
	if size == 0 {
		size = rest
	}
	switch {
	case e.ChunkOffset != l.next:
		return refuse(l.name, ErrChunks, "chunk at %d, want one at %d", e.ChunkOffset, l.next)
	case size <= 0 || size > rest:
		return refuse(l.name, ErrChunks, "chunk of %d bytes, %d are left", size, rest)
	case !e.Hole && size > l.lim.ChunkSize:
		return refuse(l.name, ErrLimit, "chunk of %d bytes", size)
	}
	c := chunk{offset: l.next, member: e.Offset, size: uint32(size), owner: l.owner}
	switch {
	case e.Hole:
		c.size, c.hole = 0, size
	case e.HasChunkDigest:
		c.digest = e.ChunkDigest
	case l.hasSum && size == l.size:
		c.digest = l.sum
	default:
		return refuse(l.name, ErrNoDigest, "at offset %d", l.next)
	}
	if err := l.place(&c, e.InnerOffset); err != nil {
		return err
	}
	l.all = append(l.all, c)
	l.next += size
	l.floor = c.member
	if !e.Hole {
		l.last = len(l.all)
	}
	return nil
}

// place checks where the chunk lies, and closes the member before it if it
// starts another one.
func (l *chunkList) place(c *chunk, inner int64) error {
	end := l.info.dataEnd()
	if c.member < 0 || c.member > maxMember || end > 0 && c.member >= end {
		return refuse(l.name, ErrChunks, "at %d of a blob whose data ends at %d", c.member, end)
	}
	if overflows(len(l.all), 1) {
		return refuse(l.name, ErrLimit, "more than %d chunks", int64(maxSection))
	}
	if c.member < l.floor {
		return refuse(l.name, ErrChunks, "at %d, before the chunk ahead of it", c.member)
	}
	last := l.lastData()
	if !l.info.Format.InMembers() {
		if last != nil && c.member-last.member < int64(last.size) {
			return refuse(l.name, ErrChunks, "at %d, inside the chunk before it", c.member)
		}
		return nil
	}
	if c.hole > 0 {
		if last != nil && c.member > last.member {
			return l.beginMember(c.member)
		}
		return nil
	}
	if inner < 0 {
		return refuse(l.name, ErrChunks, "at inner offset %d", inner)
	}
	if inner > l.lim.Inner {
		return refuse(l.name, ErrLimit, "at inner offset %d", inner)
	}
	c.inner = uint32(inner)
	switch {
	case last == nil || c.member > last.member:
		return l.beginMember(c.member)
	case inner < int64(last.inner)+int64(last.size):
		return refuse(l.name, ErrChunks, "at inner offset %d, inside the chunk before it", inner)
	}
	return nil
}

// lastData is the last chunk that is no hole.
func (l *chunkList) lastData() *chunk {
	if l.last == 0 {
		return nil
	}
	return &l.all[l.last-1]
}

// beginMember sets the size of the member that ends at off.
func (l *chunkList) beginMember(off int64) error {
	for i := l.member; i < len(l.all); i++ {
		size := off - l.all[i].member
		if size > math.MaxUint32 {
			return refuse(l.name, ErrLimit, "gzip member of %d bytes", size)
		}
		if l.all[i].hole == 0 {
			l.all[i].stored = uint32(size)
		}
	}
	l.member = len(l.all)
	return nil
}

// finish checks the last file and sets the size of the last member.
func (l *chunkList) finish() error {
	if err := l.endFile(); err != nil {
		return err
	}
	if l.last == 0 || !l.info.Format.InMembers() {
		return nil
	}
	end := l.info.dataEnd()
	if end == 0 {
		return refuse(l.name, ErrChunks, "the end of the data is not known")
	}
	keep := l.member
	if err := l.beginMember(end); err != nil {
		return err
	}
	l.member = keep
	return nil
}

// dataEnd bounds the members and chunks; 0 is unknown.
func (i *LayerInfo) dataEnd() int64 {
	if i.DataEnd == 0 && i.Format.InMembers() {
		return i.BlobSize
	}
	return i.DataEnd
}
