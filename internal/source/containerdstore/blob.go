package containerdstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// streamBuffer is how much of a stream is asked for in one call, bytes.
const streamBuffer = 1 << 20

// blob is content of the store.
type blob struct {
	v      *services
	desc   ocispec.Descriptor
	object string
	length int64
}

var _ source.Blob = (*blob)(nil)

// blob opens content; a negative size is looked up.
func (v *services) blob(ctx context.Context, desc ocispec.Descriptor) (*blob, error) {
	if err := source.CheckDigest(desc.Digest); err != nil {
		return nil, err
	}
	b := &blob{v: v, desc: desc, object: v.ref.String() + " blob " + desc.Digest.String(), length: desc.Size}
	if b.length >= 0 {
		return b, nil
	}
	info, err := v.content.Info(v.in(ctx), desc.Digest)
	if err != nil {
		return nil, b.failure(err)
	}
	b.length, b.desc.Size = info.Size, info.Size
	return b, nil
}

func (b *blob) failure(err error) error {
	if errdefs.IsNotFound(err) {
		return fserr.New(fserr.NotExist, "read", b.object, errNotThere)
	}
	return b.v.failure("read", "blob "+b.desc.Digest.String(), err)
}

// Size implements [source.Blob].
func (b *blob) Size() int64 { return b.length }

// reader reads content for as long as ctx lasts, after a look at its size.
func (b *blob) reader(ctx context.Context) (io.ReaderAt, error) {
	info, err := b.v.content.Info(b.v.in(ctx), b.desc.Digest)
	if err != nil {
		return nil, b.failure(err)
	}
	if info.Size != b.length {
		return nil, fserr.Newf(fserr.Corrupt, "read", b.object, "%d bytes instead of %d", info.Size, b.length)
	}
	ra, err := b.v.content.ReaderAt(b.v.in(ctx), b.desc)
	if err != nil {
		return nil, b.failure(err)
	}
	return ra, nil // its Close does nothing: a call is made for each read
}

// ReadRange implements [source.Blob].
func (b *blob) ReadRange(ctx context.Context, off int64, p []byte) error {
	if err := source.CheckRange(b.object, b.length, off, int64(len(p))); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fserr.New(fserr.KindOf(err), "read", b.object, err)
	}
	if len(p) == 0 {
		return nil
	}
	ra, err := b.reader(ctx)
	if err != nil {
		return err
	}
	n, err := ra.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return fserr.Newf(fserr.Corrupt, "read", b.object, "became shorter while it was read")
	}
	return b.failure(err)
}

// Stream implements [source.Blob].
func (b *blob) Stream(ctx context.Context, off int64) (io.ReadCloser, error) {
	return b.OpenRange(ctx, off, b.length-off)
}

// OpenRange implements [source.Blob].
func (b *blob) OpenRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if err := source.CheckRange(b.object, b.length, off, n); err != nil {
		return nil, err
	}
	ra, err := b.reader(ctx)
	if err != nil {
		return nil, err
	}
	s := &stream{ctx: ctx, b: b, ra: ra, off: off, end: off + n}
	return &buffered{Reader: bufio.NewReaderSize(s, int(min(streamBuffer, max(n, 16)))), object: b.object}, nil
}

// buffered asks for much at a time, however little is read.
type buffered struct {
	*bufio.Reader
	object string
	closed bool
}

// Read implements io.Reader.
func (r *buffered) Read(p []byte) (int, error) {
	if r.closed {
		return 0, fserr.New(fserr.Closed, "read", r.object, nil)
	}
	return r.Reader.Read(p)
}

// Close implements io.Closer.
func (r *buffered) Close() error {
	r.closed = true
	return nil
}

// stream reads a range, one call after the other.
type stream struct {
	ctx      context.Context //nolint:containedctx // governs the stream, as OpenRange promises
	b        *blob
	ra       io.ReaderAt
	off, end int64
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, fserr.New(fserr.KindOf(err), "read", s.b.object, err)
	}
	if s.off == s.end {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), s.end-s.off)]
	n, err := s.ra.ReadAt(p, s.off)
	s.off += int64(n)
	switch {
	case n == len(p):
		return n, nil
	case err == nil || errors.Is(err, io.EOF):
		return n, fserr.New(fserr.Corrupt, "read", s.b.object, fmt.Errorf("became shorter while it was read: %w", io.ErrUnexpectedEOF))
	}
	return n, s.b.failure(err)
}
