package mount

import (
	"context"
	"hash/maphash"
	"slices"

	"github.com/nineply/nineply/internal/p9client"
)

// Programs look for most files in several directories before they find them.
// The kernel remembers each name that was absent, but asks about each once. So
// a directory in which names were missed repeatedly is listed, and further
// misses in it are answered from here, without the server.
//
// What is kept are hashes of the names that exist. A name whose hash is not
// among them does certainly not exist; any other is asked about.

const (
	// missesToList is how many misses make a directory worth listing.
	missesToList = 2
	// maxListed is the largest directory that is listed for this, in entries.
	maxListed = 8192
	// maxHashes bounds the names remembered of all directories.
	maxHashes = 1 << 20
	// missesNever marks a directory that is not to be listed.
	missesNever = 255
)

// nameSet is the names of one directory.
type nameSet struct {
	dir    *node
	hashes []uint64 // sorted
}

// absences finds absent names. Everything but seed is guarded by table.mu.
type absences struct {
	seed  maphash.Seed
	sets  []*nameSet // oldest first
	total int        // hashes in them
}

// isAbsent tells whether name certainly does not exist in dir.
func (t *tree) isAbsent(dir *node, name string) bool {
	t.mu.Lock()
	set := dir.names
	t.mu.Unlock()
	if set == nil {
		return false
	}
	_, found := slices.BinarySearch(set.hashes, maphash.String(t.absent.seed, name))
	return !found
}

// missed notes that the server did not have name in dir, and lists dir if that
// has become worthwhile. Not succeeding is no harm.
func (t *tree) missed(ctx context.Context, dir *node) {
	t.mu.Lock()
	if dir.misses != missesNever {
		dir.misses++
	}
	list := dir.misses == missesToList
	t.mu.Unlock()
	if !list {
		return
	}
	hashes, ok := t.hashNames(ctx, dir)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case ok:
		t.absent.add(&nameSet{dir: dir, hashes: hashes})
		fallthrough
	case ctx.Err() == nil:
		dir.misses = missesNever
	default:
		dir.misses = 0 // the reader left; another may ask again
	}
}

// add remembers a set and forgets the oldest ones for it.
func (a *absences) add(set *nameSet) {
	set.dir.names = set
	a.sets = append(a.sets, set)
	a.total += len(set.hashes)
	for a.total > maxHashes {
		a.drop(a.sets[0].dir)
	}
}

// drop forgets the names of a directory.
func (a *absences) drop(dir *node) {
	if dir.names == nil {
		return
	}
	a.total -= len(dir.names.hashes)
	i := slices.Index(a.sets, dir.names)
	a.sets = slices.Delete(a.sets, i, i+1)
	dir.names = nil
}

// hashNames lists dir. ok is false if it could not be, or is too large.
func (t *tree) hashNames(ctx context.Context, dir *node) (hashes []uint64, ok bool) {
	buf := make([]byte, maxListing)
	var off uint64
	for len(hashes) <= maxListed {
		ents, err := t.readdir(ctx, dir, off, buf)
		if err != nil {
			return nil, false
		}
		if len(ents) == 0 {
			slices.Sort(hashes)
			return slices.Clip(hashes), true
		}
		hashes = t.hash(hashes, ents)
		off = ents[len(ents)-1].Offset
	}
	return nil, false
}

func (t *tree) hash(hashes []uint64, ents []p9client.Dirent) []uint64 {
	for i := range ents {
		hashes = append(hashes, maphash.String(t.absent.seed, ents[i].Name))
	}
	return hashes
}
