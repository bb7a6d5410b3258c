package mount

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/nineply/nineply/internal/p9client"
)

// Numbers the client does not use: Linux counts fids up from 0.
const (
	scratchFid = 0xF0000000 // and up: to reach attributes from
	privateFid = 0xFFFF0000 // and up: one per attachment
)

// replayBatch is how many requests of a replay are outstanding at once.
const replayBatch = 256

func (r *relay) inOrderLocked() []*request {
	out := make([]*request, 0, len(r.pending))
	for _, q := range r.pending {
		out = append(out, q)
	}
	slices.SortFunc(out, func(a, b *request) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	return out
}

// reconnect finds a server and makes the client's fids on it. nil means ctx
// ended.
func (r *relay) reconnect(ctx context.Context, pause time.Duration) net.Conn {
	said := ""
	for ; ; pause = nextPause(pause) {
		if !sleep(ctx, pause) {
			return nil
		}
		conn, err := r.connect(ctx)
		if err == nil {
			r.log.Info("connected again", zap.String("aname", r.opts.Aname), zap.Int("fids", r.size()))
			r.kick()
			return conn
		}
		if errors.Is(err, p9client.ErrNoRedial) {
			r.log.Error("the server is gone for good", zap.String("aname", r.opts.Aname), zap.Error(err))
			r.giveUp()
			return nil
		}
		if why := err.Error(); why != said {
			said = why
			r.log.Warn("server not back yet", zap.String("aname", r.opts.Aname), zap.Error(err))
		}
	}
}

func (r *relay) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := r.opts.Dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	p := &replay{conn: conn, br: bufio.NewReader(conn), tags: make(map[uint16]wish), stale: make(map[uint32]bool)}
	err = p.all(r)
	if err == nil && !stop() {
		err = ctx.Err() // the deadline may have been set
	}
	if err == nil {
		err = p.handOver(r)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// wish is what a request of the replay has to lead to.
type wish struct {
	fid  uint32    // the client's, noFid for none
	want *relayFid // its node is checked if the request is the last walk
	last bool
	any  bool // errors do not matter
}

// replay brings a fresh connection to where the last one was.
type replay struct {
	conn  net.Conn
	br    *bufio.Reader
	next  uint16
	out   []byte
	tags  map[uint16]wish
	made  map[uint32]*relayFid // what the server has of the client's
	stale map[uint32]bool      // fids whose node is not what it was
}

func (p *replay) all(r *relay) error {
	r.mu.Lock()
	msize := r.msize
	fids := make(map[uint32]*relayFid, len(r.fids))
	for n, f := range r.fids {
		if !f.stale {
			fids[n] = f
		}
	}
	r.mu.Unlock()
	if msize == 0 {
		return nil // the client has not said Tversion yet
	}
	if err := p.version(msize); err != nil {
		return err
	}
	roots, err := p.attach(fids)
	if err != nil {
		return err
	}
	if err := p.remake(fids, roots); err != nil {
		return err
	}
	for _, root := range roots {
		if err := p.send(wish{fid: noFid}, build(msgClunk, 0, root)); err != nil {
			return err
		}
	}
	if err := p.settle(0); err != nil {
		return err
	}
	r.noteStale(fids, p.stale)
	p.made = fids
	return p.clunk(slices.Collect(maps.Keys(p.stale)))
}

// clunk gives up fids on the server, as far as it has them.
func (p *replay) clunk(fids []uint32) error {
	for _, n := range fids {
		if err := p.send(wish{fid: n, want: p.made[n]}, build(msgClunk, 0, n)); err != nil {
			return err
		}
		delete(p.made, n)
	}
	return p.settle(0)
}

// handOver makes the connection the relay's, once the server has no fid that
// the client clunked in the meantime.
func (p *replay) handOver(r *relay) error {
	for {
		r.mu.Lock()
		var gone []uint32
		for n := range p.made {
			if r.fids[n] == nil {
				gone = append(gone, n)
			}
		}
		if len(gone) == 0 {
			r.adoptLocked(p.conn)
			r.mu.Unlock()
			return nil
		}
		r.mu.Unlock()
		if err := p.clunk(gone); err != nil {
			return err
		}
	}
}

// noteStale marks fids that are other nodes now; requests about them fail.
func (r *relay) noteStale(was map[uint32]*relayFid, stale map[uint32]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := range stale {
		if r.fids[n] != was[n] {
			continue // clunked meanwhile
		}
		bad := *was[n]
		bad.stale = true
		r.fids[n] = &bad
		r.stale.Add(1)
		r.log.Error("the server's tree changed under the mount", zap.String("aname", r.opts.Aname),
			zap.Strings("path", bad.at.names()), zap.Uint64("want", bad.qid.Path))
	}
}

func (p *replay) version(msize uint32) error {
	if _, err := p.conn.Write(build(msgVersion, noTag, msize, "9P2000.L")); err != nil {
		return err
	}
	f, err := readFrame(p.br, nil, maxMessage)
	if err != nil {
		return err
	}
	b := f.body()
	got, ver := b.u32(), b.str()
	if f.typ() != msgVersion+1 || ver != "9P2000.L" || got < msize {
		return fmt.Errorf("server now offers %q with %d byte messages, the client uses %d", ver, got, msize)
	}
	return nil
}

// attach makes one fid for every distinct attach of the client, to walk from.
func (p *replay) attach(fids map[uint32]*relayFid) (map[attachment]uint32, error) {
	roots := make(map[attachment]uint32)
	for _, f := range fids {
		at := *f.at.at
		if _, ok := roots[at]; ok {
			continue
		}
		root := uint32(privateFid + len(roots))
		roots[at] = root
		attach := build(msgAttach, 0, root, uint32(noFid), at.uname, at.aname, at.uid)
		if err := p.send(wish{fid: noFid}, attach); err != nil {
			return nil, err
		}
		// One at a time: an attach decides whether there is any point.
		if err := p.settle(0); err != nil {
			return nil, fmt.Errorf("attach %q: %w", at.aname, err)
		}
	}
	return roots, nil
}

// step is one request of several that make a fid again, its tag open.
type step struct {
	w wish
	f frame
}

// remake makes all fids again, in rounds: a server may handle requests it has
// at the same time in any order, so what builds on a request is sent only when
// that is answered. Few fids need more than two rounds.
func (p *replay) remake(fids map[uint32]*relayFid, roots map[attachment]uint32) error {
	todo := make([][]step, 0, len(fids))
	scratch := uint32(scratchFid)
	for n, f := range fids {
		to := n
		if f.xattr {
			to = scratch
			scratch++
		}
		todo = append(todo, stepsTo(roots[*f.at.at], to, n, f))
	}
	for len(todo) > 0 {
		left := todo[:0]
		for _, steps := range todo {
			if err := p.send(steps[0].w, steps[0].f); err != nil {
				return err
			}
			if len(steps) > 1 {
				left = append(left, steps[1:])
			}
		}
		if err := p.settle(0); err != nil {
			return err
		}
		todo = left
	}
	return nil
}

// stepsTo lists what makes the client's fid n, by way of fid to, from the root
// of its attach.
func stepsTo(root, to, n uint32, f *relayFid) []step {
	var steps []step
	names := f.at.names()
	for from := root; from == root || len(names) > 0; from = to {
		part := names[:min(len(names), maxNames)]
		names = names[len(part):]
		args := []any{from, to, uint16(len(part))}
		for _, name := range part {
			args = append(args, name)
		}
		steps = append(steps, step{wish{fid: n, want: f, last: len(names) == 0}, build(msgWalk, 0, args...)})
	}
	switch {
	case f.xattr:
		steps = append(steps,
			step{wish{fid: n, want: f}, build(msgXattrWalk, 0, to, n, f.name)},
			step{wish{fid: noFid, any: true}, build(msgClunk, 0, to)})
	case f.open:
		steps = append(steps, step{wish{fid: n, want: f}, build(msgOpen, 0, n, f.flags)})
	}
	return steps
}

// send queues one request and keeps the number outstanding bounded.
func (p *replay) send(w wish, f frame) error {
	if len(p.tags) >= replayBatch {
		if err := p.settle(replayBatch / 2); err != nil {
			return err
		}
	}
	for {
		if _, taken := p.tags[p.next]; !taken && p.next != noTag {
			break
		}
		p.next++
	}
	p.tags[p.next] = w
	f.setTag(p.next)
	p.out = append(p.out, f...)
	p.next++
	return nil
}

// settle writes what is queued and reads replies until at most left are
// outstanding.
func (p *replay) settle(left int) error {
	if len(p.out) > 0 {
		if _, err := p.conn.Write(p.out); err != nil {
			return err
		}
		p.out = p.out[:0]
	}
	var buf []byte
	for len(p.tags) > left {
		f, err := readFrame(p.br, buf, maxMessage)
		if err != nil {
			return err
		}
		buf = f
		if err := p.check(f); err != nil {
			return err
		}
	}
	return nil
}

// check compares a reply with what it should be. A node that is not there, or
// is another, makes its fid stale; without an attach nothing can be done.
func (p *replay) check(f frame) error {
	w, ok := p.tags[f.tag()]
	if !ok {
		return fmt.Errorf("reply %d with unused tag %d", f.typ(), f.tag())
	}
	delete(p.tags, f.tag())
	b := f.body()
	if f.typ() == msgError {
		e := syscall.Errno(b.u32())
		if w.any {
			return nil
		}
		if w.want == nil || transient(e) {
			return e
		}
		p.stale[w.fid] = true
		return nil
	}
	if f.typ() != msgWalk+1 || !w.last {
		return nil
	}
	q := w.want.qid
	for n := b.u16(); n > 0; n-- {
		q = b.qid()
	}
	if q != w.want.qid {
		p.stale[w.fid] = true
	}
	return nil
}

// transient tells errors that say nothing about a node, only about a server
// that is just now not able to look at it.
func transient(e syscall.Errno) bool {
	switch e {
	case syscall.EINTR, syscall.ECANCELED, syscall.EAGAIN, syscall.EIO, syscall.ENOMEM:
		return true
	}
	return false
}
