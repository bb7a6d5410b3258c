package fetch

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// maxMember is the largest compressed member that is fetched at once, bytes. It
// bounds the memory that one layer's table of contents can ask for.
const maxMember = 256 << 20

// execute brings the run's chunks. Every flight of the run has landed, with data
// or an error, and the store has what it takes, when it returns.
func (r *run) execute(ctx context.Context, s *Scheduler) {
	var err error
	switch {
	case r.layer.streamer != nil:
		err = r.executeStream(ctx, s)
	case r.layer.spans != nil:
		err = r.executeSpans(ctx, s)
	case len(r.pieces) > 0:
		err = r.executePieces(ctx, s)
	default:
		err = r.executeRange(ctx, s)
	}
	r.layer.learn()
	defer r.storing.Wait()
	if err == nil {
		err = fserr.Newf(fserr.Internal, "fetch", r.layer.name, "the chunk was not in the bytes that arrived")
	}
	if ctx.Err() != nil && s.ctx.Err() != nil {
		err = fserr.New(fserr.Closed, "fetch", r.layer.name, err)
	}
	s.fail(r, nil, err)
}

// executeRange sends one request for [lo, hi) and decodes members as their bytes
// arrive.
func (r *run) executeRange(ctx context.Context, s *Scheduler) error {
	s.asked(r)
	body, err := r.layer.blob.OpenRange(ctx, r.lo, r.hi-r.lo)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // read side: all that matters was read and verified
	d := decoding{r: r, s: s, ctx: ctx}
	defer d.wait()
	for items := r.items; len(items) > 0; {
		n := sameMember(items)
		if err := r.receive(body, items[:n], n == len(items), &d); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// sameMember counts the leading items that share the first one's member.
func sameMember(items []item) int {
	n := 1
	for n < len(items) && items[n].chunk.Member == items[0].chunk.Member {
		n++
	}
	return n
}

// receive reads the bytes of one member from the running stream and has its chunks
// delivered: beside the next members' arrival, unless it is the last.
func (r *run) receive(body io.Reader, items []item, last bool, d *decoding) error {
	c := items[0].chunk
	if skip := c.Member - d.s.position(r); skip > 0 {
		if _, err := io.CopyN(io.Discard, body, skip); err != nil {
			return fserr.New(fserr.Unavailable, "fetch", r.layer.name, noEOF(err))
		}
	}
	if c.MemberSize > maxMember {
		return fserr.Newf(fserr.TooLarge, "fetch", r.layer.name, "a member of %d bytes, more than %d", c.MemberSize, maxMember)
	}
	member, err := d.s.memoryFor(r.prio).pack(d.ctx, int(c.MemberSize))
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(body, member.p); err != nil {
		member.release()
		return r.sourceError(err)
	}
	d.s.advance(r, c.Member+c.MemberSize)
	d.add(member, items, last)
	return d.ctx.Err()
}

func (r *run) sourceError(err error) error {
	var typed *fserr.Error
	if errors.As(err, &typed) {
		return err
	}
	return fserr.New(fserr.Unavailable, "fetch", r.layer.name, noEOF(err))
}

// noEOF keeps a short body from looking like the end of a file.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// executeStream reads the whole layer once: every chunk is offered to the store
// as it passes, and readers may still join for chunks that are to come.
func (r *run) executeStream(ctx context.Context, s *Scheduler) error {
	s.asked(r)
	s.setPassing(r, r)
	defer s.setPassing(r, nil)
	return r.layer.streamer.StreamChunks(ctx, func(number uint32, payload []byte) error {
		c, ok := r.layer.chunks.Chunk(number)
		if !ok {
			return fserr.Newf(fserr.Internal, "fetch", r.layer.name, "chunk %d is not in the index", number)
		}
		v, err := chunkstore.Verify(chunkstore.Digest(c.Digest), payload)
		if err != nil {
			s.stats.corrupt.Add(1)
			return fserr.Newf(fserr.Corrupt, "verify", r.layer.name, "chunk %d: bytes differ from those indexed", number)
		}
		if !r.layer.present(number) {
			r.layer.store(s, number, v)
		}
		// Only now may readers stop joining for it: they find it in the store.
		if f := s.passed(r, number, c.Digest); f != nil {
			s.land(f, bytes.Clone(payload), nil)
			s.retire(f)
		}
		return ctx.Err()
	})
}

func (s *Scheduler) setPassing(r, passing *run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.layer.passing = passing
}

// passed notes that chunk number has gone by, and finds the flight that waits
// for it, if any.
func (s *Scheduler) passed(r *run, number uint32, d estargz.Digest) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.number = number + 1
	return s.flights[d]
}

func (s *Scheduler) position(r *run) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.pos
}

func (s *Scheduler) advance(r *run, pos int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.brought(r, pos-r.pos)
	r.pos = pos
}
