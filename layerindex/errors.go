package layerindex

import (
	"errors"
	"fmt"

	"github.com/nineply/nineply/internal/fserr"
)

// Reasons for refusing a TOC or an index file, for errors.Is. The error around
// them is an [fserr.Error]: TooLarge for ErrLimit, Corrupt for ErrCorrupt,
// Invalid for the others.
var (
	// ErrCorrupt: the file is not an intact index of this version.
	ErrCorrupt = errors.New("index file is damaged")
	// ErrLimit: the TOC or the merged tree exceeds a limit.
	ErrLimit = errors.New("limit exceeded")
	// ErrName: a name that cannot be a file's.
	ErrName = errors.New("bad name")
	// ErrEntry: an entry of unknown type or with impossible values.
	ErrEntry = errors.New("bad entry")
	// ErrLinkTarget: a hard link to a name the layer does not have.
	ErrLinkTarget = errors.New("hard link target does not exist")
	// ErrLinkDir: a hard link to a directory.
	ErrLinkDir = errors.New("hard link to a directory")
	// ErrLinkCycle: hard links that lead only to each other.
	ErrLinkCycle = errors.New("hard links form a cycle")
	// ErrSymlinkLoop: a name leads through too many symbolic links.
	ErrSymlinkLoop = errors.New("too many symbolic links in a name")
	// ErrChunks: the chunks of a file do not tile it, or lie out of order in the
	// blob.
	ErrChunks = errors.New("bad chunk list")
	// ErrNoDigest: a chunk that nothing can verify.
	ErrNoDigest = errors.New("chunk without digest")
)

// Answers of the accessors, allocated once.
var (
	errNotExist = fserr.New(fserr.NotExist, "lookup", "", nil)
	errNotDir   = fserr.New(fserr.NotDir, "", "", nil)
	errIsDir    = fserr.New(fserr.IsDir, "", "", nil)
	errNotFile  = fserr.New(fserr.Invalid, "content", "", errors.New("not a regular file"))
	errNotLink  = fserr.New(fserr.Invalid, "readlink", "", errors.New("not a symbolic link"))
	errNoAttr   = fserr.New(fserr.NoAttr, "xattr", "", nil)
	errBadIno   = fserr.New(fserr.NotExist, "", "", errors.New("no such node number"))
	errClosed   = fserr.New(fserr.Closed, "", "", errors.New("index is closed"))
)

// refuse builds the error for an entry that is not accepted.
func refuse(name string, reason error, format string, args ...any) error {
	kind := fserr.Invalid
	if errors.Is(reason, ErrLimit) {
		kind = fserr.TooLarge
	}
	detail := fmt.Sprintf(format, args...)
	return fserr.New(kind, "index entry", fmt.Sprintf("%.120q", name), fmt.Errorf("%w: %s", reason, detail))
}

// corrupt builds the error for a file that fails verification.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}
