package estargz

import (
	"bytes"
	"context"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// batch is some members on their way through the writer.
type batch struct {
	data    []byte   // uncompressed
	members []member // that data is cut into, never empty
	records []record // of the TOC, in order
	json    []byte   // what the records' heads are slices of
	packed  []byte
	err     error
	done    chan struct{} // holds a token once packed or err is set
}

// member is a gzip member or a zstd frame.
type member struct {
	start   int  // in the batch's data
	packed  int  // start in what is packed
	payload bool // it holds file content
}

// record is a TOC entry that waits for its member's place in the blob.
type record struct {
	head   []byte // JSON, but for what follows and the closing brace
	name   string // in its clean form; "" for further chunks
	target string // clean target of a hard link
	kind   EntryType

	member      int   // number in the batch
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

func (b *batch) reset() {
	b.data, b.records, b.json, b.packed = b.data[:0], b.records[:0], b.json[:0], b.packed[:0]
	b.members = append(b.members[:0], member{})
	b.err = nil
}

// last is the member that is being filled.
func (b *batch) last() *member { return &b.members[len(b.members)-1] }

// filled is how much is in it, bytes.
func (b *batch) filled() int { return len(b.data) - b.last().start }

// end is where member i ends in what is packed.
func (b *batch) end(i int) int {
	if i+1 < len(b.members) {
		return b.members[i+1].packed
	}
	return len(b.packed)
}

// lane carries batches from the packer through any of the workers to the
// assembler, in order. The channels' capacity bounds what is in memory.
type lane struct {
	opts  WriterOptions
	work  chan *batch // to be compressed
	order chan *batch // to be written
	free  chan *batch // to be filled
}

func newLane(opts WriterOptions) *lane {
	inFlight := opts.Workers + 2
	return &lane{
		opts:  opts,
		work:  make(chan *batch, inFlight),
		order: make(chan *batch, inFlight),
		free:  make(chan *batch, inFlight),
	}
}

// empty gives a batch to fill.
func (l *lane) empty() *batch {
	var b *batch
	select {
	case b = <-l.free:
	default:
		b = &batch{done: make(chan struct{}, 1)}
	}
	b.reset()
	return b
}

// send hands a full batch on, first to its place in the order.
func (l *lane) send(ctx context.Context, b *batch) error {
	for _, next := range []chan<- *batch{l.order, l.work} {
		select {
		case next <- b:
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
	encode, err := newEncoder(&l.opts)
	if err != nil {
		return err
	}
	for b := range l.work {
		b.err = b.pack(encode)
		b.done <- struct{}{}
	}
	return nil
}

// pack compresses the members and hashes their chunks.
func (b *batch) pack(encode encoder) (err error) {
	for i := range b.records {
		if r := &b.records[i]; r.size > 0 {
			from := int64(b.members[r.member].start) + r.inner
			r.digest = Sum(b.data[from : from+r.size])
		}
	}
	for i := range b.members {
		m, end := &b.members[i], len(b.data)
		if i+1 < len(b.members) {
			end = b.members[i+1].start
		}
		m.packed = len(b.packed)
		if m.start == end {
			continue
		}
		if b.packed, err = encode(b.packed, b.data[m.start:end]); err != nil {
			return err
		}
	}
	return nil
}

// encoder appends the compressed form of src to dst.
type encoder func(dst, src []byte) ([]byte, error)

func newEncoder(opts *WriterOptions) (encoder, error) {
	if opts.Format == FormatZstdChunked {
		zw, err := newZstdWriter(nil, opts.Level)
		if err != nil {
			return nil, err
		}
		return func(dst, src []byte) ([]byte, error) { return zw.EncodeAll(src, dst), nil }, nil
	}
	zw, err := gzip.NewWriterLevel(io.Discard, opts.Level)
	if err != nil {
		return nil, err
	}
	return func(dst, src []byte) ([]byte, error) {
		out := bytes.NewBuffer(dst)
		zw.Reset(out)
		if _, err := zw.Write(src); err != nil {
			return dst, err
		}
		err := zw.Close()
		return out.Bytes(), err
	}, nil
}

// newZstdWriter gives an encoder that has no goroutines, and asks no more memory
// of a decoder than every one of them has to have (RFC 8878, 3.1.1.1.2).
func newZstdWriter(w io.Writer, level int) (*zstd.Encoder, error) {
	return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
}

// zstdWindow is how far back a frame refers, bytes: as far as most frames go, for
// encoders and decoders keep twice as much at hand.
const zstdWindow = 2 << 20

// assemble writes the batches in the order they were sent.
func (l *lane) assemble(ctx context.Context, out *assembler) error {
	for b := range l.order {
		select {
		case <-b.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if b.err != nil {
			return b.err
		}
		if err := out.batch(b); err != nil {
			return err
		}
		select {
		case l.free <- b:
		default:
		}
	}
	return nil
}
