// Package estargz reads and writes the layer formats eStargz and zstd:chunked:
// compressed tars that are also random-access archives, because file payloads
// start gzip members or zstd frames of their own and a table of contents (TOC)
// says where.
//
// Reading goes claim → footer → TOC → entries → chunks: [ClaimOf] is what the
// manifest vouches for, [ParseFooter] finds the TOC, [ReadTOC] streams its entries
// while hashing and checking it, and [DecodeMember] turns one compressed member
// into verified chunks. Callers bring
// the bytes, and every byte is untrusted: what breaks a rule or a limit ends in
// an error of its own, before it costs anything. [Blob] puts the steps together
// for tools that have a whole layer at hand. [TarReader] reads layers that are
// plain tars in the same words.
//
// Writing goes the other way: [Writer] takes a tar stream and emits the blob,
// its digest, DiffID and TOC digest in one pass. A source gives the tar's entries,
// with headers made anew or, where the tar is to stay as it is, with the very bytes
// it has; one goroutine cuts them into members, several compress batches of those,
// one writes them in order; where members begin depends on the content alone.
//
// The package knows no network and keeps nothing. Only the writer touches the
// disk, and only to reorder a tar that it cannot read twice.
package estargz
