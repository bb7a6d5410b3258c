// Command coldstart measures cold starts: how long it takes, over a network of a
// given round trip and bandwidth, until a container of an image that was never
// pulled prints its first line, and what is asked of the registry for that.
//
//	go run ./bench/coldstart [-runs 5] [-rtt 20ms] [-rate 50e6] [-only NAME,...] [-timeline FILE] [-logs DIR]
//
// Each run has a daemon and a containerd of its own, with empty directories. The
// variants take turns, so that what else the machine does falls on all of them.
// Between them and the registry is a proxy that shapes the connections, and behind
// that one that writes down the requests, whose list goes to the timeline file.
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
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings come from the command line.
type settings struct {
	runs     int
	rtt      time.Duration
	rate     float64
	only     string
	timeline string
	logs     string
	program  string
}

func main() {
	var s settings
	flag.IntVar(&s.runs, "runs", 5, "how often each variant is measured")
	flag.DurationVar(&s.rtt, "rtt", 20*time.Millisecond, "round trip between node and registry")
	flag.Float64Var(&s.rate, "rate", 50e6, "bytes per second between them; 0: no limit")
	flag.StringVar(&s.only, "only", "", "names of the variants to measure, separated by commas; all by default")
	flag.StringVar(&s.timeline, "timeline", "", "file for the requests of each run")
	flag.StringVar(&s.logs, "logs", "", "directory to keep the daemon's log of each run in")
	flag.StringVar(&s.program, "program", "bin/nineply", "the nineply to start")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, s, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "coldstart:", err)
		os.Exit(1)
	}
}

// choose picks the variants that were asked for.
func choose(only string) ([]variant, error) {
	all := variants()
	if only == "" {
		return all, nil
	}
	var chosen []variant
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(all, func(v variant) bool { return v.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no variant %q", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// measure runs everything and prints a line for each run.
func measure(ctx context.Context, s settings, out io.Writer) (err error) {
	chosen, err := choose(s.only)
	if err != nil {
		return err
	}
	if s.program, err = filepath.Abs(s.program); err != nil {
		return err
	}
	timeline := io.Discard
	if s.timeline != "" {
		f, err := os.Create(s.timeline)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		timeline = f
	}
	b, err := newBench(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	for i := range chosen {
		if err := chosen[i].prepare(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", chosen[i].name, err)
		}
	}
	if _, err := fmt.Fprintln(out, "pkg: bench/coldstart"); err != nil {
		return err
	}
	for i := range s.runs {
		for k := range chosen {
			v := &chosen[k]
			o, err := b.run(ctx, v, i+1)
			if err != nil {
				return fmt.Errorf("%s, run %d: %w", v.name, i+1, err)
			}
			if err := errors.Join(o.print(out, v), o.printTimeline(timeline, v.name, i+1)); err != nil {
				return err
			}
		}
	}
	return nil
}
