package soci

import (
	"errors"

	"github.com/nineply/nineply/internal/fserr"
)

func corrupt(text string) error     { return fserr.New(fserr.Corrupt, "", "", errors.New(text)) }
func tooLarge(text string) error    { return fserr.New(fserr.TooLarge, "", "", errors.New(text)) }
func unsupported(text string) error { return fserr.New(fserr.Unsupported, "", "", errors.New(text)) }

// What cannot be used, though nothing is wrong with it: of kind
// [fserr.Unsupported].
var (
	// ErrVersion: a zTOC of another version than 0.9.
	ErrVersion = unsupported("unknown zTOC version")
	// ErrCompression: the layer is neither gzip nor an uncompressed tar.
	ErrCompression = unsupported("zTOC of a compression that is not read")
	// ErrSparse: the layer has a sparse file, which zTOCs describe wrongly.
	ErrSparse = unsupported("zTOC of a layer with sparse files")
	// ErrNotIndex: a manifest is no SOCI index.
	ErrNotIndex = unsupported("not a SOCI index")
)

// What is wrong with an index: of kind [fserr.Corrupt].
var (
	// ErrFlatbuffer: a reference leads out of the zTOC, or a part is missing.
	ErrFlatbuffer = corrupt("malformed zTOC")
	// ErrCheckpoints: the checkpoints do not add up.
	ErrCheckpoints = corrupt("malformed checkpoints in a zTOC")
	// ErrSpanDigests: there is not one sha256 digest for each span.
	ErrSpanDigests = corrupt("zTOC without a digest for each span")
	// ErrEntry: a file has an unknown type or a number that cannot be.
	ErrEntry = corrupt("invalid file in a zTOC")
	// ErrOrder: files overlap in the tar, or lie outside of it.
	ErrOrder = corrupt("files of a zTOC out of order")
	// ErrLayer: the zTOC is not about the layer it is given for.
	ErrLayer = corrupt("zTOC of another layer")
	// ErrIndex: a SOCI index that is no valid manifest, or that has two zTOCs for
	// one layer.
	ErrIndex = corrupt("malformed SOCI index")
)

// Limits exceeded, of kind [fserr.TooLarge]. See [Limits].
var (
	ErrSize      = tooLarge("zTOC too large")
	ErrEntries   = tooLarge("too many files in a zTOC")
	ErrRepeated  = tooLarge("zTOC that repeats itself too often")
	ErrName      = tooLarge("name too long in a zTOC")
	ErrXattrs    = tooLarge("extended attributes too large in a zTOC")
	ErrChunks    = tooLarge("files too large in a zTOC")
	ErrSpan      = tooLarge("span too large in a zTOC")
	ErrSpans     = tooLarge("too many spans in a zTOC")
	ErrIndexSize = tooLarge("SOCI index too large")
)
