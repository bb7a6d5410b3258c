package chunkstore

import (
	"encoding/hex"
	"errors"
	"syscall"

	"github.com/nineply/nineply/internal/fserr"
)

// What callers decide on. All of them carry an fserr.Kind, and are found with
// errors.Is in what the methods return.
var (
	// ErrNotFound: the chunk is not in the store, or no longer: it was evicted,
	// or its record was damaged and has been dropped. Fetch it anew. (fserr.NotExist)
	ErrNotFound = fserr.New(fserr.NotExist, "chunk", "", nil)
	// ErrDigest: the data offered is not what its digest says. (fserr.Corrupt)
	ErrDigest = fserr.New(fserr.Corrupt, "chunk", "", errors.New("data does not match its digest"))
	// ErrNoSpace: neither the limit nor the disk has room, even after
	// evicting all that is not pinned. What is stored can still be read.
	// (fserr.NoSpace)
	ErrNoSpace = fserr.New(fserr.NoSpace, "chunk store", "", errors.New("no space left"))
	// ErrClosed: the store was closed. (fserr.Closed)
	ErrClosed = fserr.New(fserr.Closed, "chunk store", "", nil)
)

// errStale: the place does not hold the wanted record, or not intact.
var errStale = errors.New("stale place")

func chunkError(kind fserr.Kind, op string, d Digest, err error) error {
	return fserr.New(kind, op, "chunk sha256:"+hex.EncodeToString(d[:]), err)
}

// noSpace wraps the cause of a lack of space so that it matches ErrNoSpace.
func noSpace(d Digest, cause error) error {
	if cause == nil {
		cause = ErrNoSpace
	} else if !errors.Is(cause, ErrNoSpace) {
		cause = errors.Join(ErrNoSpace, cause)
	}
	return chunkError(fserr.NoSpace, "put", d, cause)
}

func isNoSpace(err error) bool {
	return errors.Is(err, ErrNoSpace) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
