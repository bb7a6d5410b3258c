package p9server

import (
	"math/rand/v2"
	"testing"
	"unsafe"
)

func TestFIDTableAgreesWithMap(t *testing.T) {
	table, model := newFIDTable(), map[uint32]uint64{}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 200_000 {
		// Growing for a while, then shrinking, so that both resizes happen.
		id := rng.Uint32N(3000) * 0x10001
		if grow := i/20_000%2 == 0; rng.Uint32N(4) != 0 == grow {
			table.put(fid{id: id, node: uint64(i), state: fidWalked})
			model[id] = uint64(i)
		} else {
			f, ok := table.remove(id)
			if want, has := model[id]; ok != has || f.node != want {
				t.Fatalf("step %d: remove(%d) = %d, %v; want %d, %v", i, id, f.node, ok, want, has)
			}
			delete(model, id)
		}
		if table.count != len(model) {
			t.Fatalf("step %d: %d fids, want %d", i, table.count, len(model))
		}
	}
	for id := range uint32(3000) {
		id *= 0x10001
		f := table.get(id)
		if want, has := model[id]; (f != nil) != has || has && f.node != want {
			t.Errorf("get(%d) = %v, want %d, %v", id, f, want, has)
		}
	}
	seen := 0
	table.each(func(fid) { seen++ })
	if seen != len(model) {
		t.Errorf("each gave %d of %d", seen, len(model))
	}
}

func TestFIDTableIsCompact(t *testing.T) {
	table := newFIDTable()
	const n = 1 << 18
	most := 0.0
	for i := range uint32(n) {
		table.put(fid{id: i, node: 1, state: fidWalked})
		if i > 1000 {
			most = max(most, float64(len(table.places))*float64(unsafe.Sizeof(fid{}))/float64(i+1))
		}
	}
	if most > 100 {
		t.Errorf("up to %.0f bytes per fid", most)
	}
	for i := range uint32(n) {
		table.remove(i)
	}
	if len(table.places) > 2*minFIDPlaces {
		t.Errorf("%d places left for no fids", len(table.places))
	}
}

func TestBufferClasses(t *testing.T) {
	var pool bufferPool
	for _, n := range []int{0, 1, classSize(0), classSize(0) + 1, classSize(1), classSize(1) + 1, 1 << 19, maxMessageSize} {
		if b := pool.get(n); cap(b.b) < n || (n > classSize(0) && cap(b.b) > 2*n+bufferSlack) {
			t.Errorf("buffer of %d bytes for %d", cap(b.b), n)
		}
	}
}

// FuzzFIDTable replays puts and removals against a map.
func FuzzFIDTable(f *testing.F) {
	f.Add([]byte{1, 2, 3, 129, 130, 1, 1, 200})
	f.Fuzz(func(t *testing.T, ops []byte) {
		table, model := newFIDTable(), map[uint32]bool{}
		for _, op := range ops {
			id := uint32(op&0x7f) << 13
			if op&0x80 == 0 {
				table.put(fid{id: id, state: fidWalked})
				model[id] = true
				continue
			}
			if _, ok := table.remove(id); ok != model[id] {
				t.Fatalf("remove(%d) = %v", id, ok)
			}
			delete(model, id)
		}
		for id := range model {
			if table.get(id) == nil {
				t.Fatalf("%d is gone", id)
			}
		}
	})
}
