package mount

import (
	"hash/maphash"
	"sync"

	"github.com/nineply/nineply/internal/p9client"
)

// rootNode is FUSE's number for the root.
const rootNode = 1

// The two kinds of fid a node may hold.
const (
	fidWalk = iota // can be walked from
	fidOpen        // can be read
	fidKinds
)

// node is a file the kernel knows. Fields above the line never change.
type node struct {
	id     uint64 // FUSE's number
	path   uint64 // the server's, also the inode number
	typ    uint8  // type bits of the qid
	mode   uint32
	size   int64
	parent *node // nil for the root
	name   string

	// guarded by table.mu
	lookups uint64 // references the kernel holds
	kids    uint64 // nodes that have this one as parent
	fids    [fidKinds]*fidRef
	xattrs  *xattrNames // nil: not known yet
	names   *nameSet    // of a directory that was listed
	misses  uint8       // names asked for that a directory does not have
}

// fidRef is a fid a node holds, or is getting. The first to want it makes it;
// the others wait for ready.
type fidRef struct {
	n     *node
	kind  int
	epoch uint64
	ready chan struct{}
	file  *p9client.File // set, or err is, when ready is closed
	err   error

	// guarded by table.mu
	users      int
	dropped    bool // no longer the node's; closed by its last user
	prev, next *fidRef
}

// table holds the nodes and their fids. Idle fids form a list, most recently
// used first, and those beyond the limit are given up: a node is reached again
// by walking the names that lead to it.
type table struct {
	mu    sync.Mutex
	nodes map[uint64]*node
	root  *node
	limit int // of fids
	count int // fids held, idle or not
	idle  fidRef

	done   chan struct{} // closed: fids that are ready from the start share it
	absent absences
	bare   *xattrNames // shared by all nodes without extended attributes
}

func newTable(root p9client.QID, limit int) *table {
	t := &table{nodes: make(map[uint64]*node), limit: limit, bare: &xattrNames{}, done: make(chan struct{})}
	close(t.done)
	t.absent.seed = maphash.MakeSeed()
	t.idle.prev, t.idle.next = &t.idle, &t.idle
	t.root = &node{id: rootNode, path: root.Path, typ: root.Type, lookups: 1}
	t.nodes[rootNode] = t.root
	return t
}

// number maps the server's node to FUSE's: they are the same, but that the
// root has to be 1. Where the root has another path, the two change places.
// ok is false for numbers FUSE cannot express.
func (t *table) number(path uint64) (id uint64, ok bool) {
	switch path {
	case t.root.path:
		return rootNode, true
	case rootNode:
		path = t.root.path
	}
	return path, path != 0 && path != ^uint64(0)
}

// get finds a node the kernel names.
func (t *table) get(id uint64) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nodes[id]
}

// refer counts one more reference of the kernel to the node that name in dir
// turned out to be, making the node if need be. bare says that it has no
// extended attributes for sure. nil means the server says two things about one
// node.
func (t *table) refer(dir *node, name string, a *p9client.Attr, bare bool) *node {
	id, ok := t.number(a.QID.Path)
	if !ok {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil {
		n = &node{
			id: id, path: a.QID.Path, typ: a.QID.Type, mode: a.Mode, size: int64(a.Size),
			parent: dir, name: name,
		}
		t.nodes[id] = n
		dir.kids++
	} else if n.typ != a.QID.Type {
		return nil
	}
	if bare && n.xattrs == nil {
		n.xattrs = t.bare
	}
	n.lookups++
	return n
}

// forget takes references of the kernel back. A node without any, and without
// children that need it to be found again, is gone.
func (t *table) forget(id, count uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[id]
	if n == nil || n == t.root {
		return
	}
	n.lookups -= min(count, n.lookups)
	for n != t.root && n.lookups == 0 && n.kids == 0 {
		delete(t.nodes, n.id)
		for _, r := range n.fids {
			t.dropLocked(r)
		}
		t.absent.drop(n)
		n = n.parent
		n.kids--
	}
}

// size is how many nodes and fids there are.
func (t *table) size() (nodes, fids int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.nodes), t.count
}

// take returns n's fid of a kind for the caller to use, until put. mine is
// true if the caller has to make it, and then to call made.
func (t *table) take(n *node, kind int, epoch uint64) (r *fidRef, mine bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r = n.fids[kind]
	if r != nil && r.epoch != epoch {
		t.dropLocked(r)
		r = nil
	}
	if r == nil {
		r = &fidRef{n: n, kind: kind, epoch: epoch, ready: make(chan struct{})}
		n.fids[kind] = r
		t.count++
		mine = true
	}
	t.useLocked(r)
	return r, mine
}

// takeReady returns n's fid of a kind if there is one in working order.
func (t *table) takeReady(n *node, kind int, epoch uint64) *fidRef {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.takeReadyLocked(n, kind, epoch)
}

func (t *table) takeReadyLocked(n *node, kind int, epoch uint64) *fidRef {
	r := n.fids[kind]
	if r == nil || r.epoch != epoch {
		return nil
	}
	select {
	case <-r.ready:
	default:
		return nil
	}
	if r.err != nil {
		return nil
	}
	t.useLocked(r)
	return r
}

func (t *table) useLocked(r *fidRef) {
	if r.users == 0 && r.next != nil {
		r.unlink()
	}
	r.users++
}

func (r *fidRef) unlink() {
	r.prev.next, r.next.prev = r.next, r.prev
	r.prev, r.next = nil, nil
}

// put ends a use. The fid becomes idle, or is closed if nobody may use it any
// more; idle fids beyond the limit are closed.
func (t *table) put(r *fidRef) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.users--
	if r.users > 0 {
		return
	}
	if r.dropped {
		r.shut()
		return
	}
	r.prev, r.next = &t.idle, t.idle.next
	r.prev.next, r.next.prev = r, r
	for t.count > t.limit && t.idle.prev != &t.idle {
		t.dropLocked(t.idle.prev)
	}
}

// shut closes the file; its fid number goes back to the client.
func (r *fidRef) shut() {
	if r.file != nil {
		_ = r.file.Close() // only queues the clunk
	}
}

// dropLocked takes a fid away from its node.
func (t *table) dropLocked(r *fidRef) {
	if r == nil || r.dropped {
		return
	}
	r.dropped = true
	r.n.fids[r.kind] = nil
	t.count--
	if r.users == 0 {
		r.unlink()
		r.shut()
	}
}

// made tells those who wait for r how making it went. A failed one is dropped,
// so that the next taker tries again.
func (t *table) made(r *fidRef, f *p9client.File, err error) {
	r.file, r.err = f, err
	close(r.ready)
	if err != nil {
		t.mu.Lock()
		t.dropLocked(r)
		t.mu.Unlock()
	}
}

// adopt gives n a fid that is at hand, unless it has one.
func (t *table) adopt(n *node, kind int, f *p9client.File, epoch uint64) {
	t.mu.Lock()
	r := n.fids[kind]
	if r != nil && r.epoch != epoch {
		t.dropLocked(r)
		r = nil
	}
	if r != nil {
		t.mu.Unlock()
		_ = f.Close() // only queues the clunk
		return
	}
	r = &fidRef{n: n, kind: kind, epoch: epoch, ready: t.done, file: f, users: 1}
	n.fids[kind] = r
	t.count++
	t.mu.Unlock()
	t.put(r)
}

// steal takes an idle fid that can be walked away from its node, to be opened.
func (t *table) steal(n *node, epoch uint64) *p9client.File {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := n.fids[fidWalk]
	if r == nil || r.epoch != epoch || r.users > 0 || r.file == nil {
		return nil
	}
	f := r.file
	r.file = nil
	t.dropLocked(r)
	return f
}

// base finds where to walk from to reach n: the nearest ancestor with a fid,
// and the names from there. nil is the root of the connection.
func (t *table) base(n *node, epoch uint64) (*fidRef, []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	depth := 0
	var from *fidRef
	m := n
	for ; m.parent != nil; m = m.parent {
		if m != n {
			if from = t.takeReadyLocked(m, fidWalk, epoch); from != nil {
				break
			}
		}
		depth++
	}
	names := make([]string, depth)
	for m := n; depth > 0; m = m.parent {
		depth--
		names[depth] = m.name
	}
	return from, names
}

// dropAll gives up every idle fid; those in use go when their users see that
// the connection is gone.
func (t *table) dropAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.idle.next != &t.idle {
		t.dropLocked(t.idle.next)
	}
}
