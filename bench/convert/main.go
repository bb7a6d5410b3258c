// Command convert compares writers of layers on one large layer, in one run: this
// product's, Debian's ctr-remote, gzip and zstd. It prints what go test -bench
// would, for bench/record:
//
//	go run ./bench/convert [-runs 5] [-layer TAR] | go run ./bench/record
//
// Images are converted from an OCI layout whose layer is gzip -6; ctr-remote, which
// works in the store of a containerd, has one of its own for the purpose, whose CPU
// time counts as its own does. Layers are also written directly from the plain tar,
// which is what gzip and zstd are given. The writers take turns, so that a busy
// machine is equally busy for all of them.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	layer := flag.String("layer", "", "plain tar `file`; that of bench/convert/layer.sh by default")
	nineply := flag.String("program", "bin/nineply", "the nineply to measure")
	runs := flag.Int("runs", 5, "how often each writer is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := compare(ctx, os.Stdout, *layer, *nineply, *runs)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "convert:", err)
		os.Exit(1)
	}
}

// A writer makes a layer; run gives what that took and the layer's size.
type writer struct {
	name string
	run  func(ctx context.Context) (cost, error)
}

// compare runs all writers in turn and prints what each run took, and last what is
// to be held against each other.
func compare(ctx context.Context, w io.Writer, layer, nineply string, runs int) error {
	if layer == "" {
		out, err := exec.CommandContext(ctx, "bench/convert/layer.sh").Output()
		if err != nil {
			return fmt.Errorf("bench/convert/layer.sh: %w", err)
		}
		layer = strings.TrimSpace(string(out))
	}
	dir, err := os.MkdirTemp(filepath.Dir(layer), "convert-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a directory that stays does no harm
	b := bench{layer: layer, nineply: nineply, dir: dir}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	defer b.close()
	if _, err := fmt.Fprintln(w, "pkg: convert"); err != nil {
		return err
	}
	all := make(map[string][]cost)
	for range runs {
		for _, writer := range b.writers() {
			c, err := writer.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", writer.name, err)
			}
			all[writer.name] = append(all[writer.name], c)
			if _, err := fmt.Fprintf(w, "Benchmark%s 1 %s\n", writer.name, c); err != nil {
				return err
			}
		}
	}
	return report(w, all)
}

// The bars.
const (
	minSpeedup = 3.0  // of eStargz, in wall time, over ctr-remote
	maxRatio   = 1.0  // of the sizes of the two
	maxZstd    = 1.06 // of the size of zstd:chunked and that of zstd -3
	maxMemory  = 150  // MB
)

// report prints what the bars are for.
func report(w io.Writer, all map[string][]cost) error {
	wall := func(name string) float64 { return middle(all[name], func(c cost) float64 { return c.wall.Seconds() }) }
	cpu := func(name string) float64 { return middle(all[name], func(c cost) float64 { return c.cpu.Seconds() }) }
	size := func(name string) float64 { return middle(all[name], func(c cost) float64 { return float64(c.size) }) }
	lines := []struct {
		name  string
		value float64
		unit  string
		bar   float64
	}{
		{"estargz-to-ctr-remote", wall(ctrRemote) / wall(imageEStargz), "times-faster", minSpeedup},
		{"estargz-to-ctr-remote", size(imageEStargz) / size(ctrRemote), "size", maxRatio},
		{"zstd-chunked-to-zstd3", size(imageZstd) / size(plainZstd), "size", maxZstd},
	}
	for _, l := range lines {
		end := "-max"
		if l.unit == "times-faster" {
			end = "-min"
		}
		if _, err := fmt.Fprintf(w, "Benchmark%s 1 %.4f %s %g %s%s\n", l.name, l.value, l.unit, l.bar, l.unit, end); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "Benchmarkestargz-to-ctr-remote 1 %.4f times-less-CPU\nBenchmarkestargz-to-gzip6 1 %.4f size\n",
		cpu(ctrRemote)/cpu(imageEStargz), size(imageEStargz)/size(plainGzip))
	return err
}

func middle(costs []cost, of func(cost) float64) float64 {
	var v []float64
	for _, c := range costs {
		v = append(v, of(c))
	}
	slices.Sort(v)
	return v[len(v)/2]
}
