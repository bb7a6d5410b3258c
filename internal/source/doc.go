// Package source says where the bytes of an image come from.
//
// # What passes through
//
// A reference ([ParseReference], or an "oci:" path understood by the layout
// package) is resolved by a [Repository] to an [Image]: the manifest and the
// config of one platform, every byte of which was checked against the digest
// that named it. A layer descriptor of that manifest becomes a [Blob], which
// hands out byte ranges.
//
//	reference -> index -> manifest -> config        Repository.Resolve
//	                         |
//	                         +-> layer descriptor    Repository.Blob
//	                                   |
//	                                   +-> bytes     Blob.ReadRange, Blob.OpenRange, Blob.Stream
//
// The registry package implements Repository over HTTP, the layout package over
// an OCI image layout directory, and [Mux] picks one by the reference. Both pass
// the suite in sourcetest. A [Pusher] goes the other way.
//
// # Verification
//
// Manifests and configs are verified here, with bounded sizes and bounded
// nesting. Ranges of a layer cannot be: their digests are known one level up,
// where a table of contents is. A reader that does know uses [ReadVerified],
// so that a source with several hosts can ask the next one when one of them
// serves wrong bytes. A whole layer is read through [Verified].
//
// # Errors
//
// All failures carry a kind of package fserr: NotExist (the registry says there
// is no such thing), Unauthorized (401 and 403), Unavailable (network, 429 and
// 5xx after all retries), Corrupt (digest, size or range disagree), Unsupported
// (a format or a host this program cannot use), TooLarge (a limit), Invalid (a
// malformed reference or request), Canceled. The text names the reference, the
// digest and the cause.
//
// # What it is not
//
// No cache of bytes, no scheduling, no decompression, and no use of URLs that
// a manifest carries ("urls" of a descriptor): a layer is read only from the
// repository that the reference names.
package source
