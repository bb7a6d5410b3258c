package fetch

import "sync"

// maxStreams is how many sequential readers of one layer are followed at once.
const maxStreams = 16

// firstWindow is the read-ahead of a reader just found to be sequential, bytes
// of the blob. It doubles each time the reader reaches it.
const firstWindow = 256 << 10

// readAhead follows the sequential readers of a layer. Chunks are numbered in
// blob order, so a reader of one file, or of files in the order they were
// written, asks for ascending numbers.
type readAhead struct {
	mu      sync.Mutex
	streams [maxStreams]stream
	clock   uint64
}

// stream is one reader: it is expected to ask for chunk next, and everything
// before chunk ahead has been asked for on its behalf.
type stream struct {
	next, ahead, trigger uint32
	window               int64
	used                 uint64 // clock of the last use; 0: free
}

// advance notes that chunk i was asked for and reads ahead if that is part of a
// sequence. missed says that the reader had to wait.
func (l *Layer) advance(i uint32, missed bool) {
	if l.streamer != nil || l.s.opts.ReadAhead < 0 {
		return
	}
	from, window := l.streams.note(i, missed, l.s.opts.ReadAhead)
	if window > 0 {
		l.fetchAhead(from, window, Prefetch)
	}
}

// note updates the streams and returns what to fetch: window bytes from chunk
// from on; a window of 0 means nothing.
func (ra *readAhead) note(i uint32, missed bool, limit int64) (from uint32, window int64) {
	ra.mu.Lock()
	defer ra.mu.Unlock()
	ra.clock++
	oldest := &ra.streams[0]
	for k := range ra.streams {
		st := &ra.streams[k]
		if st.used != 0 && i+1 == st.next { // the same chunk again
			st.used = ra.clock
			return 0, 0
		}
		if st.used != 0 && i == st.next {
			return st.step(i, ra.clock, limit)
		}
		if st.used < oldest.used {
			oldest = st
		}
	}
	if missed {
		*oldest = stream{next: i + 1, ahead: i + 1, trigger: i + 1, used: ra.clock}
	}
	return 0, 0
}

// step moves a stream on to chunk i+1 and opens the next window when the reader
// has come to its trigger, the middle of what was fetched for it.
func (st *stream) step(i uint32, clock uint64, limit int64) (from uint32, window int64) {
	st.next, st.used = i+1, clock
	if i < st.trigger {
		return 0, 0
	}
	st.window = min(max(2*st.window, firstWindow), limit)
	from = max(st.ahead, i+1)
	return from, st.window
}

// reached records how far a window went, so that the next one opens when the
// reader is half way through it.
func (ra *readAhead) reached(from, to uint32) {
	ra.mu.Lock()
	defer ra.mu.Unlock()
	for k := range ra.streams {
		st := &ra.streams[k]
		if st.used != 0 && st.next <= from && max(st.ahead, st.next) == from {
			st.ahead = to
			st.trigger = from + (to-from)/2
			return
		}
	}
}

// fetchAhead queues runs for the missing chunks in window bytes of the blob from
// chunk number from on.
func (l *Layer) fetchAhead(from uint32, window int64, prio Priority) {
	first, ok := l.chunks.Chunk(from)
	if !ok {
		return
	}
	end := l.chunks.ChunksFrom(first.Member + window)
	if end <= from {
		end = from + 1
	}
	l.probe(from, window)
	l.queueRuns(from, end, prio)
	l.streams.reached(from, end)
}

// queueRuns plans and queues runs over the missing chunks in [from, end).
func (l *Layer) queueRuns(from, end uint32, prio Priority) {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for from < end && !s.closed {
		r, next := s.planLocked(l, from, end, prio, s.opts.MaxRun)
		if r != nil {
			s.enqueueLocked(r)
		}
		if next <= from {
			return
		}
		from = next
	}
}

// Prefetch queues what is missing of the blob range [0, end), as an image's
// prefetch landmark asks for.
func (l *Layer) Prefetch(end int64) {
	if l.streamer != nil || end <= 0 {
		return
	}
	l.probe(0, end)
	l.queueRuns(0, l.chunks.ChunksFrom(end), Prefetch)
}
