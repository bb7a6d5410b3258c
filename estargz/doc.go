// Package estargz reads and writes the eStargz layer format: a tar.gz that is
// also a random-access archive, because every file payload starts a gzip member
// of its own and a table of contents (TOC) at the end says where.
//
// Reading goes footer → TOC → entries → chunks: [ParseFooter] finds the TOC,
// [ReadTOC] streams its entries while hashing it, and [DecodeMember] turns one
// compressed member into verified chunks. The package does no I/O of its own
// and keeps nothing: callers bring bytes, and every byte is untrusted.
//
// Writing goes the other way: [Writer] takes a tar stream and emits the blob,
// its digest, DiffID and TOC digest in one pass.
package estargz
