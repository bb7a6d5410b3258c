package p9client

import (
	"context"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
)

// File is a fid: a node of the tree the Client is attached to, opened or not.
// It is safe for concurrent use except that nothing may follow Close.
type File struct {
	c      *Client
	fid    uint32
	iounit uint32 // largest payload of one read, once open
	qid    QID
	closed atomic.Bool
}

// QID is the identity the server gave for the node.
func (f *File) QID() QID { return f.qid }

// Client is the client the file belongs to.
func (f *File) Client() *Client { return f.c }

// Close gives the fid back. It does not wait for the server.
func (f *File) Close() error {
	if f.closed.CompareAndSwap(false, true) {
		f.c.clunkLater(f.fid)
	}
	return nil
}

// call sends one request and waits for its reply; parse sees the body.
func (c *Client) call(ctx context.Context, k *call, parse func(body []byte) error) error {
	if err := c.post(ctx.Done(), k); err != nil {
		k.recycle()
		return endCause(ctx, err)
	}
	c.kick()
	return c.finishCall(ctx, k, parse)
}

// finishCall waits for a request that was sent. A reply that does not parse
// ends the client.
func (c *Client) finishCall(ctx context.Context, k *call, parse func(body []byte) error) error {
	owned, err := c.wait(ctx, k)
	if err == nil && parse != nil {
		if err = parse(k.body); err != nil {
			err = c.violation(k.typ, err)
		}
	}
	if owned {
		k.recycle()
	}
	return err
}

// endCause prefers the context's own error where a wait ended early.
func endCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Attach makes the root of the tree called aname available.
func (c *Client) Attach(ctx context.Context, aname string) (*File, error) {
	if len(aname) > 65535 {
		return nil, syscall.ENAMETOOLONG
	}
	f := &File{c: c, fid: c.newFid()}
	k := c.newCall(tattach)
	k.fid = f.fid
	k.req = put32(put32(k.req, f.fid), noFid)
	k.req = putString(putString(k.req, ""), aname)
	k.req = put32(k.req, uint32(os.Getuid()))
	err := c.call(ctx, k, func(b []byte) (err error) {
		f.qid, err = parseQID(b)
		return err
	})
	if err != nil {
		c.unmade(f.fid, err)
		return nil, err
	}
	return f, nil
}

// unmade frees the number of a fid that a refused request did not create. A
// number whose request was abandoned comes back by way of its Rflush.
func (c *Client) unmade(fid uint32, err error) {
	if isErrno(err) {
		c.freeFid(fid)
	}
}

func checkNames(names []string) error {
	for _, n := range names {
		if len(n) > 255 {
			return syscall.ENAMETOOLONG
		}
		if n == "" || strings.IndexByte(n, 0) >= 0 || strings.IndexByte(n, '/') >= 0 {
			return syscall.EINVAL
		}
	}
	return nil
}

// Walk gives a new File for the node reached from f by names; with no names, a
// second File for f's own node. More than 16 names take several messages. A
// missing name is ENOENT.
func (f *File) Walk(ctx context.Context, names ...string) (*File, error) {
	p := pipeline{c: f.c}
	to := p.walk(ctx, f, names)
	err := p.run(ctx)
	return to.orNil(err), err
}

// Stat returns the attributes.
func (f *File) Stat(ctx context.Context) (Attr, error) {
	var a Attr
	k := f.c.newCall(tgetattr)
	k.req = put64(put32(k.req, f.fid), attrMask)
	err := f.c.call(ctx, k, func(b []byte) error { return parseAttr(b, &a) })
	return a, err
}

// WalkStat is Walk and Stat in one exchange.
func (f *File) WalkStat(ctx context.Context, names ...string) (*File, Attr, error) {
	var a Attr
	p := pipeline{c: f.c}
	to := p.walk(ctx, f, names)
	p.stat(to, &a)
	err := p.run(ctx)
	return to.orNil(err), a, err
}

// WalkStatBare is WalkStat that also finds out, in the same exchange, whether
// the node has no extended attributes: bare is true if that is sure.
func (f *File) WalkStatBare(ctx context.Context, names ...string) (to *File, a Attr, bare bool, err error) {
	p := pipeline{c: f.c}
	to = p.walk(ctx, f, names)
	p.stat(to, &a)
	p.bare(to, &bare)
	err = p.run(ctx)
	return to.orNil(err), a, bare, err
}

// Open prepares f for reading (ReadAt, or ReadDir of a directory). f cannot be
// walked from any more.
func (f *File) Open(ctx context.Context) error {
	p := pipeline{c: f.c}
	p.open(f)
	return p.run(ctx)
}

// WalkOpen is Walk and Open in one exchange.
func (f *File) WalkOpen(ctx context.Context, names ...string) (*File, error) {
	p := pipeline{c: f.c}
	to := p.walk(ctx, f, names)
	p.open(to)
	err := p.run(ctx)
	return to.orNil(err), err
}

// OpenReadAt is Open and a first ReadAt in one exchange.
func (f *File) OpenReadAt(ctx context.Context, b []byte, off int64) (int, error) {
	n := 0
	p := pipeline{c: f.c}
	p.open(f)
	p.read(f, b, off, &n)
	err := p.run(ctx)
	return contiguous(n), err
}

// WalkOpenReadAt is Walk, Open and a first ReadAt in one exchange.
func (f *File) WalkOpenReadAt(ctx context.Context, b []byte, off int64, names ...string) (*File, int, error) {
	n := 0
	p := pipeline{c: f.c}
	to := p.walk(ctx, f, names)
	p.open(to)
	p.read(to, b, off, &n)
	err := p.run(ctx)
	return to.orNil(err), contiguous(n), err
}

func (f *File) orNil(err error) *File {
	if err != nil {
		return nil
	}
	return f
}

// ReadAt reads up to len(b) bytes of an open file from off. No bytes and no
// error mean the end of the file; fewer than asked for may mean that, or that
// the server chose to send less. Reads longer than a message are sent as
// several at once.
func (f *File) ReadAt(ctx context.Context, b []byte, off int64) (int, error) {
	n := 0
	p := pipeline{c: f.c}
	p.read(f, b, off, &n)
	err := p.run(ctx)
	return contiguous(n), err
}

// ReadDir reads entries of an open directory from the cookie offset on (0 is
// the start), as many as fit buf, which is scratch space of at least 512
// bytes. They are appended to ents. No new entries mean the end.
func (f *File) ReadDir(ctx context.Context, offset uint64, buf []byte, ents []Dirent) ([]Dirent, error) {
	buf = buf[:min(len(buf), int(f.c.msize-ioHeader))]
	k := f.c.newCall(treaddir)
	k.data, k.dst = true, buf
	k.req = put32(put64(put32(k.req, f.fid), offset), uint32(len(buf)))
	if err := f.c.post(ctx.Done(), k); err != nil {
		k.recycle()
		return ents, endCause(ctx, err)
	}
	f.c.kick()
	owned, err := f.c.wait(ctx, k)
	if err == nil {
		if ents, err = parseDirents(buf[:k.n], ents); err != nil {
			err = f.c.violation(treaddir, err)
		}
	}
	if owned {
		k.recycle()
	}
	return ents, err
}

// Readlink returns the target of a symbolic link.
func (f *File) Readlink(ctx context.Context) (string, error) {
	var s string
	k := f.c.newCall(treadlink)
	k.req = put32(k.req, f.fid)
	err := f.c.call(ctx, k, func(b []byte) (err error) {
		s, err = parseString(b)
		return err
	})
	return s, err
}

// Statfs describes the file system.
func (f *File) Statfs(ctx context.Context) (Statfs, error) {
	var s Statfs
	k := f.c.newCall(tstatfs)
	k.req = put32(k.req, f.fid)
	err := f.c.call(ctx, k, func(b []byte) (err error) {
		s, err = parseStatfs(b)
		return err
	})
	return s, err
}
