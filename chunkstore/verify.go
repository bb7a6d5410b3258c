package chunkstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/fserr"
)

// Checked is what [Store.Verify] says of one chunk.
type Checked struct {
	Digest Digest
	Size   int64 // payload bytes
	Err    error // nil if the payload has its digest; else the chunk was dropped
}

// Verify reads every stored chunk, oldest first, and checks its sha256. Damaged
// ones are dropped and counted. fn, which may be nil, is told of each chunk; an
// error from it ends the walk and is returned. Chunks put or evicted meanwhile
// may be left out.
func (s *Store) Verify(ctx context.Context, fn func(Checked) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	for _, g := range s.segments() {
		if err := s.verifySegment(ctx, g, fn); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) verifySegment(ctx context.Context, g *segment, fn func(Checked) error) error {
	entries, err := s.entriesOf(g)
	if err != nil {
		s.log.Warn("segment unreadable", zap.String("path", g.path), zap.Error(err))
		return nil // its chunks are dropped as they are asked for
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		loc := e.loc(g.id)
		if cur, ok := s.lookup(e.digest); !ok || cur != loc {
			continue
		}
		c := Checked{Digest: e.digest, Size: int64(e.size), Err: s.verifyChunk(g, e)}
		if errors.Is(c.Err, errStale) {
			if cur, ok := s.lookup(e.digest); !ok || cur != loc {
				continue // evicted while it was being read
			}
			s.dropDamaged(e.digest, loc, c.Err)
			c.Err = chunkError(fserr.Corrupt, "verify", e.digest, c.Err)
		}
		if fn != nil {
			if err := fn(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// verifyChunk hashes one payload. Every kind of damage is errStale.
func (s *Store) verifyChunk(g *segment, e entry) error {
	buf := s.getScratch()
	defer s.putScratch(buf)
	p := buf.grow(min(int(e.size), maxScratch))
	sum := sha256.New()
	for off, tries := int64(0), 0; off < int64(e.size); {
		n, err := s.readFrom(g, e.loc(g.id), e.digest, p, off)
		switch {
		case errors.Is(err, fs.ErrClosed) && tries < 3:
			tries++ // the descriptor was given up in between
			continue
		case err != nil && isDamage(err):
			return fmt.Errorf("%w: %w", errStale, err)
		case err != nil:
			return err
		case n == 0:
			return errStale
		}
		sum.Write(p[:n])
		off += int64(n)
	}
	if Digest(sum.Sum(nil)) != e.digest {
		return errStale
	}
	return nil
}
