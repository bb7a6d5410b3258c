package fserr_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
)

func TestKindOf(t *testing.T) {
	cause := errors.New("boom")
	tests := []struct {
		name  string
		err   error
		kind  fserr.Kind
		errno syscall.Errno
	}{
		{"nil", nil, 0, 0},
		{"plain", cause, fserr.Internal, syscall.EIO},
		{"typed", fserr.New(fserr.NotExist, "lookup", "a", nil), fserr.NotExist, syscall.ENOENT},
		{"wrapped", fmt.Errorf("reading: %w", fserr.New(fserr.Corrupt, "verify", "c", cause)), fserr.Corrupt, syscall.EIO},
		{"outermost wins", fserr.New(fserr.Unavailable, "read", "b", fserr.New(fserr.NotExist, "", "", nil)), fserr.Unavailable, syscall.EIO},
		{"canceled", fmt.Errorf("x: %w", context.Canceled), fserr.Canceled, syscall.EINTR},
		{"deadline", context.DeadlineExceeded, fserr.Unavailable, syscall.EIO},
		{"standard", fs.ErrNotExist, fserr.NotExist, syscall.ENOENT},
		{"full disk", &fs.PathError{Op: "write", Path: "s", Err: syscall.ENOSPC}, fserr.NoSpace, syscall.EIO},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := fserr.KindOf(tt.err); got != tt.kind {
				t.Errorf("KindOf = %v, want %v", got, tt.kind)
			}
			if got := fserr.Errno(tt.err); got != tt.errno {
				t.Errorf("Errno = %v, want %v", got, tt.errno)
			}
		})
	}
}

func TestEveryKindHasWordsAndErrno(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range fserr.Kinds() {
		words := k.String()
		if words == "" || words == "unknown" || seen[words] {
			t.Errorf("kind %d has no words of its own: %q", k, words)
		}
		seen[words] = true
		if k.Errno() == 0 {
			t.Errorf("%v maps to no errno", k)
		}
		if back, ok := fserr.ParseKind(words); !ok || back != k {
			t.Errorf("ParseKind(%q) = %v, %v", words, back, ok)
		}
	}
	if _, ok := fserr.ParseKind("gone fishing"); ok {
		t.Error("ParseKind accepted unknown words")
	}
}

func TestErrorText(t *testing.T) {
	tests := []struct {
		err  error
		want string
	}{
		{fserr.New(fserr.NotExist, "lookup", "etc/x", nil), "lookup etc/x: not found"},
		{fserr.New(fserr.Corrupt, "", "chunk 1", errors.New("bad digest")), "chunk 1: bad digest"},
		{fserr.Newf(fserr.Invalid, "parse", "", "line %d", 3), "parse: line 3"},
		{fserr.New(fserr.Closed, "", "", nil), "closed"},
	}
	for _, tt := range tests {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("Error() = %q, want %q", got, tt.want)
		}
	}
}

func TestIsMatchesStandardSentinels(t *testing.T) {
	for kind, sentinel := range map[fserr.Kind]error{
		fserr.NotExist: fs.ErrNotExist, fserr.Permission: fs.ErrPermission,
		fserr.Invalid: fs.ErrInvalid, fserr.Closed: fs.ErrClosed,
	} {
		if !errors.Is(fserr.New(kind, "", "", nil), sentinel) {
			t.Errorf("%v does not match %v", kind, sentinel)
		}
	}
	if errors.Is(fserr.New(fserr.Corrupt, "", "", nil), fs.ErrNotExist) {
		t.Error("corrupt matches fs.ErrNotExist")
	}
}
