package estargz

import (
	"fmt"
	"io"
	"slices"
)

// Blob is a whole eStargz layer at hand, for tools. It keeps the compressed TOC
// and the places of the members in memory.
type Blob struct {
	ra      io.ReaderAt
	lim     Limits
	footer  Footer
	digest  Digest
	toc     []byte  // compressed
	members []int64 // offsets, ascending, TOC last
}

// Open reads footer and TOC of the blob of size bytes in ra, and checks all of
// the TOC's entries. It fails as [ParseFooter], [Footer.TOCRange] and [ReadTOC]
// do. Whether the TOC is the right one is for the caller to decide by its digest.
func Open(ra io.ReaderAt, size int64, lim Limits) (*Blob, error) {
	tail := make([]byte, min(FooterSize, max(0, size)))
	if err := readAt(ra, tail, size-int64(len(tail))); err != nil {
		return nil, fmt.Errorf("footer: %w", err)
	}
	footer, err := ParseFooter(tail)
	if err != nil {
		return nil, err
	}
	off, n, err := footer.TOCRange(size, lim)
	if err != nil {
		return nil, err
	}
	b := &Blob{ra: ra, lim: lim, footer: footer, toc: make([]byte, n)}
	if err := readAt(ra, b.toc, off); err != nil {
		return nil, fmt.Errorf("TOC: %w", err)
	}
	b.digest, err = ReadTOC(b.toc, footer, lim, func(e *Entry) error {
		last := len(b.members) - 1
		if e.ChunkSize > 0 && (last < 0 || e.Offset > b.members[last]) {
			b.members = append(b.members, e.Offset)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	b.members = append(b.members, footer.TOCOffset)
	return b, nil
}

// readAt fills p from off, whatever the reader says at the end.
func readAt(ra io.ReaderAt, p []byte, off int64) error {
	n, err := ra.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Footer gives the blob's footer.
func (b *Blob) Footer() Footer { return b.footer }

// TOCDigest gives the digest of the TOC's JSON.
func (b *Blob) TOCDigest() Digest { return b.digest }

// Entries calls fn for each entry of the TOC, as [ReadTOC] does.
func (b *Blob) Entries(fn func(*Entry) error) error {
	_, err := ReadTOC(b.toc, b.footer, b.lim, fn)
	return err
}

// Files calls fn for each entry but further chunks, with all chunks of its
// content, which has none unless it is a regular file with bytes in it. Both
// arguments are valid until fn returns.
func (b *Blob) Files(fn func(e *Entry, chunks []Chunk) error) error {
	var file Entry
	var chunks []Chunk
	next := 1 // of the members, behind the current chunk's
	flush := func() error {
		if file.Type == 0 {
			return nil
		}
		return fn(&file, chunks)
	}
	err := b.Entries(func(e *Entry) error {
		if e.Type != TypeChunk {
			if err := flush(); err != nil {
				return err
			}
			file, chunks = *e, chunks[:0]
		}
		if e.ChunkSize == 0 {
			return nil
		}
		if e.Hole {
			chunks = append(chunks, Chunk{Offset: e.ChunkOffset, Size: e.ChunkSize, Member: e.Offset, Hole: true})
			return nil
		}
		for b.members[next-1] < e.Offset {
			next++
		}
		chunks = append(chunks, Chunk{
			Digest: e.ChunkDigest, Offset: e.ChunkOffset, Size: e.ChunkSize,
			Member: e.Offset, MemberSize: b.members[next] - e.Offset, Inner: e.InnerOffset,
		})
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// zeros is what a hole is read from.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// WriteContent reads the chunks, checks them, and writes them to w.
func (b *Blob) WriteContent(w io.Writer, chunks []Chunk) error {
	var packed []byte
	for len(chunks) > 0 {
		if chunks[0].Hole {
			if _, err := io.CopyN(w, zeros{}, chunks[0].Size); err != nil {
				return err
			}
			chunks = chunks[1:]
			continue
		}
		n := 1
		for n < len(chunks) && !chunks[n].Hole && chunks[n].Member == chunks[0].Member {
			n++
		}
		packed = slices.Grow(packed[:0], int(chunks[n-1].FetchSize()))[:chunks[n-1].FetchSize()]
		if err := readAt(b.ra, packed, chunks[0].Member); err != nil {
			return fmt.Errorf("member at %d: %w", chunks[0].Member, err)
		}
		err := DecodeMember(packed, chunks[:n], func(_ int, p []byte) error {
			_, err := w.Write(p)
			return err
		})
		if err != nil {
			return err
		}
		chunks = chunks[n:]
	}
	return nil
}
