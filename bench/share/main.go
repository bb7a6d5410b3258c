// Command share measures what of a second image is fetched when it has most of its
// files in common with one that was read before.
//
// A tenth of the files of the second image are others. As an update has it, these
// are whole directories, as the files of a package are; scattered, they are every
// tenth one. Both images are read whole over 9P, the first one first. Bytes are all that
// the daemon got for the second image, manifest, config and table of contents
// included.
//
//	go run ./bench/share [-runs 1] [-files 20000]
//
// The output is that of go test -bench, for bench/record.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/nineply/nineply/bench/generated"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/p9client"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testbed"
)

const (
	// changed: one of so many files is another one in the second image.
	changed = 10
	// perDir is how many files a directory has.
	perDir = 50
	// most is the share of the second image's bytes that may be fetched, percent.
	most = 12
	// readers read an image at once.
	readers = 8
)

type bench struct {
	files   int
	program string
	out     io.Writer
	reg     *registry.Registry
	addr    string
}

func main() {
	var b bench
	runs := flag.Int("runs", 1, "how often it is measured; the bytes are the same each time, or nearly so")
	flag.IntVar(&b.files, "files", 20_000, "files of an image")
	flag.StringVar(&b.program, "program", "bin/nineply", "the nineply to start")
	flag.Parse()
	b.out = os.Stdout
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.measure(ctx, *runs)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "share:", err)
		os.Exit(1)
	}
}

// packing is a way to write an image.
type packing struct {
	name string
	o    estargz.WriterOptions
}

func (b *bench) measure(ctx context.Context, runs int) (err error) {
	if err := testbed.Require("docker-registry"); err != nil {
		return err
	}
	bed, err := testbed.New("share")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	if b.addr, err = bed.StartRegistry(ctx); err != nil {
		return err
	}
	b.reg = registry.New(registry.Options{})
	bed.OnClose(b.reg.Close)
	if _, err := fmt.Fprintln(b.out, "pkg: bench/share"); err != nil {
		return err
	}
	for range runs {
		for _, p := range []packing{
			{"estargz", estargz.WriterOptions{}},
			{"estargz-file-each", estargz.WriterOptions{MinMemberSize: -1}},
			{"zstd-chunked", estargz.WriterOptions{Format: estargz.FormatZstdChunked}},
		} {
			for _, scattered := range []bool{false, true} {
				if err := b.pair(ctx, p, scattered); err != nil {
					return fmt.Errorf("%s: %w", p.name, err)
				}
			}
		}
	}
	return nil
}

// sizeOf spreads sizes as distributions do: half the files are below 4 KiB, few are
// large.
func sizeOf(i int) int64 {
	rng := rand.New(rand.NewPCG(1, uint64(i)))
	return int64(math.Min(2<<20, 4096*math.Exp(1.8*rng.NormFloat64())))
}

// image lists the files of the first or of the second image.
func (b *bench) image(second, scattered bool) []generated.File {
	files := make([]generated.File, b.files)
	for i := range files {
		files[i] = generated.File{Name: fmt.Sprintf("usr/lib/p%04d/f%02d", i/perDir, i%perDir), Size: sizeOf(i), Number: uint64(i)}
		other := i%changed == 0
		if !scattered {
			other = i/perDir%changed == 0
		}
		if second && other {
			files[i].Number += 1 << 32
		}
	}
	return files
}

// pair reads two images with a fresh daemon.
func (b *bench) pair(ctx context.Context, p packing, scattered bool) (err error) {
	bed, err := testbed.New("share-daemon")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	seen, err := bed.StartRecorder(ctx, b.addr)
	if err != nil {
		return err
	}
	d, err := bed.StartDaemon(ctx, b.program, "[fetch]\nbackground = false\n")
	if err != nil {
		return err
	}
	socket := "unix:" + filepath.Join(filepath.Dir(d.Control), "9p.sock")
	kind := "update"
	if scattered {
		kind = "scattered"
	}
	for _, second := range []bool{false, true} {
		name := fmt.Sprintf("/bench/%s-%s-%v:v1", p.name, kind, second)
		files := b.image(second, scattered)
		layer, err := generated.Push(ctx, b.reg, b.addr+name, files, p.o)
		if err != nil {
			return err
		}
		seen.Reset()
		if err := read(ctx, socket, seen.Addr+name, files); err != nil {
			return err
		}
		if !second {
			continue
		}
		_, err = fmt.Fprintf(b.out, "Benchmark%s/%s 1 %.2f fetched%% %d fetched%%-max %d bytes %d layer-bytes %d requests\n",
			p.name, kind, 100*float64(seen.Bytes())/float64(layer.Size), most, seen.Bytes(), layer.Size, len(seen.Requests()))
		if err != nil {
			return err
		}
	}
	return nil
}

// read reads all of an image.
func read(ctx context.Context, socket, ref string, files []generated.File) (err error) {
	c, err := p9client.Dial(ctx, socket, p9client.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	root, err := c.Attach(ctx, "image/"+ref)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for k := range readers {
		g.Go(func() error {
			buf := make([]byte, 1<<20)
			for i := k; i < len(files); i += readers {
				size, err := generated.Read(ctx, root, files[i].Name, buf)
				if err != nil {
					return err
				}
				if size != files[i].Size {
					return fmt.Errorf("%s has %d bytes, not %d", files[i].Name, size, files[i].Size)
				}
			}
			return nil
		})
	}
	return g.Wait()
}
