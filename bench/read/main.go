// Command read measures a read that the cache has, through everything that lies
// between a 9P message and the disk: the tree, its index, the place of the chunk, the
// store, and the checksums of its blocks. It is compared with a bare pread of as many
// bytes from a plain file, at the same places; both take turns, and both files are in
// the kernel's cache. Then it measures how long it takes to attach an image of 100,000
// files that is known.
//
//	go run ./bench/read [-runs 5] [-reads 20000]
//
// Times are nanoseconds of one read. The output is that of go test -bench, for
// bench/record.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/platforms"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/bench/generated"
	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/source/layout"
)

const (
	// fileBytes is the size of the file that is read.
	fileBytes = 64 << 20
	fileName  = "file"
	// slower is how much slower than pread a read may be.
	slower = 2
	// Allocations are counted in the whole process, in which now and then something
	// else goes on: a few in a thousand reads are not the reads'.

	// batch is how many reads are done one way before it is the other's turn.
	batch = 500
)

func main() {
	runs := flag.Int("runs", 5, "how often it is measured")
	reads := flag.Int("reads", 20_000, "reads of each size in a run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, *runs, *reads, os.Stdout)
	if err == nil {
		err = attaches(ctx, *runs*4, os.Stdout)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "read:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, runs, reads int, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "nineply-read-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ref := "oci:" + filepath.Join(dir, "image") + ":bench"
	files := []generated.File{{Name: fileName, Size: fileBytes, Number: 1}}
	if _, err := generated.Push(ctx, layout.New(), ref, files, estargz.WriterOptions{Level: 1}); err != nil {
		return err
	}
	return withTree(ctx, dir, ref, func(t image.Tree) error {
		n, err := t.Lookup(t.Root(), []byte(fileName))
		if err != nil {
			return err
		}
		plain, err := copyOut(ctx, t, n, filepath.Join(dir, fileName))
		if err != nil {
			return err
		}
		defer func() { _ = plain.Close() }()                                   // read side
		if err := compare(io.Discard, t, n, plain, 4<<10, reads); err != nil { // what is made once
			return err
		}
		if _, err := fmt.Fprintln(out, "pkg: bench/read"); err != nil {
			return err
		}
		for range runs {
			for _, size := range []int{4 << 10, 128 << 10, 1 << 20} {
				if err := compare(out, t, n, plain, size, max(2*batch, reads*4096/max(size/16, 4096))); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// withTree opens an image over a store of its own.
func withTree(ctx context.Context, dir, ref string, fn func(image.Tree) error) error {
	return withCatalog(ctx, dir, func(c *image.Catalog) error {
		tree, release, err := c.Open(ctx, image.AttachImage+ref)
		if err != nil {
			return err
		}
		defer release()
		return fn(tree)
	})
}

// withCatalog opens the store in dir, and a catalog of images over it.
func withCatalog(ctx context.Context, dir string, fn func(*image.Catalog) error) (err error) {
	store, err := chunkstore.Open(ctx, chunkstore.Options{Dir: filepath.Join(dir, "chunks")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	sched := fetch.New(ctx, store, fetch.Options{})
	catalog, err := image.New(ctx, image.Options{
		Dir: filepath.Join(dir, "index"), Source: layout.New(), Store: store, Records: store.Records(),
		Scheduler: sched, Platform: platforms.DefaultSpec(),
	})
	if err != nil {
		sched.Close()
		return err
	}
	defer func() { err = errors.Join(err, catalog.Close()) }()
	defer sched.Close()
	return fn(catalog)
}

// copyOut reads a file whole, which has it cached, into a plain one.
func copyOut(ctx context.Context, t image.Tree, n uint64, path string) (*os.File, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 1<<20)
	for off := int64(0); off < fileBytes && err == nil; {
		var m int
		if m, err = t.ReadAt(ctx, n, buf, off); err == nil {
			_, err = f.WriteAt(buf[:m], off)
		}
		off += int64(m)
	}
	for try := 0; err == nil && !local(t, n, buf); try++ { // chunks are stored after they were served
		if time.Sleep(10 * time.Millisecond); try > 1000 {
			err = errors.New("the store does not have what was read")
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// local reports whether all of a file is in the store.
func local(t image.Tree, n uint64, buf []byte) bool {
	for off := int64(0); off < fileBytes; off += int64(len(buf)) {
		if _, ok, err := t.TryReadAt(n, buf, off); !ok || err != nil {
			return false
		}
	}
	return true
}

// compare times reads of one size, both ways.
func compare(out io.Writer, t image.Tree, n uint64, plain *os.File, size, reads int) error {
	fd := int(plain.Fd())
	buf, want := make([]byte, size), make([]byte, size)
	places := make([]int64, batch)
	var ours, bare []time.Duration
	allocs := uint64(0)
	for len(ours) < reads {
		for i := range places {
			places[i] = rand.Int64N(fileBytes/int64(size)) * int64(size)
		}
		took := make([]time.Duration, 2*batch)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i, off := range places {
			began := time.Now()
			m, ok, err := t.TryReadAt(n, buf, off)
			took[i] = time.Since(began)
			if m != size || !ok || err != nil {
				return fmt.Errorf("read of %d at %d: %d, %v, %w", size, off, m, ok, err)
			}
		}
		runtime.ReadMemStats(&after)
		for i, off := range places {
			began := time.Now()
			m, err := unix.Pread(fd, want, off)
			took[batch+i] = time.Since(began)
			if m != size || err != nil {
				return fmt.Errorf("pread of %d at %d: %d, %w", size, off, m, err)
			}
		}
		if !slices.Equal(buf, want) {
			return errors.New("the two ways read different bytes")
		}
		allocs += after.Mallocs - before.Mallocs
		ours, bare = append(ours, took[:batch]...), append(bare, took[batch:]...)
	}
	slices.Sort(ours)
	slices.Sort(bare)
	at := func(d []time.Duration, q float64) float64 { return float64(d[int(q*float64(len(d)-1))]) }
	_, err := fmt.Fprintf(out, "Benchmarkpread/%[1]s 1 %.0[2]f ns-p50 %.0[3]f ns-p99\n"+
		"Benchmarknineply/%[1]s 1 %.0[4]f ns-p50 %.0[5]f ns-p99 %.3[6]f of-pread-p50 %[7]d of-pread-p50-max %.4[8]f allocs/read 0.05 allocs/read-max\n",
		sizeName(size), at(bare, 0.5), at(bare, 0.99), at(ours, 0.5), at(ours, 0.99),
		at(ours, 0.5)/at(bare, 0.5), slower, float64(allocs)/float64(len(ours)))
	return err
}

func sizeName(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%dMiB", n>>20)
	}
	return fmt.Sprintf("%dKiB", n>>10)
}
