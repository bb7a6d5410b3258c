package fetch

import (
	"context"
	"sync"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
)

// landing delivers chunks of a run that are decoded one after the other, and has the
// memory that the next ones are decoded into.
type landing struct {
	ctx  context.Context // of the run
	r    *run
	s    *Scheduler
	into *buffer
}

// room gives memory for n bytes of chunks, for those that are added before the next
// call.
func (p *landing) room(n int) ([]byte, error) {
	p.end()
	b, err := p.s.memoryFor(p.r.prio).unpack(p.ctx, n)
	if err != nil {
		return nil, err
	}
	p.into = b
	return b.p, nil
}

// end gives the memory back, which stays until readers and store have done with it.
func (p *landing) end() {
	p.into.release()
	p.into = nil
}

// verify hashes a chunk, and adds it if it is what it should be.
func (p *landing) verify(it item, payload []byte) error {
	v, err := chunkstore.Verify(chunkstore.Digest(it.chunk.Digest), payload)
	if err != nil {
		return estargz.ErrDigest
	}
	p.add(it, v)
	return nil
}

// add hands a chunk in memory from room to its readers, and then to the store.
func (p *landing) add(it item, v chunkstore.Verified) {
	if p.s.land(it.flight, v.Data(), p.into) {
		p.r.storing.Add(1)
		p.s.stores.add(p.s, landed{p.r, it, v})
	}
}

// landed is a chunk that its readers have and the store not yet.
type landed struct {
	r *run
	item
	chunk chunkstore.Verified
}

// storeQueue is what waits for the store. The memory that runs may use bounds it.
type storeQueue struct {
	mu      sync.Mutex
	waiting []landed
	running bool // a goroutine empties waiting; Scheduler.wg counts it
}

// add has a chunk stored by a goroutine that lives as long as there is something to
// store, so that neither readers nor those who decode for them wait for a disk.
func (q *storeQueue) add(s *Scheduler, c landed) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, c)
	if !q.running {
		q.running = true
		s.wg.Add(1) // the run is still counted
		go func() {
			defer s.wg.Done()
			q.empty(s)
		}()
	}
}

func (q *storeQueue) empty(s *Scheduler) {
	var list []landed
	for {
		q.mu.Lock()
		list, q.waiting = q.waiting, list[:0]
		q.running = len(list) > 0
		q.mu.Unlock()
		if len(list) == 0 {
			return
		}
		for i, c := range list {
			c.r.layer.store(s, c.number, c.chunk)
			s.retire(c.flight)
			c.r.storing.Done()
			list[i] = landed{} // its memory is someone else's now
		}
	}
}
