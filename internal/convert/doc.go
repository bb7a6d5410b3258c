// Package convert rewrites an image in a format that can be read lazily, from any
// source to any target and without a container engine.
//
// # What passes through
//
//	reference -> images of the chosen platforms          source.ResolveFamily
//	each different layer -> verified, decompressed,
//	    written anew -> a temporary file                 stage
//	files -> blobs, then configs, manifests, tags        publish
//
// A layer passes through once, as a stream: its digest, its DiffID, and those of
// what becomes of it are computed on the way. Nothing is pushed before every
// layer of every platform has been converted, so that an image that cannot be
// converted leaves no trace at the target. The disk space that takes is that of
// all converted layers together; the files have no names, so that nothing is left
// of them however the process ends. Layers that are kept as they are
// (Options.Reusable) need no space: they stream from source to target.
//
// Blobs go first, then the configs and manifests of single platforms, by digest
// alone, then the image of external TOCs if there is one, and last the tag. When
// that fails, the tag of the TOC image is taken back, or given back to what had
// it.
//
// The result differs from the source in its digests, so that signatures of the
// source do not cover it. [Result] says what changed.
//
// # What it is not
//
// It knows no format: what a layer becomes, and what its descriptor needs for
// that, is estargz.Writer's to say.
package convert
