package inflate

import (
	"errors"

	"github.com/nineply/nineply/internal/fserr"
)

// The ways in which a member can be wrong. All are of kind [fserr.Corrupt].
var (
	// ErrHeader: the input does not begin with a valid gzip header.
	ErrHeader = fserr.New(fserr.Corrupt, "", "", errors.New("not a gzip member"))
	// ErrCorrupt: the deflate stream breaks the rules of RFC 1951.
	ErrCorrupt = fserr.New(fserr.Corrupt, "", "", errors.New("invalid deflate stream"))
	// ErrTruncated: the input ends before the deflate stream does.
	ErrTruncated = fserr.New(fserr.Corrupt, "", "", errors.New("deflate stream cut short"))
	// ErrShort: the stream ended properly, with fewer bytes than were wanted.
	ErrShort = fserr.New(fserr.Corrupt, "", "", errors.New("deflate stream shorter than expected"))
	// ErrChecksum: the stream decoded, and is not what its CRC or length says.
	ErrChecksum = fserr.New(fserr.Corrupt, "", "", errors.New("gzip checksum mismatch"))
)

// Why the decoder stops where it can go on. They do not leave the package.
var (
	errInput = errors.New("more input is needed")
	errBlock = errors.New("between two blocks")
)
