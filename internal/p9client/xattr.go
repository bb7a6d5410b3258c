package p9client

import (
	"context"
	"fmt"
	"strings"
	"syscall"
)

// maxXattr is the largest attribute value, and list of names, Linux handles.
const maxXattr = 64 << 10

// Xattr returns the value of an extended attribute; ENODATA if there is none
// of that name.
func (f *File) Xattr(ctx context.Context, name string) ([]byte, error) {
	if name == "" || len(name) > 255 {
		return nil, syscall.ERANGE
	}
	return f.xattr(ctx, name)
}

// Xattrs returns the names of the extended attributes.
func (f *File) Xattrs(ctx context.Context) ([]string, error) {
	list, err := f.xattr(ctx, "")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range strings.Split(string(list), "\x00") {
		if n != "" {
			names = append(names, n)
		}
	}
	return names, nil
}

// xattr walks to an attribute (or the list of them) and reads it.
func (f *File) xattr(ctx context.Context, name string) ([]byte, error) {
	c := f.c
	x := &File{c: c, fid: c.newFid()}
	k := f.c.newCall(txattrwalk)
	k.fid = x.fid
	k.req = putString(put32(put32(k.req, f.fid), x.fid), name)
	var size uint64
	err := c.call(ctx, k, func(b []byte) (err error) {
		size, err = parseSize(b)
		if err == nil && size > maxXattr {
			err = fmt.Errorf("attribute of %d bytes", size)
		}
		return err
	})
	if err != nil {
		c.unmade(x.fid, err)
		return nil, err
	}
	val := make([]byte, size)
	for got := 0; got < len(val); {
		n, err := x.ReadAt(ctx, val[got:], int64(got))
		if err == nil && n == 0 {
			err = syscall.EIO
		}
		if err != nil {
			_ = x.Close() // only queues the clunk
			return nil, err
		}
		got += n
	}
	return val, x.Close()
}
