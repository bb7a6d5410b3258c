package p9client_test

import (
	"fmt"
	"testing"

	"github.com/nineply/nineply/internal/p9client"
	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

const (
	regular   = 0o100644
	directory = 0o40755
	benchFile = 4 << 20
	benchDir  = 200
)

// benchRoot attaches to the product's server over a Unix socket.
func benchRoot(b *testing.B) *p9client.File {
	b.Helper()
	files := []p9test.File{
		{Path: "/big", Mode: regular, Data: string(make([]byte, benchFile))},
		{Path: "/dir", Mode: directory},
	}
	for i := range benchDir {
		files = append(files, p9test.File{Path: fmt.Sprintf("/dir/%d", i), Mode: regular, Data: "content"})
	}
	tree, err := p9test.NewTree(files)
	if err != nil {
		b.Fatal(err)
	}
	ours, theirs := socketPair(b)
	srv := p9server.NewServer(p9test.Export(tree), p9server.Options{})
	served := make(chan error, 1)
	go func() { served <- srv.ServeConn(testCtx(b), theirs) }()
	c, err := p9client.New(testCtx(b), ours, p9client.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = c.Close()
		if err := <-served; err != nil {
			b.Log("server:", err) // of no interest to a client that has left
		}
	})
	root, err := c.Attach(testCtx(b), "")
	if err != nil {
		b.Fatal(err)
	}
	return root
}

func BenchmarkWalkStat(b *testing.B) {
	root := benchRoot(b)
	ctx := testCtx(b)
	b.ReportAllocs()
	for b.Loop() {
		f, _, _, err := root.WalkStatBare(ctx, "dir", "7")
		if err != nil {
			b.Fatal(err)
		}
		_ = f.Close()
	}
}

func BenchmarkWalkOpenRead(b *testing.B) {
	root := benchRoot(b)
	ctx := testCtx(b)
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		f, n, err := root.WalkOpenReadAt(ctx, buf, 0, "dir", "7")
		if err != nil || n == 0 {
			b.Fatal(n, err)
		}
		_ = f.Close()
	}
}

// BenchmarkStatAll asks about a whole directory; per entry, divide by 200.
func BenchmarkStatAll(b *testing.B) {
	root := benchRoot(b)
	ctx := testCtx(b)
	dir, err := root.Walk(ctx, "dir")
	if err != nil {
		b.Fatal(err)
	}
	var names []string
	for i := range benchDir {
		names = append(names, fmt.Sprint(i))
	}
	var out []p9client.StatResult
	b.ReportAllocs()
	for b.Loop() {
		if out, err = dir.StatAll(ctx, names, out[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{4 << 10, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			root := benchRoot(b)
			ctx := testCtx(b)
			f, err := root.WalkOpen(ctx, "big")
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, size)
			var off int64
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				n, err := f.ReadAt(ctx, buf, off)
				if err != nil || n != size {
					b.Fatal(n, err)
				}
				off = (off + int64(size)) % benchFile
			}
		})
	}
}

// BenchmarkParallel is many readers of small files on one connection.
func BenchmarkParallel(b *testing.B) {
	root := benchRoot(b)
	ctx := testCtx(b)
	b.ReportAllocs()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 4096)
		for pb.Next() {
			f, _, err := root.WalkOpenReadAt(ctx, buf, 0, "dir", "7")
			if err != nil {
				b.Error(err)
				return
			}
			_ = f.Close()
		}
	})
}
