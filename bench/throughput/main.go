// Command throughput measures how fast a layer comes from a registry on the
// loopback interface into the chunk store, every chunk verified, and compares
// that with what a shell does with the same blob on two processors:
//
//	curl -s URL | (gzip -dc | sha256sum)
//
//	go run ./bench/throughput [-runs 5] -layer FILE
//
// The layer is a plain tar; it is converted first, and the converted one kept
// beside it. Both ways take turns. Figures are bytes of the blob, compressed, by
// second.
//
// The output is that of go test -bench, for bench/record.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/chunkstore"
	"github.com/nineply/nineply/internal/fetch"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testbed"
	"github.com/nineply/nineply/layerindex"
)

// wanted is the share of the shell's throughput to be reached.
const wanted = 0.8

func main() {
	runs := flag.Int("runs", 5, "how often each way is measured")
	layer := flag.String("layer", os.Getenv("NINEPLY_BENCH_LAYER"), "the layer, a plain tar file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, *layer, *runs, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "throughput:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, layer string, runs int, out io.Writer) (err error) {
	if err := testbed.Require("docker-registry", "curl"); err != nil {
		return err
	}
	bed, err := testbed.New("throughput")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	b := &bench{dir: bed.Dir, registry: registry.New(registry.Options{})}
	bed.OnClose(b.registry.Close)
	if err := b.prepare(ctx, bed, layer); err != nil {
		return err
	}
	bed.OnClose(b.index.Close)
	if _, err := fmt.Fprintln(out, "pkg: bench/throughput"); err != nil {
		return err
	}
	for i := range runs {
		shell, err := b.shell(ctx)
		if err != nil {
			return err
		}
		ours, err := b.ours(ctx, i)
		if err != nil {
			return err
		}
		mb := float64(b.desc.Size) / 1e6
		if _, err := fmt.Fprintf(out, "Benchmarkshell 1 %g MB/s\nBenchmarknineply 1 %g MB/s %g of-shell %g of-shell-min\n",
			mb/shell.Seconds(), mb/ours.Seconds(), shell.Seconds()/ours.Seconds(), wanted); err != nil {
			return err
		}
	}
	return nil
}

// bench is a blob in a registry, and its index.
type bench struct {
	dir      string
	registry *registry.Registry
	ref, url string
	desc     ocispec.Descriptor
	index    *layerindex.Index
}

func (b *bench) prepare(ctx context.Context, bed *testbed.Bed, layer string) error {
	addr, err := bed.StartRegistry(ctx)
	if err != nil {
		return err
	}
	file, err := converted(ctx, layer)
	if err != nil {
		return err
	}
	if b.desc, err = describe(file); err != nil {
		return err
	}
	b.ref = addr + "/bench:layer"
	b.url = "http://" + addr + "/v2/bench/blobs/" + b.desc.Digest.String()
	pusher, err := b.registry.Pusher(ctx, b.ref)
	if err != nil {
		return err
	}
	err = pusher.PushBlob(ctx, b.desc, func() (io.ReadCloser, error) { return os.Open(file) })
	if err != nil {
		return err
	}
	b.index, err = buildIndex(file, b.desc, filepath.Join(b.dir, "layer.idx"))
	return err
}

// shell measures the pipeline of programs.
func (b *bench) shell(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", `curl -sf "$1" | (gzip -dc | sha256sum)`, "bash", b.url)
	if text, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("curl and gzip: %w\n%s", err, text)
	}
	return time.Since(began), nil
}

// ours measures the way into an empty store, up to its last chunk.
func (b *bench) ours(ctx context.Context, number int) (took time.Duration, err error) {
	dir := filepath.Join(b.dir, fmt.Sprintf("store-%d", number))
	store, err := chunkstore.Open(ctx, chunkstore.Options{Dir: dir})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close(), os.RemoveAll(dir)) }()
	blob, err := b.registry.Blob(ctx, b.ref, b.desc)
	if err != nil {
		return 0, err
	}
	sched := fetch.New(ctx, store, fetch.Options{})
	defer sched.Close()
	l := sched.NewLayer("layer", blob, b.index)
	began := time.Now()
	l.Prefetch(b.desc.Size)
	if err := settle(ctx, sched); err != nil {
		return 0, err
	}
	took = time.Since(began)
	return took, b.complete(store)
}

// complete fails unless the store has every chunk.
func (b *bench) complete(store *chunkstore.Store) error {
	for i := range uint32(b.index.NumChunks()) {
		c, ok := b.index.Chunk(i)
		if !ok {
			return fmt.Errorf("no chunk %d", i)
		}
		if !c.Hole && !store.Has(chunkstore.Digest(c.Digest)) {
			return fmt.Errorf("chunk %d of %d did not come", i, b.index.NumChunks())
		}
	}
	return nil
}

// settle waits until nothing is queued and nothing runs.
func settle(ctx context.Context, sched *fetch.Scheduler) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if st := sched.Stats(); st.Queued == 0 && st.Active == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
