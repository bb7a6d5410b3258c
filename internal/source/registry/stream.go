package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// Stream implements [source.Blob]. The first request is made by the first Read.
func (b *blob) Stream(ctx context.Context, off int64) (io.ReadCloser, error) {
	return b.OpenRange(ctx, off, b.size-off)
}

// OpenRange implements [source.Blob]. The first request is made by the first
// Read.
func (b *blob) OpenRange(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if err := source.CheckRange(b.object(), b.size, off, n); err != nil {
		return nil, err
	}
	return &stream{ctx: ctx, blob: b, pos: off, end: off + n, pause: b.registry.newBackoff()}, nil
}

// stream reads a part of a blob over as many requests as it takes.
type stream struct {
	ctx   context.Context
	blob  *blob
	pos   int64
	end   int64
	body  io.ReadCloser
	exact bool  // the body ends with what was asked for
	since int64 // bytes of this body
	poor  int
	pause *backoff.ExponentialBackOff
	err   error
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 || s.err != nil {
		return 0, s.err
	}
	for {
		if s.pos == s.end {
			return 0, s.finish()
		}
		if s.body == nil {
			if s.err = s.open(); s.err != nil {
				return 0, s.err
			}
		}
		n, err := s.body.Read(p[:min(int64(len(p)), s.end-s.pos)])
		s.pos += int64(n)
		s.since += int64(n)
		if err != nil && s.pos < s.end {
			s.err = s.broken(err)
		}
		if n > 0 {
			return n, nil
		}
		if s.err != nil {
			return 0, s.err
		}
	}
}

// finish makes sure that nothing follows the last byte.
func (s *stream) finish() error {
	s.err = io.EOF
	if s.body != nil && s.exact && trailing(s.body) {
		s.err = fserr.Newf(fserr.Corrupt, "read", s.blob.object(), "more bytes than were asked for, up to %d", s.end)
	}
	s.drop()
	return s.err
}

func (s *stream) drop() {
	if s.body != nil {
		_ = s.body.Close() // its bytes are used already
		s.body = nil
	}
}

// stallsCount is for how many breaks without progress a stall stands: it takes longer.
const stallsCount = maxPoor / 2

// broken decides whether to go on after a body that ended early.
func (s *stream) broken(err error) error {
	s.drop()
	f := asFailure(bodyFailure(err))
	if s.since >= goodProgress || f.behind {
		s.poor = 0
		s.pause.Reset()
		return nil
	}
	if s.poor++; errors.Is(f, errStalled) {
		s.poor += stallsCount - 1
	}
	if !f.retry || s.poor > maxPoor {
		return fserr.New(f.kind, "read", fmt.Sprintf("%s at %d", s.blob.object(), s.pos), f)
	}
	if err := s.blob.registry.opts.Sleep(s.ctx, s.pause.NextBackOff()); err != nil {
		return fserr.New(fserr.KindOf(err), "read", fmt.Sprintf("%s at %d", s.blob.object(), s.pos), fmt.Errorf("%w, after: %w", err, f))
	}
	return nil
}

// open asks the hosts for the rest of the blob.
func (s *stream) open() error {
	eps, err := s.blob.endpoints()
	if err != nil {
		return err
	}
	s.since = 0
	return s.blob.registry.run(s.ctx, task{
		op: "read", object: fmt.Sprintf("%s from %d", s.blob.object(), s.pos),
		endpoints: eps, rank: s.blob.badness, try: s.openAt,
	})
}

func (s *stream) openAt(ctx context.Context, e *endpoint) error {
	if s.tooFar() && e.noRanges(time.Now()) {
		return errNoRanges(e.registry.opts.ReadThrough)
	}
	resp, err := s.blob.ask(ctx, e, s.header())
	if err != nil {
		return err
	}
	part, err := checkAnswer(resp.Response, s.pos, s.end-s.pos, s.blob.size)
	if err == nil && part.whole && s.header() != "" {
		e.setNoRanges()
		if s.tooFar() {
			err = errNoRanges(e.registry.opts.ReadThrough)
		}
	}
	if err == nil {
		if _, err = io.CopyN(io.Discard, resp.Body, part.skip); err != nil {
			err = bodyFailure(err)
		}
	}
	if err != nil {
		_ = resp.Body.Close() // the error that counts is known
		return err
	}
	s.body, s.exact = resp.Body, !part.whole || s.end == s.blob.size
	return nil
}

// header is the Range to ask for; empty for all of the blob.
func (s *stream) header() string {
	switch {
	case s.end < s.blob.size:
		return fmt.Sprintf("bytes=%d-%d", s.pos, s.end-1)
	case s.pos > 0:
		return fmt.Sprintf("bytes=%d-", s.pos)
	}
	return ""
}

// tooFar reports a part that is not worth reading through the blob for. The rest
// of a blob always is: whoever wants that reads most of it anyway.
func (s *stream) tooFar() bool {
	return s.pos > 0 && s.end < s.blob.size && s.end > s.blob.registry.opts.ReadThrough
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.drop()
	if s.err == nil || errors.Is(s.err, io.EOF) {
		s.err = fserr.New(fserr.Closed, "read", s.blob.object(), nil)
	}
	return nil
}
