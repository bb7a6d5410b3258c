package generated

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nineply/nineply/internal/p9client"
)

// Read reads a file whole over 9P, through buf, and gives its length.
func Read(ctx context.Context, root *p9client.File, name string, buf []byte) (size int64, err error) {
	f, err := root.WalkOpen(ctx, strings.Split(name, "/")...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for {
		n, err := f.ReadAt(ctx, buf, size)
		if err != nil {
			return size, fmt.Errorf("%s at %d: %w", name, size, err)
		}
		if n == 0 {
			return size, nil
		}
		size += int64(n)
	}
}
