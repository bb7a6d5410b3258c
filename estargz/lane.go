package estargz

import (
	"bytes"
	"context"
	"io"

	"github.com/klauspost/compress/gzip"
)

// member is one gzip member on its way through the writer.
type member struct {
	data    []byte   // uncompressed
	records []record // of the TOC, in order
	json    []byte   // what the records' heads are slices of
	packed  bytes.Buffer
	err     error
	done    chan struct{} // holds a token once packed or err is set
	payload bool          // data holds file content
}

// record is a TOC entry that waits for its member's place in the blob.
type record struct {
	head   []byte // JSON, but for what follows and the closing brace
	name   string // in its clean form; "" for further chunks
	target string // clean target of a hard link
	kind   EntryType

	inner, size int64 // payload in the member; size 0: none
	offset      int64 // of the chunk in its file
	digest      Digest
	parts       *parts // of a file of several chunks
	final       bool   // the last of them
}

// parts is what the records of one file have in common. The packer sets digest
// before it sends the last; place is the assembler's.
type parts struct {
	digest Digest
	place  int // of the digest's hex digits in the TOC
}

func (m *member) reset() {
	m.data, m.records, m.json = m.data[:0], m.records[:0], m.json[:0]
	m.packed.Reset()
	m.err, m.payload = nil, false
}

// lane carries members from the packer through any of the workers to the
// assembler, in order. The channels' capacity bounds what is in memory.
type lane struct {
	level int
	work  chan *member // to be compressed
	order chan *member // to be written
	free  chan *member // to be filled
}

func newLane(opts WriterOptions) *lane {
	inFlight := 2*opts.Workers + 1
	return &lane{
		level: opts.Level,
		work:  make(chan *member, inFlight),
		order: make(chan *member, inFlight),
		free:  make(chan *member, inFlight),
	}
}

// empty gives a member to fill.
func (l *lane) empty() *member {
	select {
	case m := <-l.free:
		m.reset()
		return m
	default:
		return &member{done: make(chan struct{}, 1)}
	}
}

// send hands a full member on, first to its place in the order.
func (l *lane) send(ctx context.Context, m *member) error {
	for _, next := range []chan<- *member{l.order, l.work} {
		select {
		case next <- m:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// close tells the workers and the assembler that all is sent.
func (l *lane) close() {
	close(l.work)
	close(l.order)
}

// compress is one worker.
func (l *lane) compress() error {
	zw, err := gzip.NewWriterLevel(io.Discard, l.level)
	if err != nil {
		return err
	}
	for m := range l.work {
		m.err = m.pack(zw)
		m.done <- struct{}{}
	}
	return nil
}

// pack compresses the member and hashes its chunks.
func (m *member) pack(zw *gzip.Writer) error {
	for i := range m.records {
		if r := &m.records[i]; r.size > 0 {
			r.digest = Sum(m.data[r.inner : r.inner+r.size])
		}
	}
	zw.Reset(&m.packed)
	if _, err := zw.Write(m.data); err != nil {
		return err
	}
	return zw.Close()
}

// assemble writes the members in the order they were sent.
func (l *lane) assemble(ctx context.Context, out *assembler) error {
	for m := range l.order {
		select {
		case <-m.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if m.err != nil {
			return m.err
		}
		if err := out.member(m); err != nil {
			return err
		}
		select {
		case l.free <- m:
		default:
		}
	}
	return nil
}
