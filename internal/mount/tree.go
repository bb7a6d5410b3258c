package mount

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/p9client"
)

// errStale: the server has another node where a known one was.
var errStale = errors.New("another file is where this one was")

// tree answers questions about nodes over a session.
type tree struct {
	*table
	s   *session
	log *zap.Logger

	stale  atomic.Uint64 // nodes that turned out to be others
	statfs struct {
		sync.Mutex
		known bool
		last  p9client.Statfs
	}
}

func newTree(s *session, maxFids int) *tree {
	t := &tree{table: newTable(s.rootID, maxFids), s: s, log: s.log}
	s.onLink = t.dropAll
	return t
}

// same checks that a walk ended at the node it was meant to reach.
func (t *tree) same(n *node, q p9client.QID) error {
	if q.Path == n.path && q.Type == n.typ {
		return nil
	}
	t.stale.Add(1)
	t.log.Error("the server's tree changed under the mount",
		zap.String("aname", t.s.opts.Aname), zap.String("path", n.fullPath()),
		zap.Uint64("want", n.path), zap.Uint64("got", q.Path))
	return errStale
}

func (n *node) fullPath() string {
	if n.parent == nil {
		return "/"
	}
	s := ""
	for ; n.parent != nil; n = n.parent {
		s = "/" + n.name + s
	}
	return s
}

// known turns a node that cannot be found any more into errStale: in an
// immutable tree what was there is there.
func (t *tree) known(n *node, err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) {
		return t.same(n, p9client.QID{})
	}
	return err
}

// await waits until a fid somebody else makes is there.
func await(ctx context.Context, r *fidRef) error {
	select {
	case <-r.ready:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// walkFid takes a fid of n that can be walked from. The caller puts it back.
func (t *tree) walkFid(ctx context.Context, l *link, n *node) (*fidRef, error) {
	for {
		r, mine := t.take(n, fidWalk, l.epoch)
		if mine {
			f, err := t.reach(ctx, l, n)
			t.made(r, f, err)
		}
		err := await(ctx, r)
		if err == nil {
			return r, nil
		}
		t.put(r)
		if mine || !isContext(err) || ctx.Err() != nil {
			return nil, err
		}
		// The one who was making it left; try it ourselves.
	}
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// reach walks to n.
func (t *tree) reach(ctx context.Context, l *link, n *node) (*p9client.File, error) {
	from, names := t.base(n, l.epoch)
	start := l.root
	if from != nil {
		defer t.put(from)
		start = from.file
	}
	f, err := start.Walk(ctx, names...)
	if err != nil {
		return nil, t.known(n, err)
	}
	if err := t.same(n, f.QID()); err != nil {
		_ = f.Close() // only queues the clunk
		return nil, err
	}
	return f, nil
}

// anyFid takes whichever fid of n there is, or makes one to walk from.
func (t *tree) anyFid(ctx context.Context, l *link, n *node) (*fidRef, error) {
	if r := t.takeReady(n, fidOpen, l.epoch); r != nil {
		return r, nil
	}
	return t.walkFid(ctx, l, n)
}

// with runs op on some fid of n, again after a reconnection.
func (t *tree) with(ctx context.Context, n *node, op func(f *p9client.File) error) error {
	return t.s.do(ctx, func(l *link) error {
		r, err := t.anyFid(ctx, l, n)
		if err != nil {
			return err
		}
		defer t.put(r)
		return op(r.file)
	})
}

// lookup finds name in dir and counts a reference of the kernel to it.
func (t *tree) lookup(ctx context.Context, dir *node, name string) (n *node, a p9client.Attr, err error) {
	if t.isAbsent(dir, name) {
		return nil, a, syscall.ENOENT
	}
	err = t.s.do(ctx, func(l *link) error {
		r, err := t.walkFid(ctx, l, dir)
		if err != nil {
			return err
		}
		defer t.put(r)
		f, attr, bare, err := r.file.WalkStatBare(ctx, name)
		if err != nil {
			return err
		}
		a = attr
		if n = t.refer(dir, name, &a, bare); n == nil {
			return errors.Join(t.conflict(dir, name, &a), f.Close())
		}
		t.adopt(n, fidWalk, f, l.epoch)
		return nil
	})
	if errors.Is(err, syscall.ENOENT) {
		t.missed(ctx, dir)
	}
	return n, a, err
}

func (t *tree) conflict(dir *node, name string, a *p9client.Attr) error {
	t.stale.Add(1)
	t.log.Error("the server gives one node two meanings",
		zap.String("aname", t.s.opts.Aname), zap.String("dir", dir.fullPath()),
		zap.String("name", name), zap.Uint64("node", a.QID.Path))
	return errStale
}

func (t *tree) getattr(ctx context.Context, n *node) (a p9client.Attr, err error) {
	err = t.with(ctx, n, func(f *p9client.File) error {
		if a, err = f.Stat(ctx); err != nil {
			return err
		}
		return t.same(n, a.QID)
	})
	return a, err
}

func (t *tree) readlink(ctx context.Context, n *node) (target string, err error) {
	err = t.with(ctx, n, func(f *p9client.File) error {
		target, err = f.Readlink(ctx)
		return err
	})
	return target, err
}

// statFS asks the server, or remembers its last answer while there is none:
// df must not hang because a daemon restarts.
func (t *tree) statFS(ctx context.Context) (p9client.Statfs, error) {
	t.statfs.Lock()
	last, known := t.statfs.last, t.statfs.known
	t.statfs.Unlock()
	l := t.s.ready()
	if known && l == nil {
		return last, nil
	}
	var st p9client.Statfs
	err := t.s.do(ctx, func(l *link) (err error) {
		st, err = l.root.Statfs(ctx)
		return err
	})
	if err == nil {
		t.statfs.Lock()
		t.statfs.last, t.statfs.known = st, true
		t.statfs.Unlock()
	}
	return st, err
}

// read fills p from off, up to the end of the file. Anything less is an error:
// the kernel would take a short read for zeros.
func (t *tree) read(ctx context.Context, n *node, p []byte, off int64) (int, error) {
	if off < 0 || off >= n.size {
		return 0, nil
	}
	p = p[:min(int64(len(p)), n.size-off)]
	for got := 0; got < len(p); {
		err := t.s.do(ctx, func(l *link) error {
			m, err := t.readOnce(ctx, l, n, p[got:], off+int64(got))
			if err == nil && m == 0 {
				return fmt.Errorf("%s: file of %d bytes ends at %d: %w", n.fullPath(), n.size, off+int64(got), syscall.EIO)
			}
			if err == nil {
				got += m
			}
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// readOnce reads over one link. The first read of a file also walks to it and
// opens it, in the same exchange.
func (t *tree) readOnce(ctx context.Context, l *link, n *node, p []byte, off int64) (int, error) {
	for {
		r, mine := t.take(n, fidOpen, l.epoch)
		if mine {
			f, m, err := t.openRead(ctx, l, n, p, off)
			t.made(r, f, err)
			t.put(r)
			return m, err
		}
		err := await(ctx, r)
		if err == nil {
			m, err := r.file.ReadAt(ctx, p, off)
			t.put(r)
			return m, err
		}
		t.put(r)
		if !isContext(err) || ctx.Err() != nil {
			return 0, err
		}
	}
}

func (t *tree) openRead(ctx context.Context, l *link, n *node, p []byte, off int64) (*p9client.File, int, error) {
	if f := t.steal(n, l.epoch); f != nil {
		m, err := f.OpenReadAt(ctx, p, off)
		if err != nil {
			_ = f.Close() // only queues the clunk
			return nil, 0, err
		}
		return f, m, nil
	}
	from, names := t.base(n, l.epoch)
	start := l.root
	if from != nil {
		defer t.put(from)
		start = from.file
	}
	f, m, err := start.WalkOpenReadAt(ctx, p, off, names...)
	if err != nil {
		return nil, 0, t.known(n, err)
	}
	if err := t.same(n, f.QID()); err != nil {
		_ = f.Close() // only queues the clunk
		return nil, 0, err
	}
	return f, m, nil
}
