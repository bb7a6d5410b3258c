package fetch

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"go.uber.org/zap"
)

// Spans leads into a layer whose chunks have no compressed members: Chunk.Member
// is then the chunk's offset in the decoded layer.
type Spans interface {
	// Extent is the range of the blob that n bytes at off of the decoded layer need.
	Extent(off, n int64) (lo, hi int64)
	// First is the offset in the decoded layer from which on an Extent for off has
	// to be decoded.
	First(off int64) int64
	// Start decodes body, which holds the blob from lo on, the beginning of an
	// Extent. What it reads begins at out of the decoded layer.
	Start(body io.Reader, lo int64) (r SpanReader, out int64, err error)
}

// SpanReader reads a decoded layer.
type SpanReader interface {
	io.ReadCloser
	Discard(n int64) error
}

// extent is the range of the blob that has to be read for c.
func (l *Layer) extent(c *estargz.Chunk) (lo, hi int64) {
	if l.spans != nil {
		return l.spans.Extent(c.Member, c.Size)
	}
	return c.Member, c.Member + c.MemberSize
}

// begin is the value of Member from which on chunks are decoded when c is.
func (l *Layer) begin(c *estargz.Chunk) int64 {
	if l.spans != nil {
		return l.spans.First(c.Member)
	}
	return c.Member
}

// executeSpans decodes the run's range in one go. Where bytes prove wrong, the
// chunk they belong to is asked for once more by itself, since another host may
// have it right, and the rest anew.
func (r *run) executeSpans(ctx context.Context, s *Scheduler) error {
	for items := r.items; len(items) > 0; {
		n, err := r.decodeSpans(ctx, s, items)
		items = items[n:]
		if err == nil {
			continue
		}
		if ctx.Err() != nil || fserr.KindOf(err) != fserr.Corrupt {
			return err
		}
		it := items[0]
		s.opts.Logger.Warn("bytes of a layer failed verification, asking once more",
			zap.String("layer", r.layer.name), zap.Int64("offset", it.chunk.Member), zap.Error(err))
		s.stats.corrupt.Add(1)
		if err := r.refetchSpan(ctx, s, it); err != nil {
			s.fail(r, items[:1], fserr.New(fserr.Corrupt, "verify", fmt.Sprintf("%s at %d", r.layer.name, it.chunk.Member), err))
		}
		items = items[1:]
	}
	return ctx.Err()
}

// decodeSpans delivers items from one request, and tells how many it did.
func (r *run) decodeSpans(ctx context.Context, s *Scheduler, items []item) (int, error) {
	lo, _ := r.layer.extent(&items[0].chunk)
	s.restart(r, lo)
	s.asked(r)
	body, err := r.layer.blob.OpenRange(ctx, lo, r.hi-lo)
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }() // read side: all that matters was read and verified
	put := landing{ctx: ctx, r: r, s: s}
	defer put.end()
	return r.layer.decode(&progress{body, r, s}, lo, items, &put)
}

// decode reads the chunks of items out of the blob from lo on, verifies and lands
// them. It tells with how many it is done.
func (l *Layer) decode(body io.Reader, lo int64, items []item, put *landing) (int, error) {
	dec, pos, err := l.spans.Start(body, lo)
	if err != nil {
		return 0, err
	}
	defer func() { _ = dec.Close() }() // it only gives memory back
	for n, it := range items {
		c := &it.chunk
		if c.Member < pos {
			return n, fserr.Newf(fserr.Internal, "fetch", l.name, "chunk at %d, decoded from %d on", c.Member, pos)
		}
		if err := dec.Discard(c.Member - pos); err != nil {
			return n, l.spanError(err)
		}
		room, err := put.room(int(c.Size))
		if err != nil {
			return n, err
		}
		data := room[:c.Size]
		if _, err := io.ReadFull(dec, data); err != nil {
			return n, l.spanError(err)
		}
		pos = c.Member + c.Size
		if l.learner != nil {
			put.add(it, chunkstore.Hash(data))
		} else if err := put.verify(it, data); err != nil {
			return n, fserr.New(fserr.Corrupt, "verify", l.name, err)
		}
		if err := put.ctx.Err(); err != nil {
			return n + 1, err
		}
	}
	return len(items), nil
}

// spanError gives a kind to what went wrong between the source and the decoder.
func (l *Layer) spanError(err error) error {
	if fserr.KindOf(err) == fserr.Internal {
		return fserr.New(fserr.Unavailable, "fetch", l.name, noEOF(err))
	}
	return err
}

// refetchSpan asks for one chunk's range again, and other hosts than the one that
// served it wrong where the source has several.
func (r *run) refetchSpan(ctx context.Context, s *Scheduler, it item) error {
	lo, hi := r.layer.extent(&it.chunk)
	if hi-lo > maxMember {
		return fserr.Newf(fserr.TooLarge, "fetch", r.layer.name, "a span of %d bytes, more than %d", hi-lo, maxMember)
	}
	s.asked(r)
	put := landing{ctx: ctx, r: r, s: s}
	defer put.end()
	member, err := s.memoryFor(r.prio).pack(ctx, int(hi-lo))
	if err != nil {
		return err
	}
	defer member.release()
	return source.ReadVerified(ctx, r.layer.blob, lo, member.p, func(p []byte) error {
		s.brought(r, int64(len(p)))
		_, err := r.layer.decode(bytes.NewReader(p), lo, []item{it}, &put)
		return err
	})
}

// progress counts what a run has read of its request.
type progress struct {
	body io.Reader
	r    *run
	s    *Scheduler
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.body.Read(b)
	p.s.advance(p.r, p.s.position(p.r)+int64(n))
	return n, err
}

// restart says that the run's next byte comes from pos.
func (s *Scheduler) restart(r *run, pos int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.pos = pos
}

// Plain is the Spans of a layer that is not compressed at all.
type Plain struct{}

// Extent implements [Spans].
func (Plain) Extent(off, n int64) (lo, hi int64) { return off, off + n }

// First implements [Spans].
func (Plain) First(off int64) int64 { return off }

// Start implements [Spans].
func (Plain) Start(body io.Reader, lo int64) (SpanReader, int64, error) {
	return plainReader{body}, lo, nil
}

type plainReader struct{ io.Reader }

func (plainReader) Close() error { return nil }

func (p plainReader) Discard(n int64) error {
	if n == 0 {
		return nil
	}
	_, err := io.CopyN(io.Discard, p.Reader, n)
	return err
}
