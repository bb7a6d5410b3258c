package fetch

import (
	"sync/atomic"

	"github.com/nineply/nineply/chunkstore"
)

// placePage is how many chunks' places are kept together. A page is made when the
// first of them becomes known: an image of a hundred thousand files, a hundred of
// which are read, is the rule.
const placePage = 64

// places is which chunks of a layer are in the store, by number, and where, as far as
// that is known. All methods may be called at once.
type places struct {
	n     int
	known []atomic.Uint64 // a bit for each chunk
	pages []atomic.Pointer[[placePage]atomic.Uint64]
}

func newPlaces(n int) places {
	pages := (n + placePage - 1) / placePage
	return places{n: n, known: make([]atomic.Uint64, pages), pages: make([]atomic.Pointer[[placePage]atomic.Uint64], pages)}
}

// has reports whether chunk i is known to be in the store.
func (p *places) has(i uint32) bool {
	return p.known[i/placePage].Load()>>(i%placePage)&1 != 0
}

// get gives the place of chunk i; 0 if the store has to be asked.
func (p *places) get(i uint32) chunkstore.Loc {
	page := p.pages[i/placePage].Load()
	if page == nil {
		return 0
	}
	return chunkstore.Loc(page[i%placePage].Load())
}

// set notes that chunk i is in the store, and where.
func (p *places) set(i uint32, loc chunkstore.Loc) {
	at := &p.pages[i/placePage]
	page := at.Load()
	if page == nil {
		if page = new([placePage]atomic.Uint64); !at.CompareAndSwap(nil, page) {
			if page = at.Load(); page == nil {
				return // dropped just now: nothing is known
			}
		}
	}
	page[i%placePage].Store(uint64(loc))
	p.known[i/placePage].Or(1 << (i % placePage))
}

// forget notes that chunk i may not be in the store any more, or not at loc, unless
// another place has become known since; 0 stands for any.
func (p *places) forget(i uint32, loc chunkstore.Loc) {
	if page := p.pages[i/placePage].Load(); page != nil {
		if at := &page[i%placePage]; loc == 0 {
			at.Store(0)
		} else if !at.CompareAndSwap(uint64(loc), 0) {
			return
		}
	}
	p.known[i/placePage].And(^uint64(1 << (i % placePage)))
}

// rest drops what can be asked for again: where the chunks are.
func (p *places) rest() {
	for k := range p.pages {
		if p.pages[k].Load() != nil {
			p.pages[k].Store(nil)
		}
	}
}

// Rest drops what the layer knows of its chunks only to be faster.
func (l *Layer) Rest() { l.places.rest() }
