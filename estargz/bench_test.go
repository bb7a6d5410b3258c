package estargz_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/nineply/nineply/estargz"
)

// benchTOC is a TOC as writers make it, indented by tabs.
func benchTOC(n int) string {
	var b strings.Builder
	b.WriteString("{\n\t\"version\": 1,\n\t\"entries\": [")
	rng := rand.New(rand.NewPCG(15, 16))
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		d := fmt.Sprintf("%016x%016x%016x%016x", rng.Uint64(), rng.Uint64(), rng.Uint64(), rng.Uint64())
		fmt.Fprintf(&b, "\n\t\t{\n\t\t\t\"name\": \"usr/lib/python3/dist-packages/package%d/module%d.py\",\n\t\t\t\"type\": \"reg\","+
			"\n\t\t\t\"size\": %d,\n\t\t\t\"modtime\": \"2024-03-0%dT10:11:12Z\",\n\t\t\t\"mode\": 420,\n\t\t\t\"offset\": %d,"+
			"\n\t\t\t\"NumLink\": 0,\n\t\t\t\"digest\": \"sha256:%s\",\n\t\t\t\"chunkDigest\": \"sha256:%s\"\n\t\t}", i/20, i, rng.IntN(100_000)+1, i%9+1, i+1, d, d)
	}
	b.WriteString("\n\t]\n}")
	return b.String()
}

func BenchmarkReadTOC(b *testing.B) {
	const n = 100_000
	json := benchTOC(n)
	member := pack(b, tarOf(b, file{tarHeader(estargz.TOCName), json}))
	b.SetBytes(int64(len(json)))
	b.ReportAllocs()
	b.ReportMetric(float64(len(member)), "compressed")
	for b.Loop() {
		count := 0
		_, err := estargz.ReadTOC(member, estargz.Footer{TOCOffset: n + 2}, estargz.Limits{}, func(*estargz.Entry) error { count++; return nil })
		if err != nil || count != n {
			b.Fatal(count, err)
		}
	}
}

func BenchmarkDecodeMember(b *testing.B) {
	rng := rand.New(rand.NewPCG(17, 18))
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(rng.ExpFloat64() * 12)
		}
		member, want := pack(b, data), []estargz.Chunk{{Digest: estargz.Sum(data), Size: int64(size)}}
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
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

func BenchmarkWriter(b *testing.B) {
	rng := rand.New(rand.NewPCG(19, 20))
	var files []file
	for i := range 2000 {
		body := make([]byte, rng.IntN(16<<10))
		for j := range body {
			body[j] = byte(rng.ExpFloat64() * 12)
		}
		files = append(files, reg(fmt.Sprintf("d%d/f%d", i/50, i), string(body)))
	}
	src := tarOf(b, files...)
	for name, size := range map[string]int64{"grouped": 0, "ungrouped": -1} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			for b.Loop() {
				w := estargz.NewWriter(io.Discard, estargz.WriterOptions{MinMemberSize: size})
				if err := w.AppendTar(b.Context(), bytes.NewReader(src)); err != nil {
					b.Fatal(err)
				}
				if _, err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
