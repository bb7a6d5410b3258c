// Package zran makes an ordinary gzip blob accessible at random: by checkpoints,
// places in the deflate stream where decoding can start.
//
// A [Recorder] decompresses a blob as it arrives and notes a checkpoint about
// every span of output. Each checkpoint needs the up to 32 KiB of output before
// it; of that window only the bytes that are referred to are kept, which a trial
// decompression tells, and a checkpoint whose trial does not give the right bytes
// is dropped. [Recorder.WriteTo] writes the index file (docs/format-checkpoints.md),
// [Open] reads one, [Index.Extent] says which range of the blob a range of the
// output needs, and [Index.Start] decompresses from there.
//
// An index file is checked before it is used, and what it leads to is not
// trusted: bytes decoded by a wrong index are wrong, and whoever reads them has
// digests to find out. The package knows no network and no tar.
package zran
