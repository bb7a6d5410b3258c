package fserr

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Kind classifies a failure by what a caller can do about it.
type Kind uint8

// The kinds of failure. The zero Kind is never stored in an [Error].
const (
	// NotExist: the object is not there; asking again gives the same answer.
	NotExist Kind = iota + 1
	// NotDir: a name was looked up in something that is not a directory.
	NotDir
	// IsDir: file content was asked of a directory.
	IsDir
	// Invalid: the request itself is malformed.
	Invalid
	// Permission: the caller may not have this.
	Permission
	// ReadOnly: a mutation of an immutable tree.
	ReadOnly
	// NoAttr: the node has no extended attribute of that name.
	NoAttr
	// Corrupt: bytes arrived and failed their digest or checksum.
	Corrupt
	// Unavailable: a source cannot be reached now; a later try may succeed.
	Unavailable
	// Unauthorized: the source refused the credentials, or wants some.
	Unauthorized
	// TooLarge: a limit of this program was exceeded.
	TooLarge
	// NoSpace: the cache cannot take the bytes.
	NoSpace
	// Closed: the object was closed while in use.
	Closed
	// Canceled: the caller gave up.
	Canceled
	// Busy: the object is in use and cannot be changed now.
	Busy
	// Unsupported: understood, and not offered here.
	Unsupported
	// Internal: a broken invariant of this program.
	Internal
)

var kindInfo = [...]struct { //nolint:gochecknoglobals // a constant table
	name  string
	errno syscall.Errno
}{
	NotExist:     {"not found", syscall.ENOENT},
	NotDir:       {"not a directory", syscall.ENOTDIR},
	IsDir:        {"is a directory", syscall.EISDIR},
	Invalid:      {"invalid", syscall.EINVAL},
	Permission:   {"permission denied", syscall.EACCES},
	ReadOnly:     {"read-only", syscall.EROFS},
	NoAttr:       {"no such attribute", syscall.ENODATA},
	Corrupt:      {"corrupt", syscall.EIO},
	Unavailable:  {"unavailable", syscall.EIO},
	Unauthorized: {"unauthorized", syscall.EIO},
	TooLarge:     {"too large", syscall.EIO},
	NoSpace:      {"no space", syscall.EIO},
	Closed:       {"closed", syscall.EIO},
	Canceled:     {"canceled", syscall.EINTR},
	Busy:         {"busy", syscall.EBUSY},
	Unsupported:  {"not supported", syscall.EOPNOTSUPP},
	Internal:     {"internal error", syscall.EIO},
}

// Kinds lists every Kind, in order.
func Kinds() []Kind {
	kinds := make([]Kind, 0, len(kindInfo)-1)
	for k := NotExist; int(k) < len(kindInfo); k++ {
		kinds = append(kinds, k)
	}
	return kinds
}

// String gives the kind's words, such as "not found".
func (k Kind) String() string {
	if k == 0 || int(k) >= len(kindInfo) {
		return "unknown"
	}
	return kindInfo[k].name
}

// ParseKind is the inverse of [Kind.String]. ok is false for unknown words.
func ParseKind(s string) (k Kind, ok bool) {
	for k := NotExist; int(k) < len(kindInfo); k++ {
		if kindInfo[k].name == s {
			return k, true
		}
	}
	return 0, false
}

// Errno is what a file system front answers for k. Kinds that describe a
// failing source or store all become EIO: a reader cannot do better.
func (k Kind) Errno() syscall.Errno {
	if k == 0 || int(k) >= len(kindInfo) {
		return syscall.EIO
	}
	return kindInfo[k].errno
}

// Error is one failure: the operation, the object it was applied to, and the
// cause. Op and Object may be empty, Err may be nil.
type Error struct {
	Kind   Kind
	Op     string
	Object string
	Err    error
}

// New builds an *Error as an error. err may be nil.
func New(kind Kind, op, object string, err error) error {
	return &Error{Kind: kind, Op: op, Object: object, Err: err}
}

// Newf builds an *Error whose cause is formatted like [fmt.Errorf].
func Newf(kind Kind, op, object, format string, args ...any) error {
	return &Error{Kind: kind, Op: op, Object: object, Err: fmt.Errorf(format, args...)}
}

// Error reads "op object: cause", or the kind's words where there is no cause.
func (e *Error) Error() string {
	head := e.Op
	if e.Object != "" {
		if head != "" {
			head += " "
		}
		head += e.Object
	}
	tail := e.Kind.String()
	if e.Err != nil {
		tail = e.Err.Error()
	}
	if head == "" {
		return tail
	}
	return head + ": " + tail
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is lets errors.Is match the standard library's sentinels for the kinds that
// have one, so that callers need only the standard values.
func (e *Error) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return e.Kind == NotExist
	case fs.ErrPermission:
		return e.Kind == Permission
	case fs.ErrInvalid:
		return e.Kind == Invalid
	case fs.ErrClosed:
		return e.Kind == Closed
	}
	return false
}

// KindOf finds the Kind of the outermost [Error] in err's chain. Standard
// sentinels, context errors and errno values are translated; anything else is
// Internal. KindOf(nil) is 0.
func KindOf(err error) Kind {
	if err == nil {
		return 0
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	switch {
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return Unavailable
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return NoSpace
	case errors.Is(err, fs.ErrNotExist):
		return NotExist
	case errors.Is(err, fs.ErrPermission):
		return Permission
	case errors.Is(err, fs.ErrClosed):
		return Closed
	}
	return Internal
}

// Is reports whether err is of kind k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// Errno is the errno a file system front answers for err; 0 for nil.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	return KindOf(err).Errno()
}
