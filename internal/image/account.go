package image

import (
	"sync/atomic"
	"time"

	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/histogram"
	"github.com/nineply/nineply/internal/profile"
)

// Reads of the cache are counted in cells, so that readers on several processors
// do not share a line of memory, and one of timedReads of each cell is timed: the
// clock costs as much as the rest of the counting.
const (
	hitCells   = 8
	timedReads = 64
)

const errorKinds = int(fserr.Internal) + 1

// hitCell counts reads that the cache answered.
type hitCell struct {
	reads, bytes atomic.Int64
	_            [48]byte // the rest of the line
}

// account counts what was read of one tree.
type account struct {
	hits                         [hitCells]hitCell
	misses, late, missed, failed atomic.Int64
	missBytes, waited            atomic.Int64 // waited: nanoseconds
	manifest                     atomic.Pointer[string]
}

// readTimes says how long the reads of all trees took.
type readTimes struct {
	hit, miss, failed histogram.Histogram
	errors            [errorKinds]atomic.Int64
}

// cell is where a read at an offset of a node is counted.
func (a *account) cell(n uint64, off int64) *hitCell {
	return &a.hits[(n^uint64(off)>>17)%hitCells]
}

// begin counts a read that may be answered from the cache, and starts the clock for
// some of them: the time is zero for the others.
func (h *hitCell) begin() time.Time {
	if h.reads.Add(1)%timedReads == 0 {
		return time.Now()
	}
	return time.Time{}
}

// missed takes back what begin counted: the cache did not answer.
func (h *hitCell) missed() { h.reads.Add(-1) }

// hit counts a read that the cache answered.
func (t *treeState) hit(h *hitCell, began time.Time, n int) {
	h.bytes.Add(int64(n))
	if !began.IsZero() {
		t.times.hit.Observe(time.Since(began), timedReads)
	}
}

// answered is begin and hit for a read that was timed anyway.
func (t *treeState) answered(h *hitCell, began time.Time, n int) {
	h.reads.Add(1)
	h.bytes.Add(int64(n))
	t.times.hit.Observe(time.Since(began), 1)
}

// waitedFor counts a read that had to wait, and how it ended.
func (t *treeState) waitedFor(began time.Time, n int, err error) {
	took := time.Since(began)
	if err != nil {
		t.account.failed.Add(1)
		t.times.failed.Observe(took, 1)
		t.times.errors[fserr.KindOf(err)].Add(1)
		return
	}
	t.account.misses.Add(1)
	t.account.missBytes.Add(int64(n))
	t.account.waited.Add(int64(took))
	t.times.miss.Observe(took, 1)
}

// ReadStats says how long reads took since the catalog was made, and which kinds of
// errors they ended with.
type ReadStats struct {
	Hit, Miss, Error histogram.Snapshot
	Errors           map[string]int64 // by fserr kind
}

// ReadStats takes a snapshot. Of the reads that the cache answered, one of many was
// timed, and stands for all of these.
func (c *Catalog) ReadStats() ReadStats {
	st := ReadStats{Hit: c.times.hit.Snapshot(), Miss: c.times.miss.Snapshot(), Error: c.times.failed.Snapshot(), Errors: map[string]int64{}}
	for k := range c.times.errors {
		if n := c.times.errors[k].Load(); n > 0 {
			st.Errors[fserr.Kind(k).String()] = n
		}
	}
	return st
}

// Account is what a tree was read for, and what that took, since it was opened.
type Account struct {
	Image string // digest of the manifest it was attached by last; empty: not known
	// Hits are reads that the cache answered, Misses those that had to wait and got
	// their bytes, Errors those that failed.
	Hits, Misses, Errors int64
	// Late are waits for chunks that a profile had asked for and that had not come
	// yet, Missed those for chunks that it had not asked for. Both are counted while
	// a start lasts for which a profile was used.
	Late, Missed int64
	Bytes        int64         // given to readers
	Waited       time.Duration // by reads that had to, all together
	// Fetch is the traffic for the tree's layers since they were opened. A layer that
	// several trees have is in the account of each.
	Fetch fetch.Traffic
	Start *StartAccount // nil: there was none, or it was not looked at
}

// StartAccount is about the first reads of a tree: see [Profiles].
type StartAccount struct {
	Over   bool
	Chunks int   // read
	Bytes  int64 // of the blobs, that these chunks need
	// Asked are the bytes of the blobs that a profile asked for, Unread those of them
	// that no chunk read needed.
	Asked, Unread int64
}

// take gives what was counted. The tree is open during the call.
func (t *treeState) take() *Account {
	a := &t.account
	out := &Account{
		Misses: a.misses.Load(), Errors: a.failed.Load(), Late: a.late.Load(), Missed: a.missed.Load(),
		Bytes: a.missBytes.Load(), Waited: time.Duration(a.waited.Load()),
		Fetch: fetch.Traffic{Requests: map[string]int64{}, Bytes: map[string]int64{}},
	}
	if m := a.manifest.Load(); m != nil {
		out.Image = *m
	}
	for i := range a.hits {
		out.Hits += a.hits[i].reads.Load()
		out.Bytes += a.hits[i].bytes.Load()
	}
	for _, l := range t.layers {
		tr := l.bytes.Traffic()
		for p, n := range tr.Requests {
			out.Fetch.Requests[p] += n
			out.Fetch.Bytes[p] += tr.Bytes[p]
		}
	}
	if s := t.start.Load(); s != nil {
		out.Start = s.take()
	} else {
		out.Start = t.started.Load()
	}
	return out
}

// take tells of a start as far as it has come.
func (s *coldStart) take() *StartAccount {
	out := new(StartAccount)
	for n := range s.views {
		chunks, bytes := needed(&s.views[n], n, s.rec)
		out.Chunks += chunks
		out.Bytes += bytes
	}
	if s.asked != nil {
		out.Asked, out.Unread = s.asked.sum(), s.asked.unread(s.views, s.rec)
	}
	return out
}

// needed counts the chunks of a layer that were read, and the bytes of the blob that
// have to be read for them.
func needed(v *profile.View, layer int, rec *profile.Recorder) (chunks int, bytes int64) {
	end := int64(0) // of what was counted
	for i := range uint32(v.Chunks.NumChunks()) {
		if !rec.Touched(layer, i) {
			continue
		}
		c, ok := v.Chunks.Chunk(i)
		if !ok || c.Hole {
			continue
		}
		chunks++
		if v.Extent == nil {
			continue // the layer is read whole, whatever is read of it
		}
		lo, hi := v.Extent(&c)
		if lo = max(lo, end); hi > lo {
			bytes += hi - lo
			end = hi
		}
	}
	return chunks, bytes
}
