package profile

import (
	"cmp"
	"slices"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// maxPartial is how many runs in a row may be partial before one counts.
const maxPartial = 2

// Run is what one cold start read, in order.
type Run struct {
	Manifest estargz.Digest
	Layers   []Layer
	Reads    []Read
}

// Read is the first read of a chunk in a run.
type Read struct {
	Layer int // number in Run.Layers
	Place
	Short Short
	At    uint32 // milliseconds after the first read
}

// NewRun describes touches of the chunks of a tree's layers. Holes, and chunks
// that the views do not have, are left out.
func NewRun(manifest estargz.Digest, views []View, touches []Touch) *Run {
	r := &Run{Manifest: manifest}
	for _, v := range views {
		r.Layers = append(r.Layers, v.Layer)
	}
	for _, t := range touches {
		if t.Layer < 0 || t.Layer >= len(views) {
			continue
		}
		c, ok := views[t.Layer].Chunks.Chunk(t.Chunk)
		if !ok || c.Hole || c.Size <= 0 {
			continue
		}
		r.Reads = append(r.Reads, Read{
			Layer: t.Layer, Place: views[t.Layer].place(&c), Short: ShortOf(c.Digest), At: uint32(min(t.At.Milliseconds(), maxMillis)),
		})
	}
	return r
}

// maxMillis bounds the time of a read, milliseconds: one day.
const maxMillis = 24 * 60 * 60 * 1000

// Merge adds a run to a profile, which may be nil, and gives the new profile:
// ordered by the middle of each chunk's places in the runs remembered, without
// those that the last runs did not read.
//
// A run that read less than half of what the profile has is partial: it adds and
// confirms, and says nothing of what it did not read, because the reader may have
// had that in a cache of its own. After two such runs in a row the next one counts.
func Merge(p *Profile, run *Run) (*Profile, error) {
	if len(run.Reads) == 0 {
		return nil, fserr.Newf(fserr.Invalid, "merge", "profile", "the run read nothing")
	}
	if p == nil {
		p = &Profile{Manifest: run.Manifest}
	}
	if p.Manifest != run.Manifest {
		return nil, fserr.Newf(fserr.Invalid, "merge", "profile", "it is of image %s, the run of %s", p.Manifest, run.Manifest)
	}
	m := merger{
		old: p, next: &Profile{Manifest: p.Manifest, Runs: p.Runs, Layers: slices.Clone(p.Layers), Entries: slices.Clone(p.Entries)},
		index: make(map[place]int, len(p.Entries)),
	}
	for i := range m.next.Entries {
		m.index[m.next.Entries[i].place()] = i
	}
	m.merge(run)
	m.next.drop()
	m.next.sort()
	return m.next, m.next.check()
}

type merger struct {
	old, next *Profile
	index     map[place]int
}

func (m *merger) merge(run *Run) {
	reads := m.locate(run)
	known := 0
	for _, r := range reads {
		if _, ok := m.index[r.place()]; ok {
			known++
		}
	}
	usual := 0
	for i := range m.old.Entries {
		if m.old.Usual(&m.old.Entries[i]) {
			usual++
		}
	}
	if 2*known < usual && m.old.Partial < maxPartial {
		m.next.Partial = m.old.Partial + 1
	} else {
		m.next.Runs++
		for i := range m.next.Entries {
			m.next.Entries[i].shift()
		}
	}
	for rank, r := range reads {
		i, ok := m.index[r.place()]
		if !ok {
			i = len(m.next.Entries)
			m.index[r.place()] = i
			m.next.Entries = append(m.next.Entries, r)
		}
		e := &m.next.Entries[i]
		if e.Seen&1 == 0 {
			e.Ranks[0] = uint32(rank)
		}
		e.Seen |= 1
		e.At, e.Short, e.Size = r.At, r.Short, r.Size
	}
}

// locate gives a run's reads as entries without history, each chunk once, and
// adds its layers to the profile.
func (m *merger) locate(run *Run) []Entry {
	numbers := make([]int, len(run.Layers))
	for i, l := range run.Layers {
		if numbers[i] = slices.Index(m.next.Layers, l); numbers[i] < 0 {
			numbers[i] = len(m.next.Layers)
			m.next.Layers = append(m.next.Layers, l)
		}
	}
	entries := make([]Entry, 0, len(run.Reads))
	seen := make(map[place]bool, len(run.Reads))
	for _, r := range run.Reads {
		if r.Layer < 0 || r.Layer >= len(numbers) || len(entries) == MaxEntries {
			continue
		}
		e := Entry{Layer: numbers[r.Layer], Place: r.Place, Short: r.Short, At: r.At}
		if !seen[e.place()] {
			seen[e.place()] = true
			entries = append(entries, e)
		}
	}
	return entries
}

// shift makes room for one more run.
func (e *Entry) shift() {
	e.Seen = e.Seen << 1 & (1<<Window - 1)
	copy(e.Ranks[1:], e.Ranks[:])
	e.Ranks[0] = 0
}

// drop removes the entries that the last runs did not read, and the layers that
// no entry is of any more.
func (p *Profile) drop() {
	p.Entries = slices.DeleteFunc(p.Entries, func(e Entry) bool { return e.Seen&(1<<Forget-1) == 0 })
	used := make([]int, len(p.Layers))
	for _, e := range p.Entries {
		used[e.Layer]++
	}
	numbers := make([]int, len(p.Layers))
	kept := p.Layers[:0]
	for i, l := range p.Layers {
		numbers[i] = len(kept)
		if used[i] > 0 {
			kept = append(kept, l)
		}
	}
	p.Layers = kept
	for i := range p.Entries {
		p.Entries[i].Layer = numbers[p.Entries[i].Layer]
	}
}

// sort orders entries by their median rank and drops those behind the limit.
func (p *Profile) sort() {
	slices.SortStableFunc(p.Entries, func(a, b Entry) int { return cmp.Compare(a.median(), b.median()) })
	if len(p.Entries) > MaxEntries {
		p.Entries = p.Entries[:MaxEntries]
	}
}
