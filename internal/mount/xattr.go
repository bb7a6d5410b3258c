package mount

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"

	"github.com/nineply/nineply/internal/p9client"
)

// xattrNames is what is known of a node's extended attributes. Asking for one
// that is not there is by far the most common question (the kernel looks for
// file capabilities at every exec, overlayfs for its own marks), so the list
// is fetched once and such questions are answered from it.
type xattrNames struct {
	names []string
	total int // bytes of the list as listxattr(2) reports it
}

func (t *tree) xattrNames(ctx context.Context, n *node) (*xattrNames, error) {
	t.mu.Lock()
	x := n.xattrs
	t.mu.Unlock()
	if x != nil {
		return x, nil
	}
	var names []string
	err := t.with(ctx, n, func(f *p9client.File) (err error) {
		names, err = f.Xattrs(ctx)
		return err
	})
	switch {
	case errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENODATA):
		names = nil
	case err != nil:
		return nil, err
	}
	x = t.bare
	if len(names) > 0 {
		x = &xattrNames{names: names}
		for _, s := range names {
			x.total += len(s) + 1
		}
	}
	t.mu.Lock()
	n.xattrs = x
	t.mu.Unlock()
	return x, nil
}

// xattr copies an attribute's value into dest; with an empty dest it only
// tells its size. ERANGE says dest is too small, with the size needed.
func (t *tree) xattr(ctx context.Context, n *node, name string, dest []byte) (int, error) {
	x, err := t.xattrNames(ctx, n)
	if err != nil {
		return 0, err
	}
	if !slices.Contains(x.names, name) {
		return 0, syscall.ENODATA
	}
	var val []byte
	err = t.with(ctx, n, func(f *p9client.File) error {
		val, err = f.Xattr(ctx, name)
		return err
	})
	if err != nil {
		return 0, err
	}
	return fit(dest, string(val))
}

func (t *tree) listXattr(ctx context.Context, n *node, dest []byte) (int, error) {
	x, err := t.xattrNames(ctx, n)
	if err != nil || x.total == 0 {
		return 0, err
	}
	return fit(dest, strings.Join(x.names, "\x00")+"\x00")
}

func fit(dest []byte, val string) (int, error) {
	if len(dest) < len(val) {
		return len(val), syscall.ERANGE
	}
	return copy(dest, val), nil
}
