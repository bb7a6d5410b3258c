package image

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/profile"
	"github.com/nineply/nineply/layerindex"
	"go.uber.org/zap"
)

// Profiles says what is done with access profiles.
type Profiles struct {
	Record    bool // note what is read first, and keep it
	Use       bool // fetch what the profile names when an image is attached
	Referrers bool // look for one beside an image that has none here
}

// ProfileStats counts what profiles did since the catalog was made.
type ProfileStats struct {
	Runs    int64 // recorded and kept
	Applied int64 // attaches that a profile made requests for
	// Inherited are those of Applied whose profile was that of another version.
	Inherited int64
	Requests  int64
	Bytes     int64 // that those requests ask for
	Unread    int64 // of those, what was not read until the start was over
	// Late counts reads of chunks that the profile had asked for, and that had not
	// come yet; Missed those of chunks that it had not asked for.
	Late, Missed int64
}

type profileCounters struct {
	runs, applied, inherited, requests, bytes, unread, late, missed atomic.Int64
}

// ProfileStats takes a snapshot.
func (c *Catalog) ProfileStats() ProfileStats {
	n := &c.profileStats
	return ProfileStats{
		Runs: n.runs.Load(), Applied: n.applied.Load(), Inherited: n.inherited.Load(), Requests: n.requests.Load(), Bytes: n.bytes.Load(),
		Unread: n.unread.Load(), Late: n.late.Load(), Missed: n.missed.Load(),
	}
}

// coldStart is what is known of one use of a tree, from its first attach until
// nothing new is read of it, or the last attach is gone.
type coldStart struct {
	c        *Catalog
	tree     *treeState
	manifest estargz.Digest
	rec      *profile.Recorder
	views    []profile.View // one for each layer of the tree
	asked    *asked         // by the profile; nil: there is none
	over     chan struct{}  // closed when the last attach is gone
	once     sync.Once      // of finish
}

// beginStart starts to record the reads of a tree that had no users. The caller
// is one, and the tree's lock is not held.
func (c *Catalog) beginStart(t *treeState, manifest estargz.Digest, a *asked) {
	if manifest.IsZero() || !c.profiles.Record && a == nil {
		return
	}
	chunks := make([]int, len(t.layers))
	views := make([]profile.View, len(t.layers))
	for i, l := range t.layers {
		views[i] = l.view()
		chunks[i] = views[i].Chunks.NumChunks()
	}
	s := &coldStart{
		c: c, tree: t, manifest: manifest, rec: profile.NewRecorder(chunks, c.recording), views: views, asked: a, over: make(chan struct{}),
	}
	t.start.Store(s)
	c.goBackground(func(ctx context.Context) { c.watchStart(ctx, t, s) })
}

// watchStart ends a start when nothing new is read any more.
func (c *Catalog) watchStart(ctx context.Context, t *treeState, s *coldStart) {
	timer := time.NewTimer(s.rec.Left())
	defer timer.Stop()
	for {
		select {
		case <-s.over:
			return
		case <-ctx.Done():
			s.finish(ctx) // indexes stay open until this has returned
			return
		case <-timer.C:
		}
		left := s.rec.Left()
		if left > 0 {
			timer.Reset(left)
			continue
		}
		if c.useTree(t) { // else the last user's release sees to it
			t.start.CompareAndSwap(s, nil)
			s.finish(ctx)
			c.releaseTree(t)
		}
		return
	}
}

// useTree counts one more user of a tree that has some.
func (c *Catalog) useTree(t *treeState) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.users == 0 {
		return false
	}
	t.users++
	return true
}

// endStart ends a start whose last attach is gone, while the tree is still open.
// Keeping what was noted is left to the background.
func (c *Catalog) endStart(t *treeState) {
	s := t.start.Load()
	if s == nil || !t.start.CompareAndSwap(s, nil) {
		return
	}
	close(s.over)
	s.finish(c.ctx)
}

// finish takes what was noted and counts what was asked for in vain. The tree is
// open during the call.
func (s *coldStart) finish(ctx context.Context) {
	s.once.Do(func() {
		touches := s.rec.Stop()
		account := s.take()
		account.Over = true
		s.tree.started.Store(account)
		s.c.profileStats.unread.Add(account.Unread)
		if !s.c.profiles.Record || len(touches) == 0 {
			return
		}
		run := profile.NewRun(s.manifest, s.views, touches)
		keep := func(ctx context.Context) {
			// A few records, and the last chance for them when everything stops.
			if err := s.c.keepRun(context.WithoutCancel(ctx), run); err != nil {
				s.c.log.Warn("access profile not kept", zap.Stringer("image", s.manifest), zap.Error(err))
			}
		}
		if !s.c.goBackground(keep) {
			keep(ctx)
		}
	})
}

// view is a layer as profiles see it.
func (l *Layer) view() profile.View {
	v := profile.View{Layer: profile.Layer{Digest: l.id.blob, Space: profile.Unpacked}, Chunks: l.index, Local: l.bytes.Has}
	switch l.index.Info().Format {
	case layerindex.FormatEStargz, layerindex.FormatZstdChunked:
		v.Space = profile.Packed
	}
	if l.learned != nil {
		v.Chunks = l.learned
	}
	if l.bytes.Ranged() {
		v.Extent = l.bytes.Extent
	}
	return v
}

// noteRead notes a read of a chunk. It neither locks nor allocates but for the
// first read of each chunk.
func (t *treeState) noteRead(layer int, chunk uint32) {
	if s := t.start.Load(); s != nil {
		s.rec.Touch(layer, chunk)
	}
}

// noteMiss notes that a reader has to wait for a chunk.
func (t *treeState) noteMiss(layer int, chunk uint32) {
	s := t.start.Load()
	switch {
	case s == nil || s.asked == nil:
	case s.asked.has(layer, chunk):
		s.c.profileStats.late.Add(1)
		t.account.late.Add(1)
	default:
		s.c.profileStats.missed.Add(1)
		t.account.missed.Add(1)
	}
}
