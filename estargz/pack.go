package estargz

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"

	"github.com/nineply/nineply/internal/fserr"
)

const (
	// landmarkByte is the content of both landmarks.
	landmarkByte = 0x0f
	// headerRoom is how much a member may grow by headers that follow its last
	// payload, which readers of that payload fetch in vain.
	headerRoom = 512 << 10
	// batchSize is how much is packed in one go, bytes: enough to keep the workers
	// from waiting for each other.
	batchSize = 1 << 20
	// dirShare: a member that is full by this part ends where a directory does. What
	// an update changes are whole directories, and a member that has files of others
	// is fetched for theirs in vain.
	dirShare = 8
	// maxExpansion is the largest sparse file that is written out, bytes.
	maxExpansion = 64 << 30
)

// packer cuts the tar entries into members.
type packer struct {
	opts  WriterOptions
	lane  *lane
	ctx   context.Context // of one run
	split *tarSplit       // nil: none is made
	cur   *batch
	tail  int    // length of cur.data after the last payload of its last member
	dir   string // of the last payload
	check checker
	sum   hash.Hash // of a file of several chunks
}

// run packs all that src has.
func (p *packer) run(src entrySource) error {
	p.check.lim = p.opts.Limits
	p.sum = sha256.New()
	p.cur = p.lane.empty()
	for {
		it, err := src.next()
		if errors.Is(err, io.EOF) {
			return p.finish()
		}
		if err == nil {
			err = p.item(&it)
		}
		if err != nil {
			return err
		}
	}
}

// finish ends a tar whose end does not come from the source or with the TOC.
func (p *packer) finish() error {
	if p.opts.Format == FormatZstdChunked && !p.opts.keepsTar() {
		p.cur.data = append(p.cur.data, make([]byte, tarEnd)...)
	}
	return p.flush()
}

// cut ends the member that is being filled, if there is anything in it.
func (p *packer) cut() error {
	switch {
	case p.cur.filled() == 0:
		return nil
	case len(p.cur.data) >= batchSize:
		return p.flush()
	}
	p.cur.members = append(p.cur.members, member{start: len(p.cur.data)})
	p.tail = len(p.cur.data)
	return nil
}

// flush sends the batch that is being filled and begins another.
func (p *packer) flush() error {
	if len(p.cur.data) == 0 {
		return nil
	}
	b := p.cur
	p.cur, p.tail = p.lane.empty(), 0
	return p.lane.send(p.ctx, b)
}

// item packs one entry, or bytes that belong to none.
func (p *packer) item(it *item) error {
	if len(p.cur.data)-p.tail > headerRoom {
		if err := p.cut(); err != nil {
			return err
		}
	}
	if it.unsplit {
		p.split.unfit()
	}
	if it.h == nil {
		p.cur.data = append(p.cur.data, it.lead...)
		return p.split.segment(it.lead)
	}
	name := it.h.Name
	if err := p.entry(it); err != nil {
		return fmt.Errorf("entry %.100q: %w", name, err)
	}
	return nil
}

// entry packs one tar entry.
func (p *packer) entry(it *item) error {
	if err := p.header(it); err != nil {
		return err
	}
	h := it.h
	e, err := entryOf(h, &p.check)
	if err != nil {
		return err
	}
	if it.sparse && e.Size > maxExpansion {
		return fserr.Newf(fserr.TooLarge, "", "", "a sparse file of %d bytes, limit %d", e.Size, int64(maxExpansion))
	}
	rec := record{name: cleanName(h.Name), kind: e.Type}
	if e.Type == TypeHardlink {
		rec.target = cleanName(h.Linkname)
		if rec.target == rec.name {
			return fmt.Errorf("%w: to itself", ErrLink)
		}
	}
	if e.Size > 0 {
		if err := p.payload(rec, it, e); err != nil {
			return err
		}
		return p.split.file(h.Name, e.Size)
	}
	p.cur.note(rec, func(json []byte) []byte {
		json = p.describe(json, h, e)
		if e.Type == TypeReg && p.split == nil {
			json = appendDigest(append(json, `,"digest":`...), Sum(nil))
		}
		return json
	})
	return p.split.file(h.Name, 0)
}

// header packs what is in front of the payload. A header that is made anew may
// say less than it was made of; it.h then becomes what it says.
func (p *packer) header(it *item) (err error) {
	b := p.cur
	from := len(b.data)
	b.data = append(b.data, it.lead...)
	if !it.rewrite {
		return p.split.segment(b.data[from:])
	}
	head := len(b.data)
	if b.data, err = appendHeader(b.data, it.h); err != nil {
		return err
	}
	if p.split == nil {
		return nil
	}
	if it.h, err = tar.NewReader(bytes.NewReader(b.data[head:])).Next(); err != nil {
		return fserr.New(fserr.Unsupported, "", "", err)
	}
	return p.split.segment(b.data[from:])
}

// describe begins the JSON of an entry.
func (p *packer) describe(json []byte, h *tar.Header, e *Entry) []byte {
	if p.split != nil {
		return appendFullEntry(json, h, e)
	}
	return appendEntry(json, h, e)
}

// note adds a record, with the JSON that appendJSON begins it with.
func (b *batch) note(rec record, appendJSON func([]byte) []byte) {
	start := len(b.json)
	b.json = appendJSON(b.json)
	rec.head = b.json[start:len(b.json):len(b.json)]
	b.records = append(b.records, rec)
}

// payload packs the content of a file, chunk by chunk.
func (p *packer) payload(rec record, it *item, e *Entry) error {
	if e.Size > p.opts.ChunkSize {
		rec.parts = new(parts)
		p.sum.Reset()
	}
	for rec.offset < e.Size {
		rec.size = min(e.Size-rec.offset, p.opts.ChunkSize)
		if !p.joins(rec.name, rec.size) {
			if err := p.cut(); err != nil {
				return err
			}
		}
		if err := p.chunk(&rec, e.Size, it.content); err != nil {
			return err
		}
		p.cur.note(rec, func(json []byte) []byte {
			if rec.kind == TypeReg {
				return p.describe(json, it.h, e)
			}
			json = appendText(append(json, `{"name":`...), e.Name)
			return append(json, `,"type":"chunk"`...)
		})
		rec.offset += rec.size
		rec.kind = TypeChunk
	}
	if p.opts.Dialect == DialectContainers { // where nothing but the chunk is in its frame
		if err := p.cut(); err != nil {
			return err
		}
	}
	if it.pad {
		n := int(-e.Size & (tarBlock - 1))
		p.cur.data = append(p.cur.data, make([]byte, n)...)
		p.split.padded(n)
	}
	p.tail = len(p.cur.data)
	return nil
}

// joins says whether a payload goes into the member that is being filled. The
// landmarks never do: what is before them is a range of its own.
func (p *packer) joins(name string, size int64) bool {
	most, dir := p.opts.MinMemberSize, path.Dir(name)
	if dir != p.dir {
		most /= dirShare
	}
	p.dir = dir
	return p.cur.last().payload && size < p.opts.MinMemberSize && int64(p.cur.filled()) < most && !isLandmark(name)
}

// chunk reads the bytes of rec, one chunk of a file of the given size.
func (p *packer) chunk(rec *record, size int64, content io.Reader) error {
	b := p.cur
	from := len(b.data)
	rec.member, rec.inner = len(b.members)-1, int64(b.filled())
	b.data = slices.Grow(b.data, int(rec.size))[:from+int(rec.size)]
	payload := b.data[from:]
	if _, err := io.ReadFull(content, payload); err != nil {
		return readError(err)
	}
	p.split.content(payload)
	if rec.parts != nil {
		p.sum.Write(payload) // never fails
		if rec.final = rec.offset+rec.size == size; rec.final {
			rec.parts.digest = Digest(p.sum.Sum(nil))
		}
	}
	b.last().payload = true
	return nil
}

func isLandmark(name string) bool { return name == PrefetchLandmark || name == NoPrefetchLandmark }

// reserved says whether name belongs to the format itself.
func reserved(name string) bool { return isLandmark(name) || name == TOCName }
