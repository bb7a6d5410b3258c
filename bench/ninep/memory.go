package main

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// fids are how many the memory of one is measured with.
const fids = 1_000_000

// memory measures what a Tread allocates, and what a fid takes and leaves behind.
func (b *bench) memory() error {
	srv := b.find(oursName)
	if srv == nil || !strings.Contains("memory", b.only) {
		return nil
	}
	for _, size := range []int{fileBytes, 1 << 20} {
		if err := b.allocations(srv, size); err != nil {
			return fmt.Errorf("allocations: %w", err)
		}
	}
	if err := b.fids(srv); err != nil {
		return fmt.Errorf("memory of fids: %w", err)
	}
	return nil
}

// allocations counts those of reads of n bytes, without what the process
// allocates while nothing is read.
func (b *bench) allocations(srv *server, n int) error {
	c, err := dial(srv)
	if err != nil {
		return err
	}
	defer c.close()
	op := operation{name: "allocs", begin: []step{walkTo("large"), open}, steps: []step{readAt(n, largeBytes)}, bytes: n}
	if _, err := c.run(&op, 16, b.time); err != nil { // pools fill
		return err
	}
	for i := range 16 {
		l := &lane{fid: uint32(100 + i)}
		if _, err := c.ask(clunk(nil, l, 0)); err != nil {
			return err
		}
	}
	r, all, err := b.mallocs(srv, func() (result, error) { return c.run(&op, 16, 10*b.time) })
	if err != nil {
		return err
	}
	_, idle, err := b.mallocs(srv, func() (result, error) {
		time.Sleep(r.took)
		return result{}, nil
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(b.out, "Benchmarkallocs/read=%d 1 %.4f allocs/op %g allocs/op-max %d idle-allocs\n",
		n, max(0, all-idle)/float64(r.count), maxAllocsRead, int(idle))
	return err
}

// mallocs counts the allocations of a server while something is done.
func (b *bench) mallocs(srv *server, do func() (result, error)) (r result, n float64, err error) {
	before, err := srv.memory(askMallocs)
	if err != nil {
		return r, 0, err
	}
	if r, err = do(); err != nil {
		return r, 0, err
	}
	after, err := srv.memory(askMallocs)
	return r, float64(after.Mallocs - before.Mallocs), err
}

// fids makes many, and clunks them.
func (b *bench) fids(srv *server) error {
	c, err := dial(srv)
	if err != nil {
		return err
	}
	defer c.close()
	before, err := srv.memory(askHeap)
	if err != nil {
		return err
	}
	if err := c.each(fids, func(b []byte, l *lane) []byte { return walkFile(b, l, int(l.fid)) }); err != nil {
		return err
	}
	live, err := srv.memory(askHeap)
	if err != nil {
		return err
	}
	if err := c.each(fids, func(b []byte, l *lane) []byte { return clunk(b, l, 0) }); err != nil {
		return err
	}
	after, err := srv.memory(askHeap)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(b.out, "Benchmarkfids 1 %.1f B/fid %d B/fid-max %.3f B/clunked-fid 0.1 B/clunked-fid-max\n",
		perFID(live, before), maxFIDBytes, max(0, perFID(after, before)))
	return err
}

func perFID(now, before memory) float64 { return (float64(now.Heap) - float64(before.Heap)) / fids }

// each sends a request for each of n fids, many at a time.
func (c *client) each(n int, request func([]byte, *lane) []byte) error {
	const batch = 100
	for first := 0; first < n; first += batch {
		for i := range batch {
			at := len(c.out)
			c.out = request(c.out, &lane{tag: uint16(i), fid: uint32(1 + first + i)})
			binary.LittleEndian.PutUint32(c.out[at:], uint32(len(c.out)-at))
		}
		if err := c.send(); err != nil {
			return err
		}
		for range batch {
			if _, err := c.wait(); err != nil {
				return err
			}
		}
	}
	return nil
}
