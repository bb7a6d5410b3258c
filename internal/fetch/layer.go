package fetch

import (
	"context"
	"sync/atomic"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"go.uber.org/zap"
)

// Streamer reads a layer that has no members to seek to: a plain tar, possibly
// compressed. It calls fn with every chunk of the layer, in order; payload is
// only valid during the call.
type Streamer interface {
	StreamChunks(ctx context.Context, fn func(number uint32, payload []byte) error) error
}

// Layer is the chunks of one blob: those in the store and those to be fetched.
type Layer struct {
	s        *Scheduler
	name     string
	blob     source.Blob
	spans    Spans    // nil: chunks lie in members
	learner  Learner  // nil: the digests of all chunks are known
	streamer Streamer // nil: the blob can be read in ranges
	chunks   ChunkMap

	places  places
	traffic traffic
	worth   atomic.Int64 // bytes that take as long as one more request; 0: not known
	streams readAhead

	passing *run // reads the whole layer now; guarded by Scheduler.mu
}

// NewLayer binds a layer's chunk list to its source. name says in errors which
// image and blob this is.
func (s *Scheduler) NewLayer(name string, blob source.Blob, chunks ChunkMap) *Layer {
	l := &Layer{s: s, name: name, blob: blob, chunks: chunks, places: newPlaces(chunks.NumChunks())}
	l.learn()
	return l
}

// NewStreamLayer is NewLayer for a layer that can only be read from its start.
func (s *Scheduler) NewStreamLayer(name string, streamer Streamer, chunks ChunkMap) *Layer {
	l := s.NewLayer(name, nil, chunks)
	l.streamer = streamer
	return l
}

// NewSpanLayer is NewLayer for a layer whose chunks have no members, and are
// reached through spans.
func (s *Scheduler) NewSpanLayer(name string, blob source.Blob, spans Spans, chunks ChunkMap) *Layer {
	l := s.NewLayer(name, blob, chunks)
	l.spans = spans
	return l
}

// Learner is told the digests of chunks that had none in advance, by number, when
// they were decoded. Its ChunkMap gives a name in the place of a digest that is
// not known yet, which no other chunk has.
type Learner interface {
	ChunkMap
	Learn(i uint32, d estargz.Digest)
}

// NewLearnedLayer is NewSpanLayer for a layer whose chunks have no digests in
// advance: spans vouches for what it decodes, and chunks is told the digests.
func (s *Scheduler) NewLearnedLayer(name string, blob source.Blob, spans Spans, chunks Learner) *Layer {
	l := s.NewSpanLayer(name, blob, spans, chunks)
	l.learner = chunks
	return l
}

// Local counts the chunks that are known to be in the store, or need not be, and
// all chunks.
func (l *Layer) Local() (local, total int) {
	for i := range l.places.n {
		if l.present(uint32(i)) || l.isHole(uint32(i)) {
			local++
		}
	}
	return local, l.places.n
}

// TryRead copies part of chunk i, from off on, if the store has it. It does not
// allocate and never waits for a source.
func (l *Layer) TryRead(i uint32, p []byte, off int64) (int, bool) {
	c, ok := l.chunks.Chunk(i)
	if !ok {
		return 0, false
	}
	if c.Hole {
		n := min(int64(len(p)), max(0, c.Size-off))
		clear(p[:n])
		l.advance(i, false)
		return int(n), true
	}
	// A cached place may have been evicted and the chunk stored again elsewhere,
	// so a place that fails is looked up anew once.
	for range 2 {
		loc := l.places.get(i)
		cached := loc != 0
		if !cached {
			if loc, ok = l.s.store.Locate(chunkstore.Digest(c.Digest)); !ok {
				l.places.forget(i, 0)
				return 0, false
			}
			l.places.set(i, loc)
		}
		n, err := l.s.store.ReadAt(loc, chunkstore.Digest(c.Digest), p, off)
		if err == nil {
			l.s.stats.hits.Add(1)
			l.advance(i, false)
			return n, true
		}
		l.places.forget(i, loc)
		if !cached {
			return 0, false
		}
	}
	return 0, false
}

// Read copies part of chunk i, from off on, fetching it if need be. Errors carry
// an fserr kind and name the layer.
func (l *Layer) Read(ctx context.Context, i uint32, p []byte, off int64) (int, error) {
	for try := 0; ctx.Err() == nil; try++ {
		if n, ok := l.TryRead(i, p, off); ok {
			return n, nil
		}
		c, ok := l.chunks.Chunk(i)
		if !ok {
			return 0, fserr.Newf(fserr.Internal, "read", l.name, "no chunk %d", i)
		}
		l.probe(i, l.minRun())
		l.s.mu.Lock()
		f, err := l.s.joinLocked(l, i, c, try > 1)
		exact := f != nil && f.run.exact
		l.s.mu.Unlock()
		if err != nil {
			return 0, err
		}
		if f == nil { // it has come since TryRead
			continue
		}
		l.s.stats.misses.Add(1)
		if !exact { // else what comes next is on its way, too
			l.advance(i, true)
		}
		return l.s.wait(ctx, l, f, p, off)
	}
	return 0, fserr.New(fserr.KindOf(ctx.Err()), "fetch", l.name, ctx.Err())
}

// present reports whether chunk i is known to be local, without a lookup.
func (l *Layer) present(i uint32) bool { return l.places.has(i) }

// isHole reports whether chunk i is one that nobody has to fetch.
func (l *Layer) isHole(i uint32) bool {
	c, ok := l.chunks.Chunk(i)
	return ok && c.Hole
}

// probe looks up which of the chunks from i on, over limit bytes of the blob,
// are local already, so that planning does not ask for them.
func (l *Layer) probe(i uint32, limit int64) {
	first, ok := l.chunks.Chunk(i)
	if !ok || l.streamer != nil {
		return
	}
	start, _ := l.extent(&first)
	for i = min(i, l.chunks.ChunksFrom(l.begin(&first))); ; i++ {
		c, ok := l.chunks.Chunk(i)
		if !ok {
			return
		}
		if lo, _ := l.extent(&c); lo > start+limit {
			return
		}
		if !c.Hole {
			l.find(i, c.Digest)
		}
	}
}

// find reports whether the store has chunk i, and remembers where.
func (l *Layer) find(i uint32, d estargz.Digest) bool {
	if l.present(i) {
		return true
	}
	loc, ok := l.s.store.Locate(chunkstore.Digest(d))
	if ok {
		l.places.set(i, loc)
	}
	return ok
}

// store puts a chunk away. A store that cannot take it costs a fetch later, never an
// error to the reader, who has the bytes.
func (l *Layer) store(s *Scheduler, number uint32, v chunkstore.Verified) {
	// What was served is kept, even if everything stops just now.
	loc, err := s.store.PutVerified(context.WithoutCancel(s.ctx), v)
	if err != nil {
		s.stats.notStored.Add(1)
		s.opts.Logger.Debug("chunk not cached", zap.String("layer", l.name), zap.Error(err))
		return
	}
	if l.learner != nil {
		l.learner.Learn(number, estargz.Digest(v.Digest()))
	}
	l.places.set(number, loc)
}
