// Package inflate decompresses gzip members: those that are already in memory, of
// which the reader knows how many bytes it wants, and whole blobs of them as they
// arrive.
//
// [Member] and [Deflate] decode from one byte slice straight into another: no
// window to slide, no reader to call back, one 64-bit bit buffer and two-level
// Huffman tables. They stop as soon as the destination is full, so the cost of
// reading the front of a member is the cost of the front only. [Reader] is the
// same decoder behind io.Reader, for output whose size is not known or too large
// to hold; it keeps the last 32 KiB and checks the member's CRC when it gets to
// the end.
//
// [Stream] follows the members of a blob one after the other. Between two deflate
// blocks it can tell the exact place, bit and window, a [Point], and a Stream can
// start at any such place: this is what makes an ordinary tar.gz accessible at
// random.
//
// The input is untrusted. Every access is checked, nothing is allocated by a
// number found in the input, and the work done is bounded by the bytes wanted.
// The package does not compress.
package inflate
