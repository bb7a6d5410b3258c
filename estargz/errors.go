package estargz

import (
	"errors"

	"github.com/nineply/nineply/internal/fserr"
)

func corrupt(text string) error     { return fserr.New(fserr.Corrupt, "", "", errors.New(text)) }
func tooLarge(text string) error    { return fserr.New(fserr.TooLarge, "", "", errors.New(text)) }
func unsupported(text string) error { return fserr.New(fserr.Unsupported, "", "", errors.New(text)) }

// What makes a blob something else than a self-contained eStargz layer. These
// are of kind [fserr.Unsupported]: the layer may be fine, it only cannot be read
// lazily on its own.
var (
	// ErrNotEStargz: the blob ends in no footer of eStargz, stargz or zstd:chunked.
	ErrNotEStargz = unsupported("no eStargz or zstd:chunked footer")
	// ErrExternalTOC: the blob is eStargz with its TOC kept in another image.
	ErrExternalTOC = unsupported("the eStargz TOC is kept outside of the layer")
	// ErrNoChunkDigest: a chunk that cannot be verified on its own, because a
	// legacy TOC has only the digest of the whole file, or none.
	ErrNoChunkDigest = unsupported("chunk without digest")
)

// What is wrong with a blob that claims to be eStargz. These are of kind
// [fserr.Corrupt].
var (
	// ErrTOCOffset: the footer points outside of the blob.
	ErrTOCOffset = corrupt("TOC offset outside of the blob")
	// ErrTOCHeader: the TOC's tar header is damaged or names another file.
	ErrTOCHeader = corrupt("no TOC at the TOC offset")
	// ErrTOCSyntax: the TOC is not JSON, or a value has the wrong type.
	ErrTOCSyntax = corrupt("invalid TOC JSON")
	// ErrTOCTrailing: something else than white space follows the TOC's JSON.
	ErrTOCTrailing = corrupt("data after the TOC JSON")
	// ErrTOCVersion: the TOC's version is not 1.
	ErrTOCVersion = corrupt("unknown TOC version")
	// ErrEntryType: an entry has no type, or one that does not exist.
	ErrEntryType = corrupt("unknown entry type")
	// ErrName: a name holds a zero byte, or the root is not a directory.
	ErrName = corrupt("invalid entry name")
	// ErrLink: a hard link without target, or to itself.
	ErrLink = corrupt("invalid hard link")
	// ErrNumber: a number is negative or too large for what it counts.
	ErrNumber = corrupt("number out of range")
	// ErrStrayChunk: a chunk does not follow a file that has more to come.
	ErrStrayChunk = corrupt("chunk does not belong to a file")
	// ErrTiling: the chunks of a file have gaps, overlap, or do not end where it
	// ends.
	ErrTiling = corrupt("chunks do not tile the file")
	// ErrOffset: a chunk's member is outside of the data, or before its
	// predecessor's.
	ErrOffset = corrupt("chunk offset out of order or outside of the data")
	// ErrDigestText: a digest is not sha256 in its text form.
	ErrDigestText = corrupt("malformed digest")
	// ErrDigest: a chunk's bytes are not those its digest promises.
	ErrDigest = corrupt("chunk does not match its digest")
	// ErrTOCRawSize: the TOC's JSON is not as long as the footer says.
	ErrTOCRawSize = corrupt("TOC of another length than its footer says")
	// ErrZstd: bytes that should be a zstd frame are none.
	ErrZstd = corrupt("invalid zstd data")
	// ErrClaim: an annotation that should say where the TOC is cannot be read, or
	// the TOC is not the one it names.
	ErrClaim = corrupt("TOC differs from what the manifest says")
	// ErrXattr: an extended attribute without name or with invalid base64.
	ErrXattr = corrupt("invalid extended attribute")
)

// Limits exceeded, of kind [fserr.TooLarge]. See [Limits].
var (
	ErrZstdWindow        = tooLarge("zstd window too large")
	ErrTOCCompressedSize = tooLarge("compressed TOC too large")
	ErrTOCSize           = tooLarge("TOC too large")
	ErrTokenSize         = tooLarge("TOC string too long")
	ErrNesting           = tooLarge("TOC JSON nested too deeply")
	ErrEntries           = tooLarge("too many TOC entries")
	ErrNameSize          = tooLarge("name too long")
	ErrComponentSize     = tooLarge("name component too long")
	ErrDepth             = tooLarge("name has too many components")
	ErrLinkSize          = tooLarge("link target too long")
	ErrChunkSize         = tooLarge("chunk too large")
	ErrInnerOffset       = tooLarge("chunk too far inside its member")
	ErrXattrSize         = tooLarge("extended attributes too large")
)
