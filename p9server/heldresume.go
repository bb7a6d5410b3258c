package p9server

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
)

// resume goes on with what a predecessor left, or begins.
func (c *conn) resume() error {
	l := c.ledger
	if l == nil {
		return nil
	}
	s := l.state
	l.state = nil
	if s == nil {
		l.begun()
		return nil
	}
	l.current, l.rec = s.current, s.rec
	l.limit = max(logMin, 2*l.rec.length)
	c.inStart, c.inEnd, c.in = int(s.rec.start), s.received, l.in(s.rec.in)
	c.skip, c.msize = int(s.rec.skip), s.rec.msize
	c.skipReceived()
	l.quiet = true
	if c.msize != 0 {
		c.greet()
	}
	c.wmu.Lock()
	c.resend(s)
	err := c.writeErr
	c.wmu.Unlock()
	if err != nil {
		return err
	}
	slots := c.attachAgain(s.trees)
	c.fidsAgain(s, slots)
	c.requestsAgain(s, slots)
	for _, slot := range slots {
		c.dropUnused(slot)
	}
	l.quiet = false
	return nil
}

// resend sends what a predecessor did not.
func (c *conn) resend(s *ledgerState) {
	if s.sent < int(s.rec.end) {
		c.send(s.rec.out, s.sent, int(s.rec.end))
	}
}

// attachAgain gives the slots of the trees.
func (c *conn) attachAgain(trees map[uint32]heldTree) map[uint32]uint16 {
	slots := map[uint32]uint16{}
	for _, id := range slices.Sorted(maps.Keys(trees)) {
		at := c.sameTree(id, trees[id])
		slots[id] = uint16(len(c.attaches))
		c.attaches = append(c.attaches, at)
		c.attachCount++
		c.srv.stats.attaches.Add(1)
		c.count.aname.Store(&at.aname)
	}
	return slots
}

// sameTree attaches a tree, which must be the one it was.
func (c *conn) sameTree(id uint32, h heldTree) *attach {
	tree, release, err := c.attachPatiently(h.aname)
	if err == nil {
		if fsid := tree.Statfs().FSID; fsid != h.fsid {
			err = fserr.Newf(fserr.Corrupt, "attach again", h.aname, "it is tree %#x, and was %#x", fsid, h.fsid)
			if release != nil {
				release()
			}
		}
	}
	if err != nil {
		c.srv.opts.Logger.Error("9P session goes on without a tree", zap.String("aname", h.aname), zap.Error(err))
		tree, release = goneTree{}, nil
	}
	at := &attach{tree: tree, version: versionOf(h.fsid), release: release, aname: h.aname, fsid: h.fsid}
	at.id = id
	at.holds.Store(1)
	return at
}

// attachPatiently attaches, and tries again while that may help.
func (c *conn) attachPatiently(aname string) (Tree, func(), error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.srv.opts.AttachTimeout)
	defer cancel()
	const minPause, maxPause = 20 * time.Millisecond, 2 * time.Second
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		tree, release, err := c.srv.exporter.Attach(ctx, aname)
		if err == nil || fserr.KindOf(err) != fserr.Unavailable {
			return tree, release, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, nil, err
		}
	}
}

// fidsAgain makes the fids. A node that is not what it was makes its fid one of no
// tree.
func (c *conn) fidsAgain(s *ledgerState, slots map[uint32]uint16) {
	gone := -1
	for _, h := range s.fids {
		f := h.fid
		f.slot = slots[h.tree]
		if err := c.checkAgain(&f, h.name); err != nil {
			c.srv.opts.Logger.Error("9P session goes on without a node", zap.Uint64("node", f.node), zap.Error(err))
			if gone < 0 {
				gone = c.goneSlot(h.tree, s.trees[h.tree])
			}
			f.slot = uint16(gone)
		}
		if f.state == fidXattr {
			c.ledger.names[f.id] = h.name
		}
		c.putFID(f)
	}
}

// goneSlot makes an attach of no tree, as deep as tree's number and name go.
func (c *conn) goneSlot(id uint32, h heldTree) int {
	at := &attach{tree: goneTree{}, version: versionOf(h.fsid), aname: h.aname, fsid: h.fsid, id: id}
	at.holds.Store(1)
	c.attaches = append(c.attaches, at)
	c.attachCount++
	c.srv.stats.attaches.Add(1)
	return len(c.attaches) - 1
}

// checkAgain finds again what f names, and compares.
func (c *conn) checkAgain(f *fid, name string) error {
	tree := c.tree(f)
	if _, gone := tree.(goneTree); gone {
		return nil
	}
	a, err := tree.Attr(f.node)
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	size := a.Size
	switch f.state {
	case fidWalked:
		size = f.size
	case fidXattr:
		value, err := tree.Xattr(f.node, []byte(name))
		if err != nil {
			return fmt.Errorf("attribute: %w", err)
		}
		c.values[f.id] = value
		size = uint64(len(value))
	case fidXattrList:
		n, err := c.names.measure(tree, f.node)
		if err != nil {
			return fmt.Errorf("attributes: %w", err)
		}
		size = uint64(n)
	}
	if uint8(a.Mode>>12) != f.kind || size != f.size {
		return fserr.Newf(fserr.Corrupt, "find again", "node", "mode %o, %d bytes", a.Mode, size)
	}
	return nil
}

// requestsAgain starts what waited.
func (c *conn) requestsAgain(s *ledgerState, slots map[uint32]uint16) {
	list := slices.SortedFunc(maps.Values(s.waiting), func(a, b heldRequest) int { return cmp.Compare(a.id, b.id) })
	for _, h := range list {
		r := &request{tag: uint16(h.id)}
		timeout := c.srv.opts.ReadTimeout
		if h.kind == entryAttach {
			r.fid, r.aname = h.n, h.aname
			timeout = c.srv.opts.AttachTimeout
			if c.fids.get(r.fid) == nil {
				c.attachCount++
				c.fids.put(fid{id: r.fid, state: fidAttaching})
				c.tally.fids++
			}
		} else {
			r.at, r.node, r.off, r.n = c.hold(c.attaches[slots[h.tree]]), h.node, int64(h.size), int(h.n)
		}
		c.start(r, timeout)
	}
}

// dropUnused gives up a tree that has no fid: a read that waits holds it by itself.
func (c *conn) dropUnused(slot uint16) {
	if at := c.attaches[slot]; at.fids == 0 {
		c.attaches[slot] = nil
		c.attachCount--
		c.unhold(at)
	}
}

// goneTree stands for a tree that is not there any more: EIO.
type goneTree struct{}

var errGoneTree = fserr.New(fserr.Corrupt, "use", "tree that has changed", nil)

func (goneTree) Root() uint64                          { return 1 }
func (goneTree) Lookup(uint64, []byte) (uint64, error) { return 0, errGoneTree }
func (goneTree) Attr(uint64) (layerindex.Attr, error)  { return layerindex.Attr{}, errGoneTree }
func (goneTree) Parent(uint64) (uint64, error)         { return 0, errGoneTree }
func (goneTree) Readdir(uint64, uint64) (layerindex.Dirent, uint64, bool, error) {
	return layerindex.Dirent{}, 0, false, errGoneTree
}
func (goneTree) Readlink(uint64) ([]byte, error)                    { return nil, errGoneTree }
func (goneTree) Xattr(uint64, []byte) ([]byte, error)               { return nil, errGoneTree }
func (goneTree) XattrNames(uint64, func([]byte) bool) error         { return errGoneTree }
func (goneTree) TryReadAt(uint64, []byte, int64) (int, bool, error) { return 0, false, errGoneTree }
func (goneTree) ReadAt(context.Context, uint64, []byte, int64) (int, error) {
	return 0, errGoneTree
}
func (goneTree) Statfs() Statfs { return Statfs{} }
