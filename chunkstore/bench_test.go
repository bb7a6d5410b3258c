package chunkstore_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"testing"

	"github.com/nineply/nineply/chunkstore"
)

// BenchmarkReadAt reads from chunks in the page cache, next to the bare pread.
func BenchmarkReadAt(b *testing.B) {
	const chunk, count = 4 << 20, 16
	for _, small := range []int{4 << 10, 16 << 10, 64 << 10} {
		benchmarkReads(b, fmt.Sprintf("chunk=%dK/whole", small>>10), small, small, 256, 0)
	}
	for _, size := range []int{4 << 10, 64 << 10, 128 << 10, 1 << 20} {
		benchmarkReads(b, fmt.Sprintf("chunk=4M/%dK", size>>10), chunk, size, count, 0)
	}
	benchmarkReads(b, "chunk=4M/64K-unaligned", chunk, 64<<10, count, 100)
}

func benchmarkReads(b *testing.B, name string, chunk, size, count int, shift int64) {
	s := open(b, chunkstore.Options{Dir: b.TempDir()})
	raw, err := os.Create(b.TempDir() + "/raw")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	digests := make([]chunkstore.Digest, count)
	locs := make([]chunkstore.Loc, count)
	data := make([]byte, chunk)
	for i := range locs {
		_, _ = rand.Read(data)
		digests[i] = sum(data)
		locs[i] = put(b, s, digests[i], data)
		if _, err := raw.WriteAt(data, int64(i*chunk)); err != nil {
			b.Fatal(err)
		}
	}
	p := make([]byte, size)
	offset := func(i int) int64 { return int64(i*size%(chunk-size+1)) + shift*int64(min(1, chunk-size)) }
	b.Run(name+"/store", func(b *testing.B) {
		b.SetBytes(int64(size))
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if n, err := s.ReadAt(locs[i%count], digests[i%count], p, offset(i/count)); err != nil || n < size-int(shift) {
				b.Fatal(n, err)
			}
		}
	})
	b.Run(name+"/pread", func(b *testing.B) {
		b.SetBytes(int64(size))
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if n, err := raw.ReadAt(p, int64(i%count*chunk)+offset(i/count)); err != nil && n == 0 {
				b.Fatal(n, err)
			}
		}
	})
}

// BenchmarkPut stores new chunks, sha256 included.
func BenchmarkPut(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dK", size>>10), func(b *testing.B) {
			s := open(b, chunkstore.Options{Dir: b.TempDir(), MaxBytes: 1 << 30})
			data := make([]byte, size)
			_, _ = rand.Read(data)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				data[0], data[1], data[2], data[3] = byte(i), byte(i>>8), byte(i>>16), byte(i>>24)
				d := sum(data)
				b.StartTimer()
				if _, err := s.Put(context.Background(), d, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLocate looks up chunks: known ones, and ones that are not there.
func BenchmarkLocate(b *testing.B) {
	s := open(b, chunkstore.Options{Dir: b.TempDir(), SegmentBytes: 1 << 20})
	const n = 20000
	var there, missing []chunkstore.Digest
	for i := range n {
		data := fmt.Appendf(nil, "chunk %d", i)
		there = append(there, sum(data))
		put(b, s, there[i], data)
		missing = append(missing, sum(fmt.Appendf(nil, "other %d", i)))
	}
	if err := s.Sync(context.Background()); err != nil {
		b.Fatal(err)
	}
	for name, list := range map[string][]chunkstore.Digest{"hit": there, "miss": missing} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, ok := s.Locate(list[i%n]); ok != (name == "hit") {
					b.Fatal(name)
				}
			}
		})
	}
}

func TestReadAllocatesNothing(t *testing.T) {
	s := open(t, chunkstore.Options{Dir: t.TempDir()})
	for _, size := range []int{100, 5000, 300000} {
		data := make([]byte, size)
		data[0] = byte(size)
		d := sum(data)
		loc := put(t, s, d, data)
		p := make([]byte, size)
		allocs := testing.AllocsPerRun(200, func() {
			if _, err := s.ReadAt(loc, d, p, 0); err != nil {
				t.Error(err)
			}
			if _, err := s.ReadAt(loc, d, p[:size/2], int64(size/3)); err != nil {
				t.Error(err)
			}
		})
		if allocs >= 1 && !raceEnabled {
			t.Errorf("%v allocations to read from a chunk of %d bytes", allocs, size)
		}
	}
}
