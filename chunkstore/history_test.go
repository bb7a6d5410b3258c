package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"strconv"
	"testing"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/fserr"
)

// historySize is the largest chunk of a history.
const historySize = 12000

// history is what was done to a store, and what its user may rely on. The steps
// are the same each time; a failure ends them.
type history struct {
	disk  disk
	limit int64
	s     *chunkstore.Store

	next    int             // chunks [0, next) were tried
	put     map[int]bool    // put since the last sync
	sure    map[int]bool    // synced, and not evicted since
	records map[int][]byte  // recordName → what it must be
	torn    map[int]bool    // records whose change failed: old or new
	left    []map[int]bool  // after each step that evicts, of a run without faults
	seen    []map[int]bool  // the same, of this run
	errs    map[string]bool // kinds of errors that calls ended with
}

func newHistory(k disk, limit int64, left []map[int]bool) *history {
	return &history{
		disk: k, limit: limit, left: left,
		put: map[int]bool{}, sure: map[int]bool{}, records: map[int][]byte{}, torn: map[int]bool{}, errs: map[string]bool{},
	}
}

// run does all the steps, and gives the error that ended them.
func (h *history) run() error {
	ctx := context.Background()
	evict := func(what func() (int64, error)) func() error {
		return func() error { return h.evict(ctx, what) }
	}
	steps := []func() error{
		h.open,
		h.puts(ctx, 60), evict(func() (int64, error) { return h.s.Evict(ctx, 60<<10) }), h.puts(ctx, 20), h.close,
		h.open, h.reads(4), h.puts(ctx, 30), // the last segment goes on being filled
		evict(func() (int64, error) { return h.s.Retain(ctx, thirds(false)) }),
		h.puts(ctx, 30),
		evict(func() (int64, error) { return h.s.Retain(ctx, sevenths) }), // leaves sparse segments, which are merged
		func() error { return h.s.Verify(ctx, nil) },
		h.puts(ctx, 20), h.close,
		h.open, h.reads(3), h.puts(ctx, 25),
		func() error { return h.s.Rebuild(ctx, nil) },
		h.puts(ctx, 25),
		evict(func() (int64, error) { return h.s.EvictTo(ctx, 150<<10) }),
		h.puts(ctx, 10), h.close,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			h.errs[fserr.KindOf(err).String()] = true
			return err
		}
	}
	return nil
}

func thirds(keep bool) func(chunkstore.Digest) bool {
	return func(d chunkstore.Digest) bool { return d[0]%3 != 0 || keep }
}

func sevenths(d chunkstore.Digest) bool { return d[1]%7 == 0 }

func (h *history) open() (err error) {
	h.s, err = chunkstore.Open(context.Background(), h.disk.options(h.limit))
	return err
}

func (h *history) close() error {
	err := h.s.Close()
	if err == nil {
		h.settle()
	}
	return err
}

// abandon is what the death of the process would do.
func (h *history) abandon() {
	if h.s != nil {
		_ = h.s.Close() // the power is cut, or a call has failed already
	}
}

// settle notes that all that was put is durable.
func (h *history) settle() {
	maps.Copy(h.sure, h.put)
	clear(h.put)
	if h.limit > 0 {
		clear(h.sure) // any put may evict
	}
}

func (h *history) sync(ctx context.Context) error {
	err := h.s.Sync(ctx)
	if err == nil {
		h.settle()
	}
	return err
}

// puts puts n chunks, and some records, with a sync now and then and at the end.
func (h *history) puts(ctx context.Context, n int) func() error {
	return func() error {
		for range n {
			i := h.next
			h.next++
			d, data := chunkOf(i, historySize)
			if _, err := h.s.Put(ctx, d, data); err != nil {
				return err
			}
			h.put[i] = true
			if i%9 == 0 {
				if err := h.record(ctx, i, data); err != nil {
					return err
				}
			}
			if i%13 == 0 {
				if err := h.sync(ctx); err != nil {
					return err
				}
			}
		}
		return h.sync(ctx)
	}
}

// record puts one record, changes one, or deletes it.
func (h *history) record(ctx context.Context, i int, data []byte) error {
	key := i % 5
	h.torn[key] = true
	var err error
	val := data[:min(len(data), 200)]
	if i%4 == 0 {
		val = nil
		err = h.s.Records().Delete(ctx, strconv.Itoa(key))
	} else {
		err = h.s.Records().Put(ctx, strconv.Itoa(key), val)
	}
	if err != nil {
		return err
	}
	delete(h.torn, key)
	h.records[key] = val
	return nil
}

// evict makes sure of what is left in a run without faults, if that is known; else
// of what is left in this one, once it is done.
func (h *history) evict(ctx context.Context, what func() (int64, error)) error {
	if err := h.sync(ctx); err != nil {
		return err
	}
	if n := len(h.seen); h.left == nil {
		clear(h.sure)
	} else if n < len(h.left) {
		maps.DeleteFunc(h.sure, func(i int, _ bool) bool { return !h.left[n][i] })
	}
	if _, err := what(); err != nil {
		return err
	}
	left := map[int]bool{}
	for i := range h.next {
		if d, _ := chunkOf(i, historySize); h.s.Has(d) {
			left[i] = true
		}
	}
	h.seen = append(h.seen, left)
	if h.left == nil && h.limit == 0 {
		maps.Copy(h.sure, left)
	}
	return nil
}

// reads reads every n-th chunk that is there, so that it becomes hot.
func (h *history) reads(n int) func() error {
	return func() error {
		for i := 0; i < h.next; i += n {
			d, data := chunkOf(i, historySize)
			got, err := readAll(h.s, d, len(data)+1)
			if err == nil && !bytes.Equal(got, data) {
				return errWrong
			}
		}
		return nil
	}
}

var errWrong = errors.New("wrong bytes")

// tally counts what was found after faults.
type tally struct {
	points, outcomes int // where the fault was, and what it may have left
	right            int // chunks that were read and are right
	gone             int // chunks that were not synced, or were evicted, and are not there
	kinds            map[string]int
}

// check opens what a fault has left, and demands: whatever can be read is right,
// what is sure is there, and everything works on.
func (h *history) check(t testing.TB, k disk, n *tally, what string) {
	t.Helper()
	s, err := chunkstore.Open(context.Background(), k.options(h.limit))
	if err != nil {
		t.Fatalf("%s: open: %v", what, err)
	}
	n.outcomes++
	for i := range h.next {
		d, data := chunkOf(i, historySize)
		got, err := readAll(s, d, len(data)+1)
		switch {
		case err == nil && !bytes.Equal(got, data):
			t.Fatalf("%s: chunk %d: wrong bytes", what, i)
		case err == nil:
			n.right++
		case !errors.Is(err, chunkstore.ErrNotFound):
			t.Fatalf("%s: chunk %d: %v", what, i, err)
		case h.sure[i]:
			t.Fatalf("%s: chunk %d lost", what, i)
		default:
			n.gone++
		}
	}
	h.checkRecords(t, s, what)
	for i := h.next; i < h.next+12; i++ {
		d, data := chunkOf(i, historySize)
		put(t, s, d, data)
		if got, err := readAll(s, d, len(data)+1); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%s: chunk %d, put afterwards: %v", what, i, err)
		}
	}
	if err := s.Verify(context.Background(), nil); err != nil {
		t.Fatalf("%s: verify: %v", what, err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("%s: close: %v", what, err)
	}
	if st := s.Stats(); st.Bytes < k.fs.Allocated(".seg") {
		t.Fatalf("%s: %d bytes counted, %d on disk", what, st.Bytes, k.fs.Allocated(".seg"))
	}
}

func (h *history) checkRecords(t testing.TB, s *chunkstore.Store, what string) {
	t.Helper()
	for key, want := range h.records {
		if h.torn[key] {
			continue
		}
		got, err := s.Records().Get(context.Background(), strconv.Itoa(key))
		if want == nil {
			if !fserr.Is(err, fserr.NotExist) {
				t.Fatalf("%s: record %d is back: %v", what, key, err)
			}
		} else if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: record %d: %v", what, key, err)
		}
	}
}
