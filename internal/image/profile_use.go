package image

import (
	"context"
	"maps"
	"sort"
	"sync"
	"time"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/profile"
	digest "github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

// asked is what a profile had fetched for one attach of an image.
type asked struct {
	c       *Catalog
	profile *profile.Profile
	before  *previous                       // nil: the profile is of the image itself
	cost    map[estargz.Digest]profile.Cost // by layer

	mu    sync.Mutex
	begun map[int]bool           // layers, by number
	spans map[int][]profile.Span // chunks by number of the layer, ascending
	bytes int64
}

// applyProfile prepares to fetch what the profile of an image names. It is nil
// when there is none, or none is to be used.
func (c *Catalog) applyProfile(ctx context.Context, rec *imageRecord) *asked {
	if !c.profiles.Use || rec == nil {
		return nil
	}
	manifest, err := estargz.ParseDigest(rec.Manifest)
	if err != nil {
		return nil
	}
	p, err := c.loadProfile(ctx, manifest)
	if fserr.Is(err, fserr.NotExist) && c.profiles.Referrers {
		p, err = c.findProfile(ctx, rec)
	}
	var before *previous
	if fserr.Is(err, fserr.NotExist) {
		if before, err = c.previousProfile(ctx, rec); err == nil {
			p = before.profile
		}
	}
	if err != nil {
		if !fserr.Is(err, fserr.NotExist) {
			c.log.Warn("access profile not used", zap.String("image", rec.Ref), zap.Error(err))
		}
		return nil
	}
	a := &asked{c: c, profile: p, before: before, cost: map[estargz.Digest]profile.Cost{}, begun: map[int]bool{}, spans: map[int][]profile.Span{}}
	a.share()
	return a
}

// pull is the beginning of an image's use, when its layers are added before it is
// attached.
type pull struct {
	at       time.Time
	profiled func() *asked
}

const (
	// pullLasts is how long after its layers were added an attach belongs to the
	// pull. Later, what was fetched then may be gone again.
	pullLasts = time.Minute
	// maxPulls bounds the pulls that are remembered.
	maxPulls = 16
)

// pulled has the profile of an image applied whose layers are being added: who
// pulls an image lazily is about to use it. All layers share one application.
func (c *Catalog) pulled(rec *imageRecord) func() *asked {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.pulls[rec.Manifest]
	if ok && time.Since(p.at) < pullLasts {
		return p.profiled
	}
	maps.DeleteFunc(c.pulls, func(_ string, p pull) bool { return time.Since(p.at) >= pullLasts })
	p = pull{at: time.Now(), profiled: sync.OnceValue(func() *asked { return c.applyProfile(c.ctx, rec) })}
	if len(c.pulls) < maxPulls {
		c.pulls[rec.Manifest] = p
	}
	return p.profiled
}

// attached has the profile of an image applied that is being attached, unless that
// began when it was pulled.
func (c *Catalog) attached(ctx context.Context, rec *imageRecord) func() *asked {
	if rec != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if p, ok := c.pulls[rec.Manifest]; ok {
			delete(c.pulls, rec.Manifest)
			if time.Since(p.at) < pullLasts {
				return p.profiled
			}
		}
	}
	return sync.OnceValue(func() *asked { return c.applyProfile(ctx, rec) })
}

const (
	// maxProfileRequests is how many requests a profile should make at most.
	maxProfileRequests = 12
	// maxProfileFetch bounds what it has fetched of one layer, bytes, in case that
	// what was recorded was no start: a copy of the whole image, say.
	maxProfileFetch = 256 << 20
	// newLayerRequests is how many requests it should make for a layer that it does not
	// know.
	newLayerRequests = 4
	// maxRangesOf is how many ranges should come with one request at most, rangeGap
	// how many bytes between two are worth fetching to save one of them.
	maxRangesOf, rangeGap = 16, 16 << 10
	// profileRoundTrip is how many bytes are worth fetching to save a range when there
	// are too many, and a request while nobody knows what one costs.
	profileRoundTrip = 1 << 20
)

// share divides the requests among the layers, by what is read of each: every
// layer has at least one.
func (a *asked) share() {
	sizes := map[estargz.Digest]int64{}
	var all int64
	for i := range a.profile.Entries {
		if e := &a.profile.Entries[i]; a.profile.Usual(e) {
			sizes[a.profile.Layers[e.Layer].Digest] += e.Size
			all += e.Size
		}
	}
	spare := int64(max(0, maxProfileRequests-len(sizes)))
	for d, size := range sizes {
		a.cost[d] = profile.Cost{Requests: 1 + int(spare*size/max(1, all)), Bytes: maxProfileFetch}
	}
}

// begin reports whether a layer has its turn now.
func (a *asked) begin(n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	first := !a.begun[n]
	a.begun[n] = true
	return first
}

// layer queues what the profile names of one layer, once. It is called as soon as
// the layer's index is there, whatever the other layers wait for.
func (a *asked) layer(n int, l *Layer) {
	if a == nil || !l.bytes.Ranged() || !a.begin(n) {
		return
	}
	views := []profile.View{l.view()}
	cost, requests := a.costOf(l)
	plan := profile.Plan(a.wants(l, views), views, cost)
	if len(plan.Requests) == 0 {
		return
	}
	spans := []profile.Span{}
	made := 0
	for _, group := range grouped(plan.Requests, requests) {
		var parts [][]uint32
		for _, r := range group {
			parts = append(parts, numbersOf(r.Spans))
			spans = append(spans, r.Spans...)
		}
		made += l.bytes.PrefetchChunks(parts...)
	}
	sort.Slice(spans, func(i, j int) bool { return spans[i].First < spans[j].First })
	st := &a.c.profileStats
	st.requests.Add(int64(made))
	st.bytes.Add(plan.Bytes)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.spans) == 0 {
		st.applied.Add(1)
		if a.before != nil {
			st.inherited.Add(1)
		}
	}
	a.spans[n] = spans
	a.bytes += plan.Bytes
}

// costOf says what ranges of a layer cost. Where several can come with one request,
// the ranges are what is few. Elsewhere each is a request, and what these cost was
// learned.
func (a *asked) costOf(l *Layer) (cost profile.Cost, requests int) {
	cost, ok := a.cost[l.id.blob]
	if !ok { // of another version of the image
		cost = profile.Cost{Requests: newLayerRequests, Bytes: maxProfileFetch}
	}
	requests = cost.Requests
	if l.bytes.TakesRanges() {
		cost.Requests *= maxRangesOf
		cost.Gap, cost.RoundTrip = rangeGap, profileRoundTrip
		return cost, requests
	}
	if cost.RoundTrip, cost.Gap = l.bytes.Cost(); cost.RoundTrip == 0 {
		cost.RoundTrip = profileRoundTrip
	}
	return cost, requests
}

// wants gives what the profile names of a layer, in order.
func (a *asked) wants(l *Layer, views []profile.View) []profile.Want {
	if a.before != nil && !a.before.profile.Has(l.id.blob) {
		return a.before.wants(l)
	}
	return a.profile.Of(l.id.blob).Resolve(views)
}

// grouped puts ranges together, in their order, where there are more of them than
// there should be requests: those of a group may come with one.
func grouped(ranges []profile.Request, groups int) [][]profile.Request {
	var out [][]profile.Request
	for i := 0; i < len(ranges); {
		left := max(1, groups-len(out))
		n := (len(ranges) - i + left - 1) / left
		out = append(out, ranges[i:i+n])
		i += n
	}
	return out
}

func numbersOf(spans []profile.Span) []uint32 {
	var numbers []uint32
	for _, s := range spans {
		for i := s.First; i < s.End; i++ {
			numbers = append(numbers, i)
		}
	}
	return numbers
}

// has reports whether a chunk was asked for.
func (a *asked) has(layer int, chunk uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	spans := a.spans[layer]
	i := sort.Search(len(spans), func(i int) bool { return spans[i].End > chunk })
	return i < len(spans) && spans[i].First <= chunk
}

// sum is how many bytes of the blobs were asked for.
func (a *asked) sum() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bytes
}

// unread is how many of the bytes asked for were of no use: those of requests but
// for what the chunks that were read needed.
func (a *asked) unread(views []profile.View, rec *profile.Recorder) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	left := a.bytes
	for n, spans := range a.spans {
		var end int64 // of what was counted of the layer
		for _, s := range spans {
			for i := s.First; i < s.End && n < len(views); i++ {
				c, ok := views[n].Chunks.Chunk(i)
				if !ok || !rec.Touched(n, i) {
					continue
				}
				lo, hi := views[n].Extent(&c)
				if lo = max(lo, end); hi > lo {
					left -= hi - lo
					end = hi
				}
			}
		}
	}
	return max(0, left)
}

// imageOfChain finds the image whose layers, all of them, make up a chain: the
// one with a profile, if there are several.
func (c *Catalog) imageOfChain(ctx context.Context, wants []want) *imageRecord {
	if !c.profiles.Record && !c.profiles.Use {
		return nil
	}
	var found *imageRecord
	err := c.eachImage(ctx, func(rec *imageRecord) {
		if !rec.consistsOf(wants) {
			return
		}
		if found == nil || !c.hasProfile(ctx, found.Manifest) && c.hasProfile(ctx, rec.Manifest) {
			found = rec
		}
	})
	if err != nil {
		c.log.Warn("looking for the image of a chain", zap.Error(err))
	}
	return found
}

func (r *imageRecord) consistsOf(wants []want) bool {
	if len(r.Layers) != len(wants) {
		return false
	}
	for i := range wants {
		if r.Layers[i].Digest != digest.Digest(wants[i].digest.String()) {
			return false
		}
	}
	return true
}

// manifestDigest is the manifest of an image that may be unknown.
func (r *imageRecord) manifestDigest() estargz.Digest {
	if r == nil {
		return estargz.Digest{}
	}
	d, err := estargz.ParseDigest(r.Manifest)
	if err != nil {
		return estargz.Digest{}
	}
	return d
}
