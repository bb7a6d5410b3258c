// Package profile keeps what a cold start of an image read, in order, and turns
// it into few large requests for the next one.
//
// A [Recorder] is told of every chunk that is read and notes the first reads.
// What it noted becomes a [Run]: the chunks by their place in their layer's blob,
// which is the same on every node and for every index of that blob. [Merge] adds
// the run to the image's [Profile], a file of at most [MaxSize] bytes that
// [Encode] writes and [Decode] checks. For the next cold start [Profile.Resolve]
// finds the chunks in the indexes that are open there, and [Plan] makes requests
// of those that are not local.
//
// A profile is a hint and proves nothing: it names chunks, and whoever fetches
// them verifies them. The worst that a wrong one does is to have bytes of the
// image fetched that nobody reads, within the limits of [Cost].
//
// [WriteRecords] and [ReadRecords] exchange the order of files with
// stargz-snapshotter's tools.
//
// The package knows no network, no store and no index: a layer's chunks are seen
// through [Chunks]. A Recorder may be used by any number of goroutines; its one
// lock is taken at the first read of a chunk only. Profiles are values that
// nobody changes once they are made.
package profile
