package profile

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
)

// The limits of a profile.
const (
	MaxSize    = 1 << 20 // of an encoded profile, bytes
	MaxEntries = 200_000 // chunks
	MaxLayers  = 512
	// Window is how many runs a profile remembers, each entry's place in them.
	Window = 5
	// Forget is after how many runs in a row a chunk that none of them read is
	// dropped.
	Forget = 3

	maxSpace = 1 << 50 // of an offset in a layer, bytes
)

// Space says what the positions of a layer's chunks count.
type Space uint8

// The spaces.
const (
	// Packed positions are those of compressed members in the blob, with an offset
	// in the decompressed member.
	Packed Space = iota + 1
	// Unpacked positions are offsets in the decompressed layer.
	Unpacked
)

// String names the space.
func (s Space) String() string {
	switch s {
	case Packed:
		return "packed"
	case Unpacked:
		return "unpacked"
	}
	return fmt.Sprintf("space %d", uint8(s))
}

// Layer is a layer that entries are chunks of. One blob may be there once in each
// space.
type Layer struct {
	Digest estargz.Digest // of the blob
	Space  Space
}

// Place is where a chunk is in its layer: the same for every index of the blob
// that has the same space.
type Place struct {
	Member int64 // of the compressed member in the blob, or of the chunk in the decompressed layer
	Inner  int64 // of the chunk in the decompressed member; 0 in unpacked space
	Size   int64 // bytes, decompressed
}

// Short is the beginning of a chunk's digest: enough to find the same chunk in a
// blob that was made anew.
type Short uint64

// ShortOf shortens a digest.
func ShortOf(d estargz.Digest) Short {
	var s Short
	for _, b := range d[:8] {
		s = s<<8 | Short(b)
	}
	return s
}

// Entry is one chunk that was read.
type Entry struct {
	Layer int // number in Profile.Layers
	Place
	Short Short
	At    uint32 // milliseconds after the first read, in the last run that read it
	// Seen has a bit for each of the last Window runs that read the chunk, bit 0 for
	// the last. Ranks are the chunk's places in the order of those runs, and 0 for
	// the others.
	Seen  uint8
	Ranks [Window]uint32
}

// Profile is what the cold starts of one image read. It is not changed once it is
// made.
type Profile struct {
	Manifest estargz.Digest // of the image
	Layers   []Layer
	Entries  []Entry // in the order to be fetched
	// Runs counts the runs that all entries were held against, Partial those since
	// then that read too little for that.
	Runs    uint32
	Partial uint32
}

// check reports the first thing that no profile made by this package has.
func (p *Profile) check() error {
	fail := func(format string, args ...any) error {
		return fserr.Newf(fserr.Corrupt, "profile", p.Manifest.String(), format, args...)
	}
	switch {
	case len(p.Layers) > MaxLayers:
		return fail("%d layers, more than %d", len(p.Layers), MaxLayers)
	case len(p.Entries) > MaxEntries:
		return fail("%d entries, more than %d", len(p.Entries), MaxEntries)
	case p.Runs == 0:
		return fail("no runs")
	case p.Partial > maxPartial:
		return fail("%d partial runs in a row", p.Partial)
	}
	layers := map[Layer]bool{}
	for _, l := range p.Layers {
		if l.Space != Packed && l.Space != Unpacked || layers[l] {
			return fail("layer %s in %v: unknown space, or twice", l.Digest, l.Space)
		}
		layers[l] = true
	}
	places := make(map[place]bool, len(p.Entries))
	for i := range p.Entries {
		e := &p.Entries[i]
		if err := e.check(p); err != nil {
			return fail("entry %d: %w", i, err)
		}
		if places[e.place()] {
			return fail("entry %d: the chunk is there twice", i)
		}
		places[e.place()] = true
	}
	return nil
}

func (e *Entry) check(p *Profile) error {
	switch {
	case e.Layer < 0 || e.Layer >= len(p.Layers):
		return fmt.Errorf("layer %d of %d", e.Layer, len(p.Layers))
	case !inRange(e.Member) || !inRange(e.Inner) || !inRange(e.Size) || e.Size == 0:
		return fmt.Errorf("%d bytes at %d in %d", e.Size, e.Inner, e.Member)
	case e.Inner != 0 && p.Layers[e.Layer].Space == Unpacked:
		return fmt.Errorf("inner offset %d in unpacked space", e.Inner)
	case e.Seen == 0 || e.Seen >= 1<<min(Window, p.Runs):
		return fmt.Errorf("read in runs %b of %d", e.Seen, p.Runs)
	}
	for r, rank := range e.Ranks {
		if rank >= MaxEntries || rank != 0 && e.Seen>>r&1 == 0 {
			return fmt.Errorf("rank %d in run %d", rank, r)
		}
	}
	return nil
}

func inRange(n int64) bool { return n >= 0 && n <= maxSpace }

// place tells chunks of a profile apart.
type place struct {
	layer         int
	member, inner int64
}

func (e *Entry) place() place { return place{e.Layer, e.Member, e.Inner} }

// Count is in how many of the runs remembered the chunk was read.
func (e *Entry) Count() int { return bits.OnesCount8(e.Seen) }

// Remembered is how many runs the entries tell of.
func (p *Profile) Remembered() int { return int(min(p.Runs, Window)) }

// Usual reports whether at least half of the runs remembered read e. What fewer
// read is kept, and not fetched in advance.
func (p *Profile) Usual(e *Entry) bool { return 2*e.Count() >= p.Remembered() }

// median is the middle of the entry's ranks, doubled.
func (e *Entry) median() uint32 {
	var ranks [Window]uint32
	n := 0
	for r, rank := range e.Ranks {
		if e.Seen>>r&1 != 0 {
			ranks[n] = rank
			n++
		}
	}
	slices.Sort(ranks[:n])
	return ranks[(n-1)/2] + ranks[n/2]
}
