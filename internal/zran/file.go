package zran

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/nineply/nineply/internal/fserr"
)

// The file: a header, a table of checkpoints, digests of the spans between them if
// flagDigests is set, and the packed windows one after the other. All numbers are
// little endian.
const (
	magic         = "nplyzran"
	formatVersion = 1

	headerSize = 128
	headerRest = 76             // from here on zeros, up to the checksum
	headerCRC  = headerSize - 4 // of header, table and digests, with this field zero
	recordSize = 32
	digestSize = 32

	// Flags of a file.
	flagDigests = 1 // every span has a digest
	flagPlain   = 2 // the blob is not compressed
	flagsKnown  = flagDigests | flagPlain

	// Flags of a checkpoint.
	flagMember = 1

	// maxRecords bounds the table of a file, which is in memory while it is open.
	maxRecords = 128 << 10

	// maxWindowPacked is more than any encoder makes of a window, bytes.
	maxWindowPacked = windowLen + 1024
)

// Errors of an index file, of kind [fserr.Corrupt] and [fserr.Unsupported].
var (
	ErrCorrupt = fserr.New(fserr.Corrupt, "", "", errors.New("damaged checkpoint file"))
	ErrVersion = fserr.New(fserr.Unsupported, "", "", errors.New("checkpoint file of another version"))
)

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Info says what a checkpoint file is about.
type Info struct {
	Blob     [32]byte // sha256 of the compressed blob
	BlobSize int64    // bytes
	Size     int64    // of the decompressed blob, bytes
	Span     int64    // output between two checkpoints at least, bytes; 0 if not known
	// Plain says that the blob is not compressed. Its checkpoints only mark spans
	// that have digests.
	Plain bool
}

// WriteTo writes the index file of the blob that was read, whose sha256 is blob.
// The blob must have been read to its end.
func (r *Recorder) WriteTo(w io.Writer, blob [32]byte) error {
	if !r.done {
		return errors.New("zran: the blob was not read to its end")
	}
	if len(r.points) == 0 || r.points[0].in != 0 {
		return errors.New("zran: no checkpoint at the start of the blob")
	}
	return writeFile(w, Info{Blob: blob, BlobSize: r.source.n, Size: r.out, Span: r.span}, r.points, nil)
}

// writeFile writes an index file; digests has one for each point, or is nil.
func writeFile(w io.Writer, info Info, points []point, digests [][digestSize]byte) error {
	head := make([]byte, headerSize+recordSize*len(points), headerSize+recordSize*len(points)+digestSize*len(digests))
	le := binary.LittleEndian
	copy(head, magic)
	le.PutUint32(head[8:], formatVersion)
	le.PutUint32(head[12:], uint32(len(points)))
	copy(head[16:48], info.Blob[:])
	le.PutUint64(head[48:], uint64(info.BlobSize))
	le.PutUint64(head[56:], uint64(info.Size))
	le.PutUint64(head[64:], uint64(info.Span))
	flags := uint32(0)
	if digests != nil {
		flags |= flagDigests
	}
	if info.Plain {
		flags |= flagPlain
	}
	le.PutUint32(head[72:], flags)
	for i := range points {
		points[i].encode(head[headerSize+i*recordSize:])
	}
	for i := range digests {
		head = append(head, digests[i][:]...)
	}
	le.PutUint32(head[headerCRC:], crc32.Checksum(head, castagnoli()))
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("write checkpoints: %w", err)
	}
	for _, p := range points {
		if _, err := w.Write(p.packed); err != nil {
			return fmt.Errorf("write checkpoints: %w", err)
		}
	}
	return nil
}

func (p *point) encode(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], uint64(p.in))
	le.PutUint64(b[8:], uint64(p.out))
	le.PutUint32(b[16:], uint32(len(p.packed)))
	le.PutUint32(b[20:], crc32.Checksum(p.packed, castagnoli()))
	le.PutUint16(b[24:], p.window)
	b[26] = p.bit
	if p.member {
		b[27] = flagMember
	}
}

// decodeRecord reads a row of the table; where its window is in the file follows
// from the rows before it.
func decodeRecord(b []byte) (e entry, err error) {
	le := binary.LittleEndian
	in, out := le.Uint64(b[0:]), le.Uint64(b[8:])
	e = entry{packed: le.Uint32(b[16:]), crc: le.Uint32(b[20:]), window: le.Uint16(b[24:]), bit: b[26], member: b[27] == flagMember}
	switch {
	case in > math.MaxInt64 || out > math.MaxInt64 || le.Uint32(b[28:]) != 0:
		return e, corrupt("checkpoint out of range")
	case b[27] > flagMember || e.bit > 7 || e.window > windowLen || e.packed > maxWindowPacked:
		return e, corrupt("checkpoint of unknown kind")
	case (e.window == 0) != (e.packed == 0) || e.member && (e.window != 0 || e.bit != 0):
		return e, corrupt("checkpoint with a window that does not belong to it")
	}
	e.in, e.out = int64(in), int64(out)
	return e, nil
}
