package profile

import (
	"cmp"
	"slices"

	"github.com/nineply/nineply/estargz"
)

// Chunks lists a layer's chunks in blob order.
type Chunks interface {
	NumChunks() int
	// Chunk gives chunk number i; ok is false beyond the end.
	Chunk(i uint32) (c estargz.Chunk, ok bool)
	// ChunksFrom is the number of the first chunk whose Member is at least member.
	ChunksFrom(member int64) uint32
}

// View is one layer as a node sees it.
type View struct {
	Layer
	Chunks Chunks
	// Extent is the range of the blob that has to be read for a chunk. nil: that of
	// its member.
	Extent func(c *estargz.Chunk) (lo, hi int64)
	// Local reports whether a chunk need not be fetched. nil: none is local.
	Local func(i uint32) bool
}

func (v *View) extent(c *estargz.Chunk) (lo, hi int64) {
	if v.Extent != nil {
		return v.Extent(c)
	}
	return c.Member, c.Member + c.MemberSize
}

func (v *View) place(c *estargz.Chunk) Place {
	pl := Place{Member: c.Member, Size: c.Size}
	if v.Space == Packed {
		pl.Inner = c.Inner
	}
	return pl
}

// Want is a chunk that the profile asks for.
type Want struct {
	View  int // number of the view
	Chunk uint32
}

// maxSearch bounds the chunks that are searched for those of a blob that is not
// there, maxSteps those that are looked at for the others.
const (
	maxSearch = 4 << 20
	maxSteps  = 32 << 20
)

// Located is a chunk that an entry of a profile stands for.
type Located struct {
	Want
	Entry int // number of the entry
}

// Of is the part of a profile that tells of one blob.
func (p *Profile) Of(blob estargz.Digest) *Profile {
	part := *p
	part.Entries = nil
	for i := range p.Entries {
		if p.Layers[p.Entries[i].Layer].Digest == blob {
			part.Entries = append(part.Entries, p.Entries[i])
		}
	}
	return &part
}

// Has reports whether a profile tells of a blob.
func (p *Profile) Has(blob estargz.Digest) bool {
	return slices.ContainsFunc(p.Layers, func(l Layer) bool { return l.Digest == blob })
}

// Gone is the part of a profile that tells of other blobs than those given. Entries
// keep their numbers: those that are not of it are in no layer that a view has, and
// nothing is known of what they hold.
func (p *Profile) Gone(kept map[estargz.Digest]bool) *Profile {
	part := *p
	part.Layers = slices.Clone(p.Layers)
	part.Entries = slices.Clone(p.Entries)
	for i := range part.Entries {
		if e := &part.Entries[i]; kept[p.Layers[e.Layer].Digest] {
			e.Short, e.Seen = 0, 0
		}
	}
	for i := range part.Layers {
		if kept[part.Layers[i].Digest] {
			part.Layers[i] = Layer{}
		}
	}
	return &part
}

// Resolve finds the entries of a profile among the chunks of views, in order, each
// chunk once: by their places in the same blob, or, where the blob is another, by
// what they hold. Entries that few runs read are left out, and so are those that
// no view has.
func (p *Profile) Resolve(views []View) []Want {
	return p.ResolveElse(views, nil)
}

// ResolveElse is Resolve that asks other, if that is not nil, for what stands for an
// entry that no view has.
func (p *Profile) ResolveElse(views []View, other func(entry int) []Want) []Want {
	var wants []Want
	for _, l := range p.locate(views, false, other) {
		wants = append(wants, l.Want)
	}
	return wants
}

// Locate is Resolve for all entries, however few runs read them.
func (p *Profile) Locate(views []View) []Located { return p.locate(views, true, nil) }

func (p *Profile) locate(views []View, all bool, other func(entry int) []Want) []Located {
	r := resolver{views: views, taken: map[Want]bool{}}
	byLayer := make([]int, len(p.Layers))
	for i, l := range p.Layers {
		byLayer[i] = slices.IndexFunc(views, func(v View) bool { return v.Layer == l })
	}
	for i := range p.Entries {
		e := &p.Entries[i]
		r.entry = i
		switch {
		case !all && !p.Usual(e):
		case byLayer[e.Layer] >= 0:
			r.byPlace(byLayer[e.Layer], e.Place)
		case r.byDigest(e.Short) || other == nil:
		default:
			for _, w := range other(i) {
				r.take(w)
			}
		}
	}
	return r.found
}

type resolver struct {
	views  []View
	entry  int // being looked for
	found  []Located
	taken  map[Want]bool
	digest map[Short]Want // made when it is needed first
	steps  int            // chunks looked at
}

func (r *resolver) take(w Want) {
	if !r.taken[w] {
		r.taken[w] = true
		r.found = append(r.found, Located{Want: w, Entry: r.entry})
	}
}

// byPlace takes every chunk that lies at least in part at a place.
func (r *resolver) byPlace(view int, pl Place) {
	v := &r.views[view]
	i := v.Chunks.ChunksFrom(pl.Member)
	if v.Space == Unpacked {
		i = r.reaching(v, i, pl.Member)
	}
	for ; r.steps < maxSteps; i++ {
		r.steps++
		c, ok := v.Chunks.Chunk(i)
		if !ok {
			return
		}
		lo, from := c.Inner, pl.Inner
		if v.Space == Unpacked {
			lo, from = c.Member, pl.Member
		} else if c.Member != pl.Member {
			return
		}
		switch {
		case lo >= from+pl.Size:
			return
		case !c.Hole && lo+c.Size > from:
			r.take(Want{View: view, Chunk: i})
		}
	}
}

// reaching gives the number of the first chunk that may reach up to pos, looking
// back from chunk i: one of data, and the holes around it.
func (r *resolver) reaching(v *View, i uint32, pos int64) uint32 {
	for ; i > 0 && r.steps < maxSteps; i-- {
		r.steps++
		c, ok := v.Chunks.Chunk(i - 1)
		if ok && !c.Hole {
			if c.Member+c.Size > pos {
				i--
			}
			return i
		}
	}
	return i
}

// byDigest reports whether a view has what an entry held.
func (r *resolver) byDigest(s Short) bool {
	if s == 0 { // not known when it was read
		return false
	}
	if r.digest == nil {
		r.digest = map[Short]Want{}
		r.index()
	}
	w, ok := r.digest[s]
	if ok {
		r.take(w)
	}
	return ok
}

func (r *resolver) index() {
	left := maxSearch
	for n := range r.views {
		chunks := r.views[n].Chunks
		if left -= chunks.NumChunks(); left < 0 {
			return
		}
		for i := range uint32(chunks.NumChunks()) {
			if c, ok := chunks.Chunk(i); ok && !c.Hole {
				r.digest[ShortOf(c.Digest)] = Want{View: n, Chunk: i}
			}
		}
	}
}

// Cost says what requests cost. Zero values mean the defaults named.
type Cost struct {
	// Requests is how many there should be. There are more where fewer would bring
	// too many bytes that nobody asked for; 12.
	Requests int
	// Waste is how many of those bytes there may be, as a share of the bytes asked
	// for, in percent; 10. Negative: none.
	Waste int64
	// Gap is how many bytes are worth a request even when there are few, 64 KiB;
	// RoundTrip how many are worth one when there are too many, 1 MiB.
	Gap, RoundTrip int64
	// Bytes bounds the bytes asked for; 1 GiB.
	Bytes int64
}

func (c Cost) withDefaults() Cost {
	set := func(v *int64, def int64) {
		if *v == 0 {
			*v = def
		}
	}
	if c.Requests == 0 {
		c.Requests = 12
	}
	set(&c.Waste, 10)
	set(&c.Gap, 64<<10)
	set(&c.RoundTrip, 1<<20)
	set(&c.Bytes, 1<<30)
	return c
}

// Span is a range of chunk numbers.
type Span struct{ First, End uint32 }

// Request is one range of a blob that brings chunks asked for.
type Request struct {
	View   int
	Lo, Hi int64  // of the blob
	Spans  []Span // the chunks asked for, ascending
}

// Schedule is what a plan comes to.
type Schedule struct {
	Requests []Request // in the order of the first chunk that each is asked for
	Chunks   int       // asked for
	Wanted   int64     // bytes of the blobs that those chunks need
	Bytes    int64     // of all requests
}

// piece is a stretch of a blob all of which is asked for, or a request.
type piece struct {
	view   int
	lo, hi int64
	rank   int // of the first chunk of it that is asked for
	chunks []uint32
}

// Plan makes requests of the chunks wanted that are not local: few, large, in the
// order of the chunks, and without many bytes that nobody asked for.
func Plan(wants []Want, views []View, c Cost) Schedule {
	c = c.withDefaults()
	s := Schedule{}
	pieces := s.pieces(wants, views, c.Bytes)
	pieces = join(pieces, c, s.Wanted*max(0, c.Waste)/100)
	slices.SortFunc(pieces, func(a, b piece) int { return cmp.Compare(a.rank, b.rank) })
	for _, p := range pieces {
		s.Bytes += p.hi - p.lo
		s.Chunks += len(p.chunks)
		s.Requests = append(s.Requests, Request{View: p.view, Lo: p.lo, Hi: p.hi, Spans: spans(p.chunks)})
	}
	return s
}

// pieces gives what has to be read for the chunks wanted, in the order of views
// and blobs, no two of them touching each other, up to a limit in the order wanted.
func (s *Schedule) pieces(wants []Want, views []View, limit int64) []piece {
	var single []piece
	seen := map[Want]bool{}
	for rank, w := range wants {
		if w.View < 0 || w.View >= len(views) || seen[w] {
			continue
		}
		seen[w] = true
		v := &views[w.View]
		chunk, ok := v.Chunks.Chunk(w.Chunk)
		if !ok || chunk.Hole || v.Local != nil && v.Local(w.Chunk) {
			continue
		}
		if lo, hi := v.extent(&chunk); hi > lo {
			single = append(single, piece{view: w.View, lo: lo, hi: hi, rank: rank, chunks: []uint32{w.Chunk}})
		}
	}
	for {
		merged := unite(single)
		s.Wanted = 0
		for _, p := range merged {
			s.Wanted += p.hi - p.lo
		}
		if s.Wanted <= limit || len(single) == 0 {
			return merged
		}
		single = single[:len(single)*3/4]
	}
}

// unite joins what overlaps or touches.
func unite(single []piece) []piece {
	sorted := slices.Clone(single)
	slices.SortFunc(sorted, func(a, b piece) int {
		return cmp.Or(cmp.Compare(a.view, b.view), cmp.Compare(a.lo, b.lo), cmp.Compare(a.hi, b.hi))
	})
	var out []piece
	for _, p := range sorted {
		if n := len(out); n > 0 && out[n-1].view == p.view && p.lo <= out[n-1].hi {
			out[n-1].absorb(p)
			continue
		}
		p.chunks = slices.Clone(p.chunks)
		out = append(out, p)
	}
	return out
}

func (p *piece) absorb(o piece) {
	p.hi = max(p.hi, o.hi)
	p.rank = min(p.rank, o.rank)
	p.chunks = append(p.chunks, o.chunks...)
}

// join closes the smallest gaps between pieces: those worth a request, and more of
// them while there are too many requests, as long as budget bytes last.
func join(pieces []piece, c Cost, budget int64) []piece {
	var gaps []int // by the piece behind each
	for i := 1; i < len(pieces); i++ {
		if pieces[i].view == pieces[i-1].view {
			gaps = append(gaps, i)
		}
	}
	gap := func(i int) int64 { return pieces[i].lo - pieces[i-1].hi }
	slices.SortStableFunc(gaps, func(a, b int) int { return cmp.Compare(gap(a), gap(b)) })
	closed := make([]bool, len(pieces))
	requests := len(pieces)
	for _, i := range gaps {
		worth := c.Gap
		if requests > c.Requests {
			worth = c.RoundTrip
		}
		if budget -= gap(i); gap(i) > worth || budget < 0 {
			break
		}
		closed[i] = true
		requests--
	}
	var out []piece
	for i, p := range pieces {
		if closed[i] {
			out[len(out)-1].absorb(p)
		} else {
			out = append(out, p)
		}
	}
	return out
}

// spans gives chunk numbers as ranges.
func spans(chunks []uint32) []Span {
	slices.Sort(chunks)
	var out []Span
	for _, c := range chunks {
		if n := len(out); n > 0 && out[n-1].End == c {
			out[n-1].End++
		} else {
			out = append(out, Span{First: c, End: c + 1})
		}
	}
	return out
}
