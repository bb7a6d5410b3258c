// Package layerindex turns the table of contents of an image layer into a
// compact immutable file, and a chain of such files into one file with the
// overlay resolved. Both are opened by mmap, and every question a file server
// asks – lookup, attributes, directory pages, links, extended attributes, the
// chunks of a file – is answered from the mapping without allocating.
//
// The way of the data: a [Builder] takes TOC entries in order, applies them to a
// tree the way an extractor would apply them to a disk, numbers the nodes and
// writes a layer index. [Merge] reads layer indexes bottom first and writes a
// merged index, in which whiteouts are resolved and a regular file says which
// layer's chunks hold its bytes. [Open] verifies and maps either kind. The file
// is described in docs/format.md.
//
// Node numbers are dense, start at 1 for the root, and follow from the entries
// alone: the same layers give the same numbers, and the same file, on any host.
//
// An [Index] is immutable and may be used by any number of goroutines. Nothing
// may use it during or after Close: slices it returned point into the mapping,
// so the owner counts its users. There are no locks. The files themselves are
// replaced by rename and never written in place: cutting short a file that is
// mapped would be a fault of the process, as would a disk that fails to page in.
//
// The package holds no file content and knows neither network nor cache.
package layerindex
