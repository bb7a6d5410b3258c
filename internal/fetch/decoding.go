package fetch

import (
	"context"
	"fmt"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"go.uber.org/zap"
)

// decoding delivers the members of a run one after the other, while the next ones
// arrive. At most one member waits for that.
type decoding struct {
	r    *run
	s    *Scheduler
	ctx  context.Context
	next chan packed   // nil until there is a member that is not the last
	done chan struct{} // closed when all of next are delivered
}

// packed is one member that has arrived.
type packed struct {
	*buffer
	items []item
}

// add takes a member over. The last one it delivers itself.
func (d *decoding) add(member *buffer, items []item, last bool) {
	switch {
	case last:
		d.member(packed{member, items})
		return
	case d.next == nil:
		d.next, d.done = make(chan packed), make(chan struct{})
		go func() {
			defer close(d.done)
			for p := range d.next {
				d.member(p)
			}
		}()
	}
	d.next <- packed{member, items}
}

// wait returns when all members are delivered.
func (d *decoding) wait() {
	if d.next != nil {
		close(d.next)
		<-d.done
	}
}

// member delivers the chunks of one member. One that fails its digests is asked for
// once more, since another host may have it right; if that fails too, only its own
// readers see the error.
func (d *decoding) member(p packed) {
	defer p.release()
	r, s, c := d.r, d.s, &p.items[0].chunk
	err := d.deliver(p.p, p.items)
	if err == nil || d.ctx.Err() != nil {
		return // or what was cancelled fails as a whole
	}
	s.opts.Logger.Warn("bytes of a layer failed verification, asking once more",
		zap.String("layer", r.layer.name), zap.Int64("offset", c.Member), zap.Error(err))
	s.stats.corrupt.Add(1)
	if err = d.again(p); err != nil && d.ctx.Err() == nil {
		s.fail(r, p.items, fserr.New(fserr.Corrupt, "verify", fmt.Sprintf("%s at %d", r.layer.name, c.Member), err))
	}
}

// again asks for one member anew, and other hosts than the one that served it wrong
// where the source has several.
func (d *decoding) again(p packed) error {
	d.s.asked(d.r)
	return source.ReadVerified(d.ctx, d.r.layer.blob, p.items[0].chunk.Member, p.p, func(member []byte) error {
		d.s.brought(d.r, int64(len(member)))
		return d.deliver(member, p.items)
	})
}

// deliver decodes one member and lands its chunks.
func (d *decoding) deliver(member []byte, items []item) error {
	want := make([]estargz.Chunk, len(items))
	for k, it := range items {
		want[k] = it.chunk
	}
	put := landing{ctx: d.ctx, r: d.r, s: d.s}
	defer put.end()
	return estargz.DecodeUnverified(member, want, put.room, func(k int, payload []byte) error {
		if err := put.verify(items[k], payload); err != nil {
			return err
		}
		return d.ctx.Err()
	})
}
