package p9server

import (
	"encoding/binary"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nineply/nineply/layerindex"
)

// attach is a tree that fids of one connection refer to.
type attach struct {
	tree    Tree
	version uint32 // of all its qids
	release func()
	// For a ledger: a number, and what it takes to attach the same tree again.
	id    uint32
	aname string
	fsid  uint64
	// fids counts the fids that refer to it; the read loop's own.
	fids int
	// holds counts the read loop (while fids > 0) and each read under way.
	holds atomic.Int32
}

// attachResult is the outcome of an attach, on its way to the read loop: at is
// nil if it failed.
type attachResult struct {
	fid  uint32
	kind uint8
	root uint64
	at   *attach
}

// maxAttaches bounds the attaches of one connection that are in use at once. A
// Linux client attaches once per user.
const maxAttaches = 4096

// hold keeps a tree for a read that leaves the read loop.
func (c *conn) hold(at *attach) *attach {
	at.holds.Add(1)
	return at
}

// unhold gives up one hold; the last one releases the tree.
func (c *conn) unhold(at *attach) {
	if at.holds.Add(-1) == 0 {
		c.srv.stats.attaches.Add(-1)
		if at.release != nil {
			at.release()
		}
	}
}

// tree gives the tree of a fid.
func (c *conn) tree(f *fid) Tree { return c.attaches[f.slot].tree }

// qidVersion is that of the qids of f's tree.
func (c *conn) qidVersion(f *fid) uint32 { return c.attaches[f.slot].version }

// versionOf makes the version of a tree's qids from its file system ID: a client
// that attaches again after a restart can tell whether it has the same tree. It
// is never 0: Linux since 6.4 does not cache what has version 0.
func versionOf(id uint64) uint32 {
	return max(1, uint32(id)^uint32(id>>32))
}

// putFID stores a walked or xattr fid of the attach in f.slot.
func (c *conn) putFID(f fid) {
	c.fids.put(f)
	c.tally.fids++
	c.attaches[f.slot].fids++
	if c.ledger != nil {
		c.ledger.noteFID(c.attaches[f.slot], f)
	}
}

// dropFID forgets a fid, and the attach with its last one. false if there was
// no such fid.
func (c *conn) dropFID(id uint32) bool {
	f, ok := c.fids.remove(id)
	if !ok {
		return false
	}
	c.tally.fids--
	if c.ledger != nil && f.state != fidAttaching {
		c.ledger.note(ledgerEntry{kind: entryDrop, id: id})
	}
	c.unlink(f)
	return true
}

// unlink gives up what an entry taken out of the table referred to.
func (c *conn) unlink(f fid) {
	if f.state == fidAttaching {
		c.attachCount--
		return
	}
	if f.state == fidXattr {
		delete(c.values, f.id)
		if c.ledger != nil {
			delete(c.ledger.names, f.id)
		}
	}
	at := c.attaches[f.slot]
	if at.fids--; at.fids == 0 {
		c.attaches[f.slot] = nil
		c.attachCount--
		c.unhold(at)
	}
}

// dropFIDs forgets all of them.
func (c *conn) dropFIDs() {
	if c.ledger != nil {
		c.ledger.note(ledgerEntry{kind: entryClear})
	}
	c.tally.fids -= int64(c.fids.count)
	c.fids.each(c.unlink)
	c.fids.clear()
}

// sendBufferFrom is the msize from which on the default send buffer of a socket,
// 208 KiB with its overhead, holds up replies.
const sendBufferFrom = 64 << 10

// greet makes the connection ready for the session to come.
func (c *conn) greet() {
	if !c.greeted {
		c.greeted = true
		c.readBy(time.Time{})
	}
	if c.msize > sendBufferFrom {
		setSendBuffer(c.nc, 2*int(c.msize)) // one reply on its way, one behind it
	}
}

// version answers Tversion: the start of a session, which also ends the one
// before with all its fids and requests.
func (c *conn) version(tag uint16, d *decoder) syscall.Errno {
	msize, version := d.u32(), d.str()
	if d.bad {
		return syscall.EINVAL
	}
	c.flushAll()
	c.installAttached()
	c.dropFIDs()
	c.msize = 0
	answer := version9P
	switch {
	case !validVersion(version):
		answer = "unknown"
	case msize < minMsize:
		return syscall.EMSGSIZE
	default:
		msize = min(msize, c.srv.opts.MaxMessageSize)
		c.msize = msize
		c.greet()
	}
	c.begin(tag, tversion+1, 4+2+len(answer))
	c.out.b = binary.LittleEndian.AppendUint32(c.out.b, min(msize, c.srv.opts.MaxMessageSize))
	c.out.b = appendString(c.out.b, answer)
	c.end()
	return 0
}

// attach starts a Tattach: finding the tree may take a network round trip, so
// the fid is reserved and the read loop goes on.
func (c *conn) attach(tag uint16, d *decoder) syscall.Errno {
	id, afid := d.u32(), d.u32()
	d.str() // uname: who may have what is decided by connection
	aname := d.str()
	d.u32() // n_uname
	switch {
	case d.bad:
		return syscall.EINVAL
	case afid != noFID:
		return syscall.EBADF
	}
	if errno := c.checkNewFID(id); errno != 0 {
		return errno
	}
	if c.attachCount >= maxAttaches {
		return syscall.EMFILE
	}
	c.attachCount++
	c.fids.put(fid{id: id, state: fidAttaching})
	c.tally.fids++
	c.start(&request{tag: tag, fid: id, aname: string(aname)}, c.srv.opts.AttachTimeout)
	return errDeferred
}

// checkNewFID tells whether id can name something new.
func (c *conn) checkNewFID(id uint32) syscall.Errno {
	switch {
	case id == noFID, c.fids.get(id) != nil:
		return syscall.EINVAL
	case c.fids.count >= c.srv.opts.MaxFIDs:
		return syscall.EMFILE
	}
	return 0
}

// runAttach asks the exporter and answers.
func (c *conn) runAttach(r *request) {
	if !c.isLive(r) {
		return
	}
	if c.srv.reads.Acquire(r.ctx, 1) != nil {
		return
	}
	tree, release, err := c.srv.exporter.Attach(r.ctx, r.aname)
	c.srv.reads.Release(1)
	if err != nil {
		c.answerError(r, errnoOf(err))
		return
	}
	id := tree.Statfs().FSID
	at := &attach{tree: tree, version: versionOf(id), release: release, aname: r.aname, fsid: id}
	at.holds.Store(1)
	c.srv.stats.attaches.Add(1)
	root := tree.Root()
	attr, err := tree.Attr(root)
	if err != nil {
		c.unhold(at)
		c.answerError(r, errnoOf(err))
		return
	}
	if !c.answerAttach(r, at, &attr) {
		c.unhold(at)
	}
}

// answerAttach hands the tree to the read loop, then tells the client.
func (c *conn) answerAttach(r *request, at *attach, root *layerindex.Attr) bool {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if !c.claim(r, attachResult{fid: r.fid, kind: uint8(root.Mode >> 12), root: at.tree.Root(), at: at}) {
		return false
	}
	var frame [headerSize + 13]byte
	b := append(frame[:0], byte(len(frame)), 0, 0, 0, tattach+1, byte(r.tag), byte(r.tag>>8))
	c.write(appendQid(b, at.version, qidTypeOf(root.Mode), at.tree.Root()))
	return true
}

// installAttached takes over what finished attaches left for the read loop.
func (c *conn) installAttached() {
	c.mu.Lock()
	results := c.attached
	c.attached = nil
	c.hasAttached.Store(false)
	c.mu.Unlock()
	for _, res := range results {
		c.dropFID(res.fid) // the reservation
		if res.at != nil {
			c.install(res)
		}
	}
}

func (c *conn) install(res attachResult) {
	slot := c.freeSlot()
	if slot < 0 {
		slot = len(c.attaches)
		c.attaches = append(c.attaches, nil)
	}
	c.attaches[slot] = res.at
	c.attachCount++
	c.putFID(fid{id: res.fid, node: res.root, kind: res.kind, slot: uint16(slot), state: fidWalked})
}

// freeSlot finds an unused place in attaches, -1 if there is none.
func (c *conn) freeSlot() int {
	for i, at := range c.attaches {
		if at == nil {
			return i
		}
	}
	return -1
}

// flushRequest answers Tflush at once: the request it names is given up, and if
// it has been answered already, that reply has been written before.
func (c *conn) flushRequest(tag uint16, d *decoder) syscall.Errno {
	old := d.u16()
	if d.bad {
		return syscall.EINVAL
	}
	c.flushTag(old)
	return c.replyEmpty(tag, tflush+1)
}

// clunk answers Tclunk.
func (c *conn) clunk(tag uint16, d *decoder) syscall.Errno {
	id := d.u32()
	switch {
	case d.bad:
		return syscall.EINVAL
	case !c.dropUsable(id):
		return syscall.EBADF
	}
	return c.replyEmpty(tag, tclunk+1)
}

// dropUsable is dropFID for a client's request: an attach under way keeps its
// fid.
func (c *conn) dropUsable(id uint32) bool {
	return c.usable(id) != nil && c.dropFID(id)
}

// usable finds a fid that requests may refer to.
func (c *conn) usable(id uint32) *fid {
	if f := c.fids.get(id); f != nil && f.state != fidAttaching {
		return f
	}
	return nil
}

// node finds a fid that names a file of the tree, walked or open.
func (c *conn) node(id uint32) (*fid, syscall.Errno) {
	f := c.usable(id)
	switch {
	case f == nil:
		return nil, syscall.EBADF
	case f.state != fidWalked && f.state != fidOpen:
		return nil, syscall.EINVAL
	}
	return f, 0
}
