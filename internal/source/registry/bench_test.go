package registry_test

import (
	"fmt"
	"testing"

	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/source/sourcetest"
	"github.com/nineply/nineply/internal/testreg"
)

// BenchmarkReadRange reads ranges over a loopback connection; server and client
// share the processor.
func BenchmarkReadRange(b *testing.B) {
	reg := testreg.New(b)
	desc := reg.AddBlob(sourcetest.Bytes(1, 8<<20))
	r := registry.New(registry.Options{})
	b.Cleanup(func() {
		if err := r.Close(); err != nil {
			b.Error(err)
		}
	})
	blob, err := r.Blob(b.Context(), reg.Ref("demo", "v1"), desc)
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{4 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", n>>10), func(b *testing.B) {
			p := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if err := blob.ReadRange(b.Context(), 4096, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
