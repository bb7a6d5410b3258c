package estargz

import (
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/nineply/nineply/internal/fserr"
)

// assembler puts the blob together: members, TOC, footer. It is used by one
// goroutine at a time.
type assembler struct {
	opts WriterOptions
	blob *tally // compressed
	tar  *tally // uncompressed

	toc     []byte
	entries int
	current string          // name of the entry that toc ends with
	spans   map[string]span // of the entries in toc, by clean name
	dropped []span
	links   []link
}

// span is the place in the TOC of an entry and its chunks.
type span struct {
	start, end int
	kind       EntryType
	linked     bool // a hard link to it was seen
}

type link struct{ name, target string }

func newAssembler(w io.Writer, opts WriterOptions) *assembler {
	return &assembler{
		opts:  opts,
		blob:  newTally(w),
		tar:   newTally(io.Discard),
		toc:   []byte(tocHead),
		spans: make(map[string]span),
	}
}

const tocHead = `{"version":1,"entries":[`

// batch writes the members of one batch and notes their records.
func (a *assembler) batch(b *batch) error {
	offset := a.blob.n
	if _, err := a.blob.Write(b.packed); err != nil {
		return err
	}
	if _, err := a.tar.Write(b.data); err != nil {
		return err
	}
	for i := range b.records {
		r := &b.records[i]
		start, end := int64(b.members[r.member].packed), int64(b.end(r.member))
		if err := a.record(r, offset+start, offset+end); err != nil {
			return fmt.Errorf("entry %.100q: %w", a.current, err)
		}
	}
	return nil
}

// record adds an entry whose payload is in the member from start to end.
func (a *assembler) record(r *record, start, end int64) error {
	if r.kind != TypeChunk {
		if err := a.begin(r); err != nil {
			return err
		}
	}
	if a.entries++; a.entries > a.opts.Limits.Entries {
		return fmt.Errorf("%w: limit %d", ErrEntries, a.opts.Limits.Entries)
	}
	a.toc = append(a.toc, r.head...)
	if r.size > 0 {
		a.toc = a.appendContent(a.toc, r, start, end)
	}
	a.toc = append(a.toc, '}', ',', '\n')
	if int64(len(a.toc)) > a.opts.Limits.TOCSize {
		return fmt.Errorf("%w: limit %d bytes", ErrTOCSize, a.opts.Limits.TOCSize)
	}
	s := a.spans[a.current]
	s.end = len(a.toc)
	a.spans[a.current] = s
	return nil
}

// begin notes a new entry, which takes the place of an earlier one of its name.
func (a *assembler) begin(r *record) error {
	a.current = r.name
	if old, ok := a.spans[r.name]; ok {
		if old.linked {
			return fserr.Newf(fserr.Unsupported, "", "", "it replaces a file that has hard links")
		}
		a.dropped = append(a.dropped, old)
	}
	a.spans[r.name] = span{start: len(a.toc), kind: r.kind}
	if r.kind != TypeHardlink {
		return nil
	}
	a.links = append(a.links, link{r.name, r.target})
	if s, ok := a.spans[r.target]; ok {
		s.linked = true
		a.spans[r.target] = s
	}
	return nil
}

// appendContent adds where the payload of r is and what it must be.
func (a *assembler) appendContent(p []byte, r *record, start, end int64) []byte {
	p = strconv.AppendInt(append(p, `,"offset":`...), start, 10)
	if a.opts.Dialect == DialectContainers && (r.parts == nil || r.final) {
		p = strconv.AppendInt(append(p, `,"endOffset":`...), end, 10)
	}
	if r.inner > 0 {
		p = strconv.AppendInt(append(p, `,"innerOffset":`...), r.inner, 10)
	}
	if r.offset > 0 {
		p = strconv.AppendInt(append(p, `,"chunkOffset":`...), r.offset, 10)
	}
	if r.parts != nil {
		p = strconv.AppendInt(append(p, `,"chunkSize":`...), r.size, 10)
	}
	p = appendDigest(append(p, `,"chunkDigest":`...), r.digest)
	if r.kind == TypeReg {
		whole := r.digest
		if r.parts != nil {
			whole = Digest{} // not known before the last chunk was read
		}
		p = appendDigest(append(p, `,"digest":`...), whole)
		if r.parts != nil {
			r.parts.place = len(p) - 1 - hex.EncodedLen(len(whole))
		}
	}
	if r.final {
		hex.Encode(p[r.parts.place:], r.parts.digest[:])
	}
	return p
}

func appendDigest(p []byte, d Digest) []byte {
	p = append(append(p, '"'), digestPrefix...)
	return append(hex.AppendEncode(p, d[:]), '"')
}

// checkLinks requires that hard links lead to files of this layer.
func (a *assembler) checkLinks() error {
	for _, l := range a.links {
		if s, ok := a.spans[l.target]; !ok || s.kind == TypeDir {
			return fserr.Newf(fserr.Unsupported, "", "",
				"entry %.100q: %w: %.100q is no file of this layer", l.name, ErrLink, l.target)
		}
	}
	return nil
}

// tocBytes closes the TOC, without the entries that were replaced. Nothing follows
// its last brace, for there are readers that hash the TOC no further.
func (a *assembler) tocBytes(split *Digest) []byte {
	slices.SortFunc(a.dropped, func(x, y span) int { return x.start - y.start })
	toc, from := a.toc[:0], 0
	for _, s := range a.dropped {
		toc = append(toc, a.toc[from:s.start]...)
		from = s.end
	}
	toc = append(toc, a.toc[from:]...)
	if n := len(toc); toc[n-2] == ',' {
		toc = toc[:n-2]
	}
	toc = append(toc, ']')
	if split != nil {
		toc = appendDigest(append(toc, `,"tarSplitDigest":`...), *split)
	}
	return append(toc, '}')
}
