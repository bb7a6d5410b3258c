package estargz

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
)

const (
	// landmarkByte is the content of both landmarks.
	landmarkByte = 0x0f
	// headerRoom is how much a member may grow by headers that follow its last
	// payload, which readers of that payload fetch in vain.
	headerRoom = 512 << 10
)

// packer cuts the tar entries into members.
type packer struct {
	opts  WriterOptions
	lane  *lane
	ctx   context.Context // of one run
	cur   *member
	tail  int // length of cur.data after its last payload
	check checker
	sum   hash.Hash // of a file of several chunks
}

// run packs all that src has.
func (p *packer) run(src entrySource) error {
	p.check.lim = p.opts.Limits
	p.sum = sha256.New()
	p.cur = p.lane.empty()
	for {
		h, content, err := src.next()
		if errors.Is(err, io.EOF) {
			return p.flush()
		}
		if err == nil {
			err = p.entry(h, content)
		}
		if err != nil {
			return err
		}
	}
}

// flush sends the member that is being filled and begins another.
func (p *packer) flush() error {
	if len(p.cur.data) == 0 {
		return nil
	}
	m := p.cur
	p.cur, p.tail = p.lane.empty(), 0
	return p.lane.send(p.ctx, m)
}

// entry packs one tar entry.
func (p *packer) entry(h *tar.Header, content io.Reader) error {
	err := p.header(h, content)
	if err != nil {
		return fmt.Errorf("entry %.100q: %w", h.Name, err)
	}
	return nil
}

func (p *packer) header(h *tar.Header, content io.Reader) error {
	e, err := entryOf(h, &p.check)
	if err != nil {
		return err
	}
	rec := record{name: cleanName(h.Name), kind: e.Type}
	if e.Type == TypeHardlink {
		rec.target = cleanName(h.Linkname)
		if rec.target == rec.name {
			return fmt.Errorf("%w: to itself", ErrLink)
		}
	}
	if len(p.cur.data)-p.tail > headerRoom {
		if err := p.flush(); err != nil {
			return err
		}
	}
	m := p.cur
	if m.data, err = appendHeader(m.data, h); err != nil {
		return err
	}
	if e.Size > 0 {
		return p.payload(rec, h, e, content)
	}
	m.note(rec, func(json []byte) []byte {
		json = appendEntry(json, h, e)
		if e.Type == TypeReg {
			json = appendDigest(append(json, `,"digest":`...), Sum(nil))
		}
		return json
	})
	return nil
}

// note adds a record, with the JSON that appendJSON begins it with.
func (m *member) note(rec record, appendJSON func([]byte) []byte) {
	start := len(m.json)
	m.json = appendJSON(m.json)
	rec.head = m.json[start:len(m.json):len(m.json)]
	m.records = append(m.records, rec)
}

// payload packs the content of a file, chunk by chunk.
func (p *packer) payload(rec record, h *tar.Header, e *Entry, content io.Reader) error {
	if e.Size > p.opts.ChunkSize {
		rec.parts = new(parts)
		p.sum.Reset()
	}
	for rec.offset < e.Size {
		rec.size = min(e.Size-rec.offset, p.opts.ChunkSize)
		if !p.joins(rec.name, rec.size) {
			if err := p.flush(); err != nil {
				return err
			}
		}
		if err := p.chunk(&rec, e.Size, content); err != nil {
			return err
		}
		p.cur.note(rec, func(json []byte) []byte {
			if rec.kind == TypeReg {
				return appendEntry(json, h, e)
			}
			json = appendText(append(json, `{"name":`...), e.Name)
			return append(json, `,"type":"chunk"`...)
		})
		rec.offset += rec.size
		rec.kind = TypeChunk
	}
	m := p.cur
	m.data = append(m.data, make([]byte, -e.Size&(tarBlock-1))...)
	p.tail = len(m.data)
	return nil
}

// joins says whether a payload goes into the member that is being filled. The
// landmarks never do: what is before them is a range of its own.
func (p *packer) joins(name string, size int64) bool {
	return p.cur.payload && size < p.opts.MinMemberSize &&
		int64(len(p.cur.data)) < p.opts.MinMemberSize && !isLandmark(name)
}

// chunk reads the bytes of rec, one chunk of a file of the given size.
func (p *packer) chunk(rec *record, size int64, content io.Reader) error {
	m := p.cur
	rec.inner = int64(len(m.data))
	m.data = slices.Grow(m.data, int(rec.size))[:rec.inner+rec.size]
	payload := m.data[rec.inner:]
	if _, err := io.ReadFull(content, payload); err != nil {
		return readError(err)
	}
	if rec.parts != nil {
		p.sum.Write(payload) // never fails
		if rec.final = rec.offset+rec.size == size; rec.final {
			rec.parts.digest = Digest(p.sum.Sum(nil))
		}
	}
	m.payload = true
	return nil
}

func isLandmark(name string) bool { return name == PrefetchLandmark || name == NoPrefetchLandmark }

// reserved says whether name belongs to the format itself.
func reserved(name string) bool { return isLandmark(name) || name == TOCName }
