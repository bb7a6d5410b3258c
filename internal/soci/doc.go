// Package soci reads the indexes that awslabs/soci-snapshotter makes for layers
// as they are: a SOCI index, which is an OCI manifest, lists zTOCs, and a zTOC
// (a flatbuffer, version 0.9) lists the files of a layer and the places where
// decompression can start.
//
// [ParseIndex] reads the manifest, [Parse] a zTOC. The bytes of a zTOC are checked
// as they are read: a reference inside of it leads nowhere but into it, nothing is
// allocated by a number found in it, and the work is bounded by its length however
// often its parts refer to each other. [ZTOC.Spans] gives the spans, each a range
// of the blob with its digest, [ZTOC.Entries] the files as entries of an eStargz
// TOC in the order of the tar; no chunk of them reaches over the end of a span.
//
// A zTOC vouches for what it says no more than whoever named its digest does. With
// that given, the digest of a span vouches for the bytes of the blob, and both
// together for what comes out of decompressing them: chunks have no digest of
// their own until they were decoded once. What a zTOC says of a file it says by
// itself; the tar headers in the layer are not compared.
//
// The package knows no network, and does not decompress.
package soci
