package crc32c

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

// check compares with hash/crc32.
func check(t *testing.T, sum uint32, p []byte) {
	t.Helper()
	if got, want := Update(sum, p), crc32.Update(sum, castagnoli, p); got != want {
		t.Fatalf("Update(%#x) of %d bytes = %#x, want %#x", sum, len(p), got, want)
	}
}

func TestUpdate(t *testing.T) {
	t.Logf("folds: %v", folds())
	random := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, 5000)
	_, _ = random.Read(buf) // never fails
	for n := range len(buf) - 64 {
		at := n % 64 // at all alignments
		check(t, 0, buf[at:at+n])
		check(t, uint32(random.Uint64()), buf[at:at+n])
	}
	large := make([]byte, 1<<20)
	_, _ = random.Read(large) // never fails
	check(t, 7, large)
	if got := Sum([]byte("123456789")); got != 0xe3069283 {
		t.Errorf("check value %#x", got)
	}
}

// TestEveryBitCounts changes each bit of a block.
func TestEveryBitCounts(t *testing.T) {
	p := make([]byte, 4096)
	want := Sum(p)
	for i := range len(p) * 8 {
		p[i/8] ^= 1 << (i % 8)
		if Sum(p) == want {
			t.Fatalf("bit %d makes no difference", i)
		}
		p[i/8] ^= 1 << (i % 8)
	}
}

func TestAllocates(t *testing.T) {
	p := make([]byte, 4096)
	if n := testing.AllocsPerRun(100, func() { _ = Sum(p) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzUpdate(f *testing.F) {
	f.Add(uint32(0), []byte("123456789"), uint16(1))
	f.Add(uint32(1), []byte{0}, uint16(600))
	f.Add(uint32(1<<31), []byte{1, 0xff, 3}, uint16(256))
	f.Fuzz(func(t *testing.T, sum uint32, p []byte, times uint16) {
		var long []byte
		for range times % 2048 { // inputs that are long enough are rarely found
			long = append(long, p...)
			if len(long) > 1<<16 {
				break
			}
		}
		check(t, sum, p)
		check(t, sum, long)
	})
}

func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{256, 512, 1024, 4096, 128 << 10, 1 << 20} {
		p := make([]byte, n)
		for _, way := range []struct {
			name   string
			update func(uint32, []byte) uint32
		}{
			{"crc32c", Update},
			{"hash-crc32", func(sum uint32, p []byte) uint32 { return crc32.Update(sum, castagnoli, p) }},
		} {
			b.Run(fmt.Sprintf("%d/%s", n, way.name), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					_ = way.update(0, p)
				}
			})
		}
	}
}
