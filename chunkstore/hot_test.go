package chunkstore_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/nineply/nineply/chunkstore"
)

const hotBlock = 4096

// heated gives a store with one chunk whose first block has been read often, and
// whose segment is damaged since then, all of it but for the superblock.
func heated(t *testing.T, size int) (s *chunkstore.Store, loc chunkstore.Loc, d chunkstore.Digest, data []byte) {
	t.Helper()
	k := newDisk()
	s = open(t, k.options(0))
	data = make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(data) // never fails
	d = sum(data)
	loc = put(t, s, d, data)
	for range 4 {
		checkRange(t, s, loc, d, data, 0, hotBlock)
	}
	for _, name := range segmentNames(k.fs) {
		k.fs.Edit(name, func(p []byte) {
			for i := 64; i < len(p); i++ {
				p[i] ^= 0x55
			}
		})
	}
	return s, loc, d, data
}

// TestHotBlock: what is held is right whatever became of the file, the rest of the
// chunk is found damaged, and then none of it is there.
func TestHotBlock(t *testing.T) {
	for _, size := range []int{2 * hotBlock, 9000, 40_000} {
		s, loc, d, data := heated(t, size)
		checkRange(t, s, loc, d, data, 0, hotBlock)
		checkRange(t, s, loc, d, data, 100, 50)
		p := make([]byte, hotBlock)
		if n, err := s.ReadAt(loc, d, p, hotBlock); !errors.Is(err, chunkstore.ErrNotFound) {
			t.Errorf("size %d: second block: %d, %v", size, n, err)
		}
		if n, err := s.ReadAt(loc, d, p, 0); !errors.Is(err, chunkstore.ErrNotFound) {
			t.Errorf("size %d: first block of what was dropped: %d, %v", size, n, err)
		}
		put(t, s, d, data)
		checkRange(t, s, loc, d, data, 0, size)
		closeStore(t, s)
	}
}

func TestRestForgetsHotBlocks(t *testing.T) {
	s, loc, d, _ := heated(t, 3*hotBlock)
	defer closeStore(t, s)
	s.Rest()
	if n, err := s.ReadAt(loc, d, make([]byte, hotBlock), 0); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("%d, %v", n, err)
	}
}

// TestHotBlocksOfMany reads blocks of many chunks, some of them far more often, from
// several goroutines, in all lengths and with chunks dropped and put again.
func TestHotBlocksOfMany(t *testing.T) {
	k := newDisk()
	s := open(t, k.options(0))
	defer closeStore(t, s)
	const chunks, readers, reads = 300, 4, 5000
	var locs [chunks]chunkstore.Loc
	for i := range locs {
		d, data := chunkOf(i, 9000)
		locs[i] = put(t, s, d, data)
	}
	var all sync.WaitGroup
	for r := range readers {
		all.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(r)))
			for range reads {
				i := min(random.IntN(chunks), random.IntN(chunks), random.IntN(chunks))
				d, data := chunkOf(i, 9000)
				off := random.IntN(len(data)+hotBlock) / hotBlock * hotBlock >> (random.IntN(3) / 2)
				p := make([]byte, 1+random.IntN(hotBlock)<<random.IntN(2))
				n, err := s.ReadAt(locs[i], d, p, int64(off))
				want := data[min(off, len(data)):min(off+len(p), len(data))]
				if err != nil || !bytes.Equal(p[:n], want) {
					t.Errorf("chunk %d: %d bytes at %d: %d, %v", i, len(p), off, n, err)
					return
				}
				if r == 0 && random.IntN(500) == 0 {
					s.Rest()
				}
			}
		})
	}
	all.Wait()
}
