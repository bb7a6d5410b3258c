package zran

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"sort"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/nineply/nineply/internal/inflate"
)

// Index is an open index file. It may be used by any number of goroutines.
type Index struct {
	info    Info
	ra      io.ReaderAt
	entries []entry
	digests [][digestSize]byte // of the span from each entry on; nil if there are none
}

// entry is a checkpoint whose window is in the file.
type entry struct {
	in, out int64
	at      int64 // of the packed window in the file
	packed  uint32
	crc     uint32
	window  uint16
	bit     uint8
	member  bool
}

// Open checks header and table of the index file of size bytes in ra, which must
// stay readable as long as the Index is used. It fails with [ErrCorrupt] or
// [ErrVersion]. Windows are checked when they are used.
func Open(ra io.ReaderAt, size int64) (*Index, error) {
	if size < headerSize {
		return nil, corrupt("%d bytes", size)
	}
	head := make([]byte, headerSize)
	if _, err := ra.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("read checkpoints: %w", err)
	}
	le := binary.LittleEndian
	if string(head[:8]) != magic {
		return nil, corrupt("not a checkpoint file")
	}
	if v := le.Uint32(head[8:]); v != formatVersion {
		return nil, fmt.Errorf("%w: %d", ErrVersion, v)
	}
	count := int64(le.Uint32(head[12:]))
	flags := le.Uint32(head[72:])
	row := int64(recordSize)
	if flags&flagDigests != 0 {
		row += digestSize
	}
	if count == 0 || count > (size-headerSize)/row || count > maxRecords {
		return nil, corrupt("%d checkpoints in %d bytes", count, size)
	}
	table := make([]byte, count*row)
	if _, err := ra.ReadAt(table, headerSize); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read checkpoints: %w", err)
	}
	sum := le.Uint32(head[headerCRC:])
	le.PutUint32(head[headerCRC:], 0)
	if got := crc32.Update(crc32.Checksum(head, castagnoli()), castagnoli(), table); got != sum {
		return nil, corrupt("checksum differs")
	}
	for _, c := range head[headerRest:headerCRC] {
		if flags&^flagsKnown != 0 || c != 0 {
			return nil, corrupt("unknown flags")
		}
	}
	x := &Index{ra: ra}
	x.info.Plain = flags&flagPlain != 0
	for d := table[count*recordSize:]; len(d) > 0; d = d[digestSize:] {
		x.digests = append(x.digests, [digestSize]byte(d))
	}
	return x, x.load(head, table[:count*recordSize], headerSize+count*row, size)
}

// load decodes header and table; windows are from at on, to the end of the file.
func (x *Index) load(head, table []byte, at, size int64) error {
	le := binary.LittleEndian
	x.info.Blob = [32]byte(head[16:48])
	for i, into := range []*int64{&x.info.BlobSize, &x.info.Size, &x.info.Span} {
		v := le.Uint64(head[48+8*i:])
		if v > math.MaxInt64 {
			return corrupt("size out of range")
		}
		*into = int64(v)
	}
	x.entries = make([]entry, 0, len(table)/recordSize)
	for ; len(table) > 0; table = table[recordSize:] {
		e, err := decodeRecord(table)
		if err != nil {
			return err
		}
		if n := len(x.entries); n == 0 && (e.out != 0 || e.bit != 0 || e.window != 0) ||
			n > 0 && (e.in <= x.entries[n-1].in || e.out <= x.entries[n-1].out) ||
			e.in >= x.info.BlobSize || e.out > x.info.Size {
			return corrupt("checkpoint %d is out of order", n)
		}
		if x.info.Plain && (e.in != e.out || e.bit != 0 || e.window != 0 || e.member) {
			return corrupt("checkpoint in a blob that is not compressed")
		}
		e.at = at
		at += int64(e.packed)
		x.entries = append(x.entries, e)
	}
	if at != size {
		return corrupt("%d bytes, want %d", size, at)
	}
	return nil
}

// Info says what the index is about.
func (x *Index) Info() Info { return x.info }

// Verifies reports whether the index has digests of the spans, which what is read
// through it is compared with.
func (x *Index) Verifies() bool { return x.digests != nil }

// Points is the number of checkpoints.
func (x *Index) Points() int { return len(x.entries) }

// Verify checks all windows too, for an index that comes from elsewhere.
func (x *Index) Verify() error {
	for i := range x.entries {
		if _, err := x.loadWindow(&x.entries[i]); err != nil {
			return err
		}
	}
	return nil
}

// before is the last checkpoint at or before off of the output.
func (x *Index) before(off int64) int {
	return sort.Search(len(x.entries), func(i int) bool { return x.entries[i].out > off }) - 1
}

// Extent gives the range of the blob that n bytes at off of the output need: from
// the checkpoint before them to the one behind.
func (x *Index) Extent(off, n int64) (lo, hi int64) {
	i := max(0, x.before(off))
	if x.info.Plain && x.digests == nil {
		return off, off + n
	}
	end := sort.Search(len(x.entries), func(i int) bool { return x.entries[i].out >= off+n })
	return x.entries[i].in, x.spanEnd(max(end-1, i))
}

// spanEnd is where the span from checkpoint i on ends in the blob. It shares a
// byte with the next one if that begins within it.
func (x *Index) spanEnd(i int) int64 {
	if i+1 == len(x.entries) {
		return x.info.BlobSize
	}
	e := &x.entries[i+1]
	if e.bit > 0 {
		return e.in + 1
	}
	return e.in
}

// First is where output begins that an [Index.Extent] for off yields too.
func (x *Index) First(off int64) int64 { return x.entries[max(0, x.before(off))].out }

// Reader reads the decompressed blob from a checkpoint on.
type Reader interface {
	io.ReadCloser
	// Discard skips n bytes, or fails as Read does.
	Discard(n int64) error
}

// Start decompresses from the checkpoint at lo, which is a lower bound that
// [Index.Extent] gave. body has the bytes of the blob from there on. The stream
// begins at the offset out of the output, and must be closed. Where spans have
// digests, nothing comes out of a span that was not compared with its digest
// first, and body must reach to the end of the last span that is read.
func (x *Index) Start(body io.Reader, lo int64) (r Reader, out int64, err error) {
	i := sort.Search(len(x.entries), func(i int) bool { return x.entries[i].in >= lo })
	if i == len(x.entries) || x.entries[i].in != lo {
		return nil, 0, fmt.Errorf("zran: no checkpoint at %d", lo)
	}
	e := &x.entries[i]
	if x.digests != nil {
		body = &verifier{x: x, body: body, span: i}
	}
	if x.info.Plain {
		return plain{body}, e.out, nil
	}
	window, err := x.loadWindow(e)
	if err != nil {
		return nil, 0, err
	}
	s, err := inflate.NewStream(body, inflate.Point{In: e.in, Bit: e.bit, Member: e.member, Out: e.out, Window: window})
	if err != nil {
		return nil, 0, err
	}
	return s, e.out, nil
}

// decoders unpack windows.
var decoders = sync.Pool{New: func() any { //nolint:gochecknoglobals // a pool keeps nothing that matters
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(windowLen), zstd.WithDecoderMaxWindow(1<<20))
	if err != nil {
		return err
	}
	return d
}}

// loadWindow reads and checks a checkpoint's window.
func (x *Index) loadWindow(e *entry) ([]byte, error) {
	if e.window == 0 {
		return nil, nil
	}
	packed := make([]byte, e.packed)
	if _, err := x.ra.ReadAt(packed, e.at); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	if crc32.Checksum(packed, castagnoli()) != e.crc {
		return nil, corrupt("window at %d has another checksum", e.at)
	}
	d, ok := decoders.Get().(*zstd.Decoder)
	if !ok {
		return nil, corrupt("no decoder")
	}
	defer decoders.Put(d)
	window, err := d.DecodeAll(packed, make([]byte, 0, e.window))
	if err != nil {
		return nil, corrupt("window at %d: %v", e.at, err)
	}
	if len(window) != int(e.window) {
		return nil, corrupt("window of %d bytes, want %d", len(window), e.window)
	}
	return window, nil
}
