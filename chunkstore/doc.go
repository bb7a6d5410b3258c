// Package chunkstore is a content-verified, deduplicating cache of chunks: byte
// strings named by their sha256.
//
// [Store.PutVerified] takes only what was hashed, and [Store.Put] hashes what it is
// given and refuses it if the digest differs. Either appends it as one
// self-describing record to the active segment file. A read is [Store.Locate] once
// per chunk, which gives a [Loc], and then any number of [Store.ReadAt] with that
// Loc: one pread from a held descriptor straight into the caller's buffer, followed
// by a check of the checksum of every block it touched. A record that fails its
// check is dropped, and the reader is told [ErrNotFound], so that it fetches the
// chunk anew. A reader never gets a wrong byte: not after a crash, a bit flip, an
// eviction it raced with, or a lost index. Up to 4 MiB of blocks that are read again
// and again are held as they were verified, and are not read from the file each time.
//
// Full segments are sealed: synced, given an index of their records, synced
// again, and only then their chunk places go to the index database (badger) in
// one batch. Nothing is only in that database: it is rebuilt from the segments
// whenever it is missing, damaged or older than they are. docs/format-chunkstore.md
// describes the files.
//
// Space is bounded. Put reserves before it writes; when the limit is near, a hand
// walks the sealed segments in order of age and takes what was put and not read
// again, so that a sweep of new chunks pushes out nothing but its like; another
// takes what was read again, but not lately. Bytes are freed by punching holes and
// by unlinking segments that have become empty. What is read is remembered in
// memory, two bits per 4 KiB; a read never writes to the disk. Chunks that are
// pinned ([Store.SetPinned]) stay.
//
// The package also keeps [Records], a small durable key-value space for the
// facts callers hold about layers and images.
//
// It is not a file cache: it knows no names, offsets in files or layers, and it
// fetches nothing.
//
// # Locks
//
// In the order in which they may be taken:
//
//	life                 entered by every operation, waited for by Close
//	appendSem (1 slot)   the active segment's end; held while writing a record
//	evictMu              one sweep, compaction or rebuild at a time
//	placeMu              read-modify-write of chunk places in the database
//	pendingMu, tableMu   the maps of unsealed places and of segments; leaves
//
// ReadAt takes none of them when the record is where the Loc says.
package chunkstore
