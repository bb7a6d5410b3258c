package p9client

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// pipeline is a few requests sent together, each of which needs the ones
// before it to succeed. The first failure is the pipeline's.
type pipeline struct {
	c     *Client
	steps []step
	made  *File // the file the first step makes, if it is a walk
	via   *File // where a long walk goes on from
	err   error
	lost  bool // a request was abandoned, its effect is unknown
	buf   [4]step
}

// step is one request of a pipeline and where its result goes.
type step struct {
	k     *call
	typ   uint8
	from  uint32   // walk: the starting fid
	f     *File    // the file made, asked about, opened or read
	names []string // walk
	attr  *Attr    // getattr
	bare  *bool    // xattrwalk: set if there are no attributes
	dst   []byte   // read
	off   int64
	n     *int // read: contiguous bytes so far; -n-1 once a read fell short
}

func (p *pipeline) add(s step) {
	if p.err != nil {
		return
	}
	if p.steps == nil {
		p.steps = p.buf[:0]
	}
	p.steps = append(p.steps, s)
}

// walk adds the message that brings a new fid to names under f. Names beyond
// what one message carries are walked first, one message after the other: a
// server that answers out of order would go astray otherwise.
func (p *pipeline) walk(ctx context.Context, f *File, names []string) *File {
	if p.err = checkNames(names); p.err != nil {
		return nil
	}
	for len(names) > maxWalk {
		leg := pipeline{c: p.c}
		next := leg.walk(ctx, f, names[:maxWalk])
		if p.err = leg.run(ctx); p.err != nil {
			p.drop()
			return nil
		}
		p.drop()
		p.via, f, names = next, next, names[maxWalk:]
	}
	to := &File{c: p.c, fid: p.c.newFid(), qid: f.qid}
	p.made = to
	p.add(step{typ: twalk, from: f.fid, f: to, names: names})
	return to
}

// drop closes the file a long walk last stood on.
func (p *pipeline) drop() {
	if p.via != nil {
		_ = p.via.Close() // only queues the clunk
		p.via = nil
	}
}

func (p *pipeline) stat(f *File, a *Attr) { p.add(step{typ: tgetattr, f: f, attr: a}) }

// bare asks whether f has no extended attributes. It is a question on the
// side: its failure is not the pipeline's.
func (p *pipeline) bare(f *File, bare *bool) { p.add(step{typ: txattrwalk, f: f, bare: bare}) }

func (p *pipeline) open(f *File) { p.add(step{typ: tlopen, f: f}) }

// read adds as many Treads as b needs.
func (p *pipeline) read(f *File, b []byte, off int64, n *int) {
	if p.err != nil {
		return
	}
	unit := int(p.c.msize - ioHeader)
	if f.iounit > 0 {
		unit = min(unit, int(f.iounit))
	}
	for {
		part := b[:min(len(b), unit)]
		p.add(step{typ: tread, f: f, dst: part, off: off, n: n})
		b, off = b[len(part):], off+int64(len(part))
		if len(b) == 0 {
			return
		}
	}
}

// build makes the step's request.
func (s *step) build() {
	k := s.f.c.newCall(s.typ)
	switch s.typ {
	case twalk:
		k.fid = s.f.fid
		k.req = put16(put32(put32(k.req, s.from), s.f.fid), uint16(len(s.names)))
		for _, n := range s.names {
			k.req = putString(k.req, n)
		}
	case tgetattr:
		k.req = put64(put32(k.req, s.f.fid), attrMask)
	case tlopen:
		k.req = put32(put32(k.req, s.f.fid), 0) // O_RDONLY
	case txattrwalk:
		k.fid = s.f.c.newFid()
		k.req = putString(put32(put32(k.req, s.f.fid), k.fid), "")
	case tread:
		k.data, k.dst = true, s.dst
		k.req = put32(put64(put32(k.req, s.f.fid), uint64(s.off)), uint32(len(s.dst)))
	}
	s.k = k
}

// parse takes the reply over. An errno is an answer; any other error is a
// reply that makes no sense.
func (s *step) parse() error {
	switch s.typ {
	case twalk:
		n, last, err := parseWalk(s.k.body, len(s.names))
		if err != nil {
			return err
		}
		if n < len(s.names) {
			return syscall.ENOENT
		}
		if n > 0 {
			s.f.qid = last
		}
	case tgetattr:
		return parseAttr(s.k.body, s.attr)
	case tlopen:
		q, iounit, err := parseOpen(s.k.body)
		if err != nil {
			return err
		}
		if q.Path != s.f.qid.Path || q.Type != s.f.qid.Type {
			return fmt.Errorf("node %#x opened as %#x", s.f.qid.Path, q.Path)
		}
		s.f.iounit = iounit
	case txattrwalk:
		size, err := parseSize(s.k.body)
		*s.bare = size == 0
		return err
	case tread:
		s.gotData()
	}
	return nil
}

// gotData counts the bytes up to the first reply that was not full; what comes
// after it cannot be used.
func (s *step) gotData() {
	if *s.n < 0 {
		return
	}
	*s.n += s.k.n
	if s.k.n < len(s.dst) {
		*s.n = -*s.n - 1
	}
}

// contiguous undoes the mark of gotData.
func contiguous(n int) int {
	if n < 0 {
		return -n - 1
	}
	return n
}

// run sends the steps and collects the replies.
func (p *pipeline) run(ctx context.Context) error {
	if p.err != nil {
		return p.err
	}
	sent := p.post(ctx)
	p.c.kick()
	return p.collect(ctx, sent)
}

// collect waits for the replies to the first sent steps.
func (p *pipeline) collect(ctx context.Context, sent int) error {
	var first error
	for i := range p.steps {
		s := &p.steps[i]
		if i >= sent {
			s.unsent()
			continue
		}
		err := p.reply(ctx, s)
		if s.typ == txattrwalk {
			if isErrno(err) {
				continue
			}
		} else if i == 0 {
			first = err
		} else if p.err == nil && isRace(err) {
			err = p.again(ctx, s)
		}
		p.note(err)
	}
	if p.err != nil && p.made != nil {
		p.unmake(sent, first)
	}
	p.drop()
	return p.err
}

func (p *pipeline) note(err error) {
	if err != nil && p.err == nil {
		p.err = err
	}
}

// unmake gives back the fid of a failed pipeline; first is how its walk ended.
func (p *pipeline) unmake(sent int, first error) {
	switch {
	case sent == 0:
		p.c.freeFid(p.made.fid)
	case first == nil:
		_ = p.made.Close() // only queues the clunk
	case isErrno(first) && !p.lost:
		p.c.freeFid(p.made.fid)
	case isErrno(first):
		// An abandoned request may still name the fid.
		p.c.clunkLater(p.made.fid)
	}
	// A walk abandoned itself: its Rflush frees the fid.
}

// post queues the steps in order and tells how many could be.
func (p *pipeline) post(ctx context.Context) int {
	for i := range p.steps {
		p.steps[i].build()
	}
	for i := range p.steps {
		if err := p.c.post(ctx.Done(), p.steps[i].k); err != nil {
			p.note(endCause(ctx, err))
			return i
		}
	}
	return len(p.steps)
}

// reply waits for one step's answer and takes it over.
func (p *pipeline) reply(ctx context.Context, s *step) error {
	owned, err := p.c.wait(ctx, s.k)
	if !owned {
		p.lost = true
		return err
	}
	if err == nil {
		if err = s.parse(); err != nil && !isErrno(err) {
			err = p.c.violation(s.typ, err)
		}
	}
	if s.typ == txattrwalk {
		s.endXattr(err)
	}
	s.k.recycle()
	return err
}

// endXattr gives the fid of the question on the side back.
func (s *step) endXattr(err error) {
	switch {
	case err == nil:
		s.f.c.clunkLater(s.k.fid)
	case isErrno(err):
		s.f.c.freeFid(s.k.fid)
		// There can be none where there is no such thing.
		*s.bare = errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENODATA)
	}
}

// unsent ends a step that was built but not posted.
func (s *step) unsent() {
	if s.typ == txattrwalk {
		s.f.c.freeFid(s.k.fid)
	}
	s.k.recycle()
}

// isRace tells the answers of a server that took a request before the one it
// depends on: the fid is not there yet, or not open yet.
func isRace(err error) bool {
	return errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.EINVAL)
}

// again sends a step once more, now that those before it are done.
func (p *pipeline) again(ctx context.Context, s *step) error {
	s.build()
	if err := p.c.post(ctx.Done(), s.k); err != nil {
		s.k.recycle()
		return endCause(ctx, err)
	}
	p.c.kick()
	return p.reply(ctx, s)
}

// violation ends the client because a reply made no sense.
func (c *Client) violation(typ uint8, cause error) error {
	err := fmt.Errorf("%w: reply to message %d: %w", ErrProtocol, typ, cause)
	c.fail(err)
	return fmt.Errorf("%w: %w", ErrLost, err)
}
