package estargz_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/nineply/nineply/estargz"
)

func BenchmarkReadZstdTOC(b *testing.B) {
	const n = 100_000
	json := benchTOC(n)
	packed := packZstd(b, []byte(json), true)
	footer := estargz.Footer{TOCOffset: n + 10, TOCSize: int64(len(packed)), TOCRawSize: int64(len(json)), Zstd: true}
	b.SetBytes(int64(len(json)))
	b.ReportAllocs()
	b.ReportMetric(float64(len(packed)), "compressed")
	for b.Loop() {
		count := 0
		_, err := estargz.ReadTOC(packed, footer, estargz.Limits{}, func(*estargz.Entry) error { count++; return nil })
		if err != nil || count != n {
			b.Fatal(count, err)
		}
	}
}

func BenchmarkDecodeZstd(b *testing.B) {
	rng := rand.New(rand.NewPCG(17, 18))
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(rng.ExpFloat64() * 12)
		}
		want := []estargz.Chunk{{Digest: estargz.Sum(data), Size: int64(size)}}
		for name, member := range map[string][]byte{"whole": packZstd(b, data, true), "cut": packZstd(b, append(data, make([]byte, 4<<20)...), true)} {
			b.Run(fmt.Sprintf("%dKiB/%s", size>>10, name), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					if err := estargz.DecodeMember(member, want, func(int, []byte) error { return nil }); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
