// Package fetch brings missing chunks from a blob source into the chunk store,
// each once, the most wanted first.
//
// A read asks its [Layer] for part of a chunk. [Layer.TryRead] answers from the
// store alone. [Layer.Read] goes on where that fails: the chunk joins a flight,
// of which there is at most one per digest whoever asks. New flights are planned
// into a run, a stretch of the blob that one Range request brings; queued runs
// that lie near each other are sent as one request. As the bytes of a run arrive,
// they are decoded, each chunk checked against its digest, and its readers are
// answered from memory at once; the store takes the chunk afterwards. A read never
// waits for a disk write, nor for bytes behind the ones it needs.
//
// Where a chunk lies depends on the layer. In members ([Scheduler.NewLayer]): each
// holds a few chunks and is decoded by itself. In spans ([Scheduler.NewSpanLayer]):
// chunks are ranges of the decoded layer, [Spans] says which range of the blob
// leads to them, and a run is decoded in one go from the checkpoint before its first
// chunk; [Plain] is that of a layer that is not compressed. A layer whose chunks have
// no digests in advance ([Scheduler.NewLearnedLayer]) has spans that are verified
// instead, and a [Learner] who is told. A layer that can only be read from its start
// ([Scheduler.NewStreamLayer]) is read once for all who wait.
//
// Runs have a [Priority]: demand goes before prefetch, prefetch before
// background. A demand for a chunk that is queued for less lifts its run; a
// demand far ahead of a running stream gets a request of its own. A run that
// nobody waits for any more is cancelled.
//
// [Layer.PrefetchChunks] takes chunks that are known to be read, as a profile names
// them. Their run is exact: one request, as it was planned, for several ranges where
// the source can do that, not merged with others and not read ahead of, and waited for
// by readers far ahead of its stream.
//
// [Layer.ReadRaw] reads a blob as it is, as a background run. It ends as soon as something
// more urgent is queued, and [Scheduler.Idle] waits until that is over.
//
// Sequential readers are recognised by the order in which they ask for chunks
// and are read ahead in growing windows, because kernel 9P clients keep only one
// read in flight.
//
// The package knows no HTTP and no file names. Lock order: Scheduler.mu is the
// only lock held while another is taken, and only Layer.streams.mu may follow.
package fetch
