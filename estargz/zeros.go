package estargz

import "sync"

// zeroRun is the size of the chunks that a long run of zeros is cut into, bytes.
// All but the last have one digest, so that they are fetched and kept once.
const zeroRun = 1 << 20

var zeroDigest = sync.OnceValue(func() Digest { return Sum(make([]byte, zeroRun)) }) //nolint:gochecknoglobals // a constant

// emitZeros hands on the chunk of the entry, which the TOC says is all zeros, in
// pieces. They lie in the blob like any other content, compressed to next to
// nothing.
func (p *tocParser) emitZeros() error {
	first, end := p.entry, p.entry.ChunkOffset+p.entry.ChunkSize
	for off := first.ChunkOffset; off < end; off += zeroRun {
		size := min(zeroRun, end-off)
		if off > first.ChunkOffset {
			if p.check.count++; p.check.count > p.check.lim.Entries {
				return p.check.locate(&first, ErrEntries)
			}
			p.entry = Entry{Name: first.Name, Type: TypeChunk, Offset: first.Offset}
		}
		p.entry.ChunkOffset, p.entry.ChunkSize = off, size
		p.entry.InnerOffset = first.InnerOffset + off - first.ChunkOffset
		p.entry.ChunkDigest, p.entry.HasChunkDigest = zeroDigest(), true
		if size < zeroRun {
			p.entry.ChunkDigest = Sum(make([]byte, size))
		}
		if err := p.emit(); err != nil {
			return err
		}
	}
	return nil
}
