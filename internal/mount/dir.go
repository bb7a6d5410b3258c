package mount

import (
	"context"

	"github.com/nineply/nineply/internal/p9client"
)

// dirFid takes an open fid of a directory.
func (t *tree) dirFid(ctx context.Context, l *link, n *node) (*fidRef, error) {
	for {
		r, mine := t.take(n, fidOpen, l.epoch)
		if mine {
			f, err := t.openDir(ctx, l, n)
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
	}
}

func (t *tree) openDir(ctx context.Context, l *link, n *node) (*p9client.File, error) {
	from, names := t.takeReady(n, fidWalk, l.epoch), []string(nil)
	if from == nil {
		from, names = t.base(n, l.epoch)
	}
	start := l.root
	if from != nil {
		defer t.put(from)
		start = from.file
	}
	f, err := start.WalkOpen(ctx, names...)
	if err != nil {
		return nil, t.known(n, err)
	}
	if err := t.same(n, f.QID()); err != nil {
		_ = f.Close() // only queues the clunk
		return nil, err
	}
	return f, nil
}

// readdir reads entries from the cookie off on.
func (t *tree) readdir(ctx context.Context, n *node, off uint64, buf []byte) (ents []p9client.Dirent, err error) {
	err = t.s.do(ctx, func(l *link) error {
		r, err := t.dirFid(ctx, l, n)
		if err != nil {
			return err
		}
		defer t.put(r)
		ents, err = r.file.ReadDir(ctx, off, buf, ents[:0])
		return err
	})
	return ents, err
}

// statEntries gives the attributes of names in dir, all asked for at once. An
// entry that cannot be had has its own error.
func (t *tree) statEntries(ctx context.Context, dir *node, names []string) (out []p9client.StatResult, err error) {
	err = t.s.do(ctx, func(l *link) error {
		r, err := t.walkFid(ctx, l, dir)
		if err != nil {
			return err
		}
		defer t.put(r)
		out, err = r.file.StatAll(ctx, names, out[:0])
		return err
	})
	return out, err
}
