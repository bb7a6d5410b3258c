package image

import (
	"context"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/inflate"
	"github.com/nineply/nineply/layerindex"
)

// hashBehind is how far the hash of a blob stays behind what was read of it, bytes:
// further than a decompressor reads ahead, so that the state of the hash is known
// at the places where decoding can start again.
const hashBehind = 1 << 20

// blobReader reads a blob piece by piece and hashes it.
type blobReader struct {
	fetch func(p []byte, off int64) (int, error) // may give less than asked for
	size  int64

	pos    int64 // of the next byte given out
	piece  []byte
	have   []byte // of the piece, not given out
	hash   hash.Hash
	hashed int64
	tail   []byte // [hashed, pos)
}

// Read implements io.Reader.
func (b *blobReader) Read(p []byte) (int, error) {
	if len(b.have) == 0 {
		if b.pos >= b.size {
			return 0, io.EOF
		}
		n, err := b.fetch(b.piece[:min(int64(len(b.piece)), b.size-b.pos)], b.pos)
		if err != nil {
			return 0, err
		}
		b.have = b.piece[:n]
	}
	n := copy(p, b.have)
	b.have = b.have[n:]
	b.pos += int64(n)
	b.tail = append(b.tail, p[:n]...)
	if len(b.tail) > 2*hashBehind {
		b.hashTo(b.pos - hashBehind)
	}
	return n, nil
}

// hashTo has the hash of the blob up to off. It is false if it is too late for that.
func (b *blobReader) hashTo(off int64) bool {
	n := off - b.hashed
	if n < 0 || n > int64(len(b.tail)) {
		return false
	}
	b.hash.Write(b.tail[:n])
	b.tail = b.tail[:copy(b.tail, b.tail[n:])]
	b.hashed = off
	return true
}

// sum reads the rest of the blob, and gives its digest.
func (b *blobReader) sum() (sum [32]byte, err error) {
	if _, err := io.Copy(io.Discard, b); err != nil {
		return sum, err
	}
	b.hashTo(b.pos)
	return [32]byte(b.hash.Sum(nil)), nil
}

// unpacker decompresses a blob, and says where that can begin again.
type unpacker struct {
	io.Reader
	close func()
}

// marker is told of a place where decoding can start again, which is reached when the
// tar was read up to Out. The window is valid during the call.
type marker func(place checkpoint)

// openUnpacker goes on at a place in the blob, nil for its start. blob is there
// already.
func openUnpacker(format layerindex.Format, plain bool, blob *blobReader, index *layerindex.Index, at *checkpoint, mark marker) (*unpacker, error) {
	switch {
	case plain:
		return &unpacker{&plainUnpacker{blob, mark}, func() {}}, nil
	case format == layerindex.FormatZstdChunked:
		return openFrames(blob, index, at, mark)
	}
	p := inflate.Point{Member: true}
	if at != nil {
		p = inflate.Point{In: at.In, Bit: at.Bit, Member: at.Start, Out: at.Out, Window: at.Window}
	}
	s, err := inflate.NewStream(blob, p)
	if err != nil {
		return nil, unpackFault(err)
	}
	if mark != nil {
		s.OnPoint = func(p inflate.Point, _ []byte) {
			mark(checkpoint{In: p.In, Bit: p.Bit, Start: p.Member, Window: p.Window, Out: p.Out})
		}
	}
	return &unpacker{s, func() { _ = s.Close() }}, nil // it only gives memory back
}

// unpackFault says of an error that is not the source's that the bytes are to blame.
func unpackFault(err error) error {
	if err == nil || errors.Is(err, io.EOF) || fserr.KindOf(err) != fserr.Internal {
		return err
	}
	return fserr.New(fserr.Corrupt, "decompress", "layer", err)
}

// plainUnpacker is for a blob that is a tar itself: every place will do.
type plainUnpacker struct {
	blob *blobReader
	mark marker
}

func (u *plainUnpacker) Read(p []byte) (int, error) {
	if u.mark != nil {
		u.mark(checkpoint{In: u.blob.pos, Start: true, Out: u.blob.pos})
	}
	return u.blob.Read(p)
}

// minFrames is how much of a blob of zstd frames is decoded in one go at least, bytes.
const minFrames = 1 << 20

// frames decompresses a blob of zstd frames from one place to the next where the index
// says that a frame begins.
type frames struct {
	blob  *blobReader
	index *layerindex.Index // nil: all in one go
	zr    *zstd.Decoder
	part  *io.LimitedReader
	out   int64
	mark  marker
}

func openFrames(blob *blobReader, index *layerindex.Index, at *checkpoint, mark marker) (*unpacker, error) {
	zr, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	f := &frames{blob: blob, index: index, zr: zr, mark: mark}
	if mark == nil {
		f.index = nil
	}
	if at != nil {
		f.out = at.Out
	}
	return &unpacker{f, zr.Close}, nil
}

// maxZstdWindow bounds the memory that a frame may ask for, bytes.
const maxZstdWindow = 128 << 20

func (f *frames) Read(p []byte) (int, error) {
	for {
		if f.part == nil {
			if err := f.next(); err != nil {
				return 0, err
			}
		}
		n, err := f.zr.Read(p)
		f.out += int64(n)
		if errors.Is(err, io.EOF) {
			f.part, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, unpackFault(err)
		}
	}
}

// next begins the next stretch of the blob.
func (f *frames) next() error {
	if f.blob.pos >= f.blob.size {
		return io.EOF
	}
	end := f.blob.size
	if f.index != nil {
		if c, ok := f.index.Chunk(f.index.ChunksFrom(f.blob.pos + minFrames)); ok {
			end = c.Member
		}
		f.mark(checkpoint{In: f.blob.pos, Start: true, Out: f.out})
	}
	f.part = &io.LimitedReader{R: f.blob, N: end - f.blob.pos}
	return unpackFault(f.zr.Reset(f.part))
}

// hashState gives the state of a hash so that it can be taken up again.
func hashState(h hash.Hash) ([]byte, error) {
	m, ok := h.(encoding.BinaryMarshaler)
	if !ok {
		return nil, fserr.Newf(fserr.Internal, "hash", "", "its state cannot be had")
	}
	return m.MarshalBinary()
}

// resumeHash is a hash with a state; of nothing if that is nil.
func resumeHash(state []byte) (hash.Hash, error) {
	h := sha256.New()
	if state == nil {
		return h, nil
	}
	m, ok := h.(encoding.BinaryUnmarshaler)
	if !ok {
		return nil, fserr.Newf(fserr.Internal, "hash", "", "its state cannot be set")
	}
	if err := m.UnmarshalBinary(state); err != nil {
		return nil, fmt.Errorf("hash: %w", err)
	}
	return h, nil
}

// fetcher reads pieces of a layer's blob within the share of the bandwidth.
func (f *filler) fetcher(ctx context.Context, j *job, l *Layer) func(p []byte, off int64) (int, error) {
	return func(p []byte, off int64) (int, error) {
		read := f.readPiece
		if j.urgent.Load() {
			read = readNow
		}
		n, err := read(ctx, l, p, off)
		f.bytes.Add(int64(n))
		j.done.Store(off + int64(n))
		return n, err
	}
}

// readNow is readPiece that waits for nobody.
func readNow(ctx context.Context, l *Layer, p []byte, off int64) (n int, err error) {
	for n == 0 && err == nil {
		if err = ctx.Err(); err == nil {
			n, err = l.bytes.ReadRaw(ctx, p, off)
		}
	}
	return n, err
}
