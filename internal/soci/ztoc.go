package soci

import (
	"fmt"

	"github.com/nineply/nineply/estargz"
)

// version is the one version of zTOCs there is.
const version = "0.9"

// The fields of the tables, by their place in the schema.
const (
	ztocVersion = iota
	ztocBuilder
	ztocBlobSize
	ztocTarSize
	ztocTOC
	ztocCompression
)

const (
	compAlgorithm = iota
	compMaxSpan
	compDigests
	compCheckpoints
)

// The compressions a zTOC can name.
const (
	algorithmGzip = 1
	algorithmNone = 2
)

// ZTOC is a parsed zTOC. It keeps the bytes it was parsed from.
type ZTOC struct {
	lim   Limits
	data  []byte
	gzip  bool
	blob  int64
	tar   int64
	spans []Span
}

// Span is a stretch of the blob that can be decompressed without what is before
// it. Spans are in the order of the blob. Two neighbours share a byte when one
// ends within it.
type Span struct {
	Lo, Hi int64 // range in the blob
	// Bit is how many bits of the first byte belong to the span before: 0 to 7.
	Bit uint8
	// Out is where the span begins in the tar.
	Out int64
	// Window is the 32 KiB of the tar before Out, with zeros where there are fewer;
	// nil in an uncompressed layer. It is a view of the bytes that were parsed.
	Window []byte
	Digest estargz.Digest // of the range of the blob
}

// Parse reads a zTOC. It keeps data and does not change it. The files are only
// looked at by [ZTOC.Entries].
func Parse(data []byte, lim Limits) (*ZTOC, error) {
	z := &ZTOC{lim: lim.effective(), data: data}
	if len(data) > z.lim.ZTOCBytes {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrSize, len(data), z.lim.ZTOCBytes)
	}
	b := newBuffer(data)
	root := b.root()
	got := root.bytes(ztocVersion)
	if b.err == nil && string(got) != version {
		return nil, fmt.Errorf("%w: %.20q", ErrVersion, got)
	}
	z.blob, z.tar = root.i64(ztocBlobSize), root.i64(ztocTarSize)
	comp, ok := root.table(ztocCompression)
	if b.err == nil && !ok {
		b.fail(ErrFlatbuffer)
	}
	if b.err != nil {
		return nil, b.err
	}
	if z.blob < 0 || z.tar < 0 {
		return nil, fmt.Errorf("%w: sizes %d and %d", ErrEntry, z.blob, z.tar)
	}
	if err := z.parseSpans(b, comp); err != nil {
		return nil, err
	}
	return z, nil
}

// Gzip reports whether the layer is gzip; else it is an uncompressed tar.
func (z *ZTOC) Gzip() bool { return z.gzip }

// BlobSize is the size of the layer's blob, bytes.
func (z *ZTOC) BlobSize() int64 { return z.blob }

// TarSize is where the tar ends, bytes; padding may follow.
func (z *ZTOC) TarSize() int64 { return z.tar }

// Spans are the spans of the layer, at least one. They must not be changed.
func (z *ZTOC) Spans() []Span { return z.spans }

// parseSpans reads the checkpoints and the digests of the spans between them.
func (z *ZTOC) parseSpans(b *buffer, comp table) error {
	algorithm := comp.u8(compAlgorithm, algorithmGzip)
	points := comp.bytes(compCheckpoints)
	digests := comp.vector(compDigests)
	last := comp.u32(compMaxSpan)
	if b.err != nil {
		return b.err
	}
	if digests.size > z.lim.Spans {
		return fmt.Errorf("%w: %d, limit %d", ErrSpans, digests.size, z.lim.Spans)
	}
	var err error
	switch algorithm {
	case algorithmGzip:
		z.gzip = true
		z.spans, err = gzipSpans(points, z.blob)
	case algorithmNone:
		z.spans, err = tarSpans(points, z.blob, digests.size)
	default:
		return fmt.Errorf("%w: %d", ErrCompression, algorithm)
	}
	if err != nil {
		return err
	}
	if digests.size != len(z.spans) || int64(last) != int64(len(z.spans)-1) {
		return fmt.Errorf("%w: %d spans, the last is number %d, %d digests", ErrSpanDigests, len(z.spans), last, digests.size)
	}
	for i := range z.spans {
		s := &z.spans[i]
		text := digests.bytes(i)
		if b.err != nil {
			return b.err
		}
		if s.Digest, err = estargz.ParseDigest(string(text)); err != nil {
			return fmt.Errorf("%w: %w", ErrSpanDigests, err)
		}
		if s.Hi-s.Lo > z.lim.SpanBytes {
			return fmt.Errorf("%w: %d bytes, limit %d", ErrSpan, s.Hi-s.Lo, z.lim.SpanBytes)
		}
	}
	return nil
}
