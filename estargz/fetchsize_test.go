package estargz_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/nineply/nineply/estargz"
)

// TestFetchSizeIsEnough: a chunk decodes from what FetchSize says of its member,
// wherever in the member it lies and however badly that compresses.
func TestFetchSizeIsEnough(t *testing.T) {
	random := make([]byte, 2<<20)
	source := rand.New(rand.NewPCG(1, 2))
	for i := range random {
		random[i] = byte(source.Uint32())
	}
	text := bytes.Repeat([]byte("what compresses well "), len(random)/21+1)[:len(random)]
	for name, data := range map[string][]byte{"random": random, "text": text} {
		for packing, member := range map[string][]byte{
			"gzip": pack(t, data), "zstd": packZstd(t, data, false), "zstd streamed": packZstd(t, data, true),
		} {
			t.Run(name+" "+packing, func(t *testing.T) {
				for _, end := range []int64{1, 5000, 128 << 10, 128<<10 + 1, 300_000, 1 << 20, 2 << 20} {
					c := estargz.Chunk{Inner: end - 1, Size: 1, MemberSize: int64(len(member)), Digest: estargz.Sum(data[end-1 : end])}
					n := c.FetchSize()
					if err := estargz.DecodeMember(member[:n], []estargz.Chunk{c}, func(int, []byte) error { return nil }); err != nil {
						t.Errorf("the byte before %d, of %d of %d bytes: %v", end, n, len(member), err)
					}
				}
			})
		}
	}
}
