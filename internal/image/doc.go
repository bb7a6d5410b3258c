// Package image turns references, chains and layers into trees that can be
// served.
//
// A [Catalog] resolves a reference to an image's layers, opens each [Layer]
// (its index file plus the scheduler's handle on its bytes), merges the indexes
// of a chain into one, and hands out a [Tree] to be served. A read
// enters at [Tree.TryReadAt] or [Tree.ReadAt], is cut along the file's chunk
// list, and goes on in package fetch.
//
// A layer whose descriptor vouches for a TOC is opened lazily: one request brings
// it from where the descriptor says, or from the blob's tail, or from the image
// that has it outside of the blob, and it is checked against every digest there is
// of it before an index is made of it. Every other layer, and one whose TOC is
// refused, is opened by an index beside its image if that is trusted, or else read
// whole, checked against the digest of its blob, cut into chunks on the way, and
// indexed; from then on all kinds are served alike.
//
// Layers in use are read to their ends in the background ([Fill]): their chunks are kept,
// and blob, tar and index held against each other and against what the image claims. A
// layer that is wrong is poisoned: whoever has it attached gets errors from then on, and
// nobody can attach it by that claim.
//
// What is read first of an attached image is recorded as its profile (package
// profile), kept, and asked for in advance when the image's layers are added or
// attached the next time.
//
// What the catalog knows is kept as small records in the chunk store's database
// (reference → manifest, manifest → layers, chain → layers) and as index files,
// so that whatever was served once is served again after a restart without any
// network. All of it can be made anew from the registry.
//
// Layers and trees are reference counted: an index stays mapped while an attach
// uses it. Lock order: Catalog.mu is never held during I/O. The filler's lock is a
// leaf: nothing else is taken, and nothing waited for, while it is held. Catalog.profileMu is held
// while the record of a profile is changed, and Catalog.mu is not taken then.
package image
