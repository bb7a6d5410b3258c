// Command memory measures what a daemon takes.
//
// Idle: twenty images of 100,000 files of 1 KiB each are attached, one connection for
// each, and a hundred files of each are looked up and read. The connections stay. When
// the background has filled and verified the images, and after a pause in which nobody
// asks for anything, see -pause, it is measured. A fifth of the files of an image are
// in no other one.
//
// Busy: an image of large files and one of small ones are read whole by 32 readers
// that share eight connections, while the background fills the same image, and a
// daemon with nothing in its cache has to fetch all of it. What is measured is the
// most that the process ever had.
//
//	go run ./bench/memory [-runs 1] [-images 20] [-files 100000] [-pause 30s]
//
// The images come from a registry on the loopback interface and are made as the
// converter does. The rows are the kernel's VmRSS, its parts RssAnon and RssFile, and
// its peak VmHWM, in MiB.
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
	"syscall"
	"time"

	"github.com/nineply/nineply/bench/generated"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/source/registry"
	"github.com/nineply/nineply/internal/testbed"
)

// The bars, MiB.
const (
	idleBar = 60
	busyBar = 150
)

type settings struct {
	runs, images, files int
	pause               time.Duration
	program, config     string
	large               int
}

func main() {
	var s settings
	flag.IntVar(&s.runs, "runs", 1, "how often it is measured")
	flag.IntVar(&s.images, "images", 20, "images that are attached")
	flag.IntVar(&s.files, "files", 100_000, "files of each of them")
	flag.IntVar(&s.large, "large", 200, "files of 4 MiB in the image of large files")
	flag.DurationVar(&s.pause, "pause", 30*time.Second, "how long nobody asks for anything before the idle daemon is measured")
	flag.StringVar(&s.program, "program", "bin/nineply", "the nineply to start")
	flag.StringVar(&s.config, "config", "", "configuration of the daemon, TOML text")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, s, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "memory:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, s settings, out io.Writer) (err error) {
	if err := testbed.Require("docker-registry"); err != nil {
		return err
	}
	bed, err := testbed.New("memory")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	addr, err := bed.StartRegistry(ctx)
	if err != nil {
		return err
	}
	b := bench{settings: s, addr: addr, out: out}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "pkg: bench/memory"); err != nil {
		return err
	}
	for range s.runs {
		if err := b.round(ctx, "idle", b.idle); err != nil {
			return fmt.Errorf("idle: %w", err)
		}
		if err := b.round(ctx, "busy", b.busy); err != nil {
			return fmt.Errorf("busy: %w", err)
		}
	}
	return nil
}

type bench struct {
	settings
	addr string
	out  io.Writer
}

// The images.
const (
	largeImage = "large"
	smallImage = "small"
	smallFiles = 30_000
	ownEvery   = 5 // one of so many files is in no other image
)

func (b *bench) ref(name string) string { return b.addr + "/bench/" + name + ":v1" }

// fileName spreads files over directories of a hundred.
func fileName(i int) string { return fmt.Sprintf("usr/lib/package-%05d/file-%03d", i/100, i%100) }

// prepare makes the images.
func (b *bench) prepare(ctx context.Context) (err error) {
	r := registry.New(registry.Options{})
	defer func() { err = errors.Join(err, r.Close()) }()
	push := func(name string, count int, size int64, seed uint64) error {
		files := make([]generated.File, count)
		for i := range files {
			files[i] = generated.File{Name: fileName(i), Size: size, Number: uint64(i)}
			if i%ownEvery == 0 {
				files[i].Number += seed << 32
			}
		}
		_, err := generated.Push(ctx, r, b.ref(name), files, estargz.WriterOptions{Level: 1})
		return err
	}
	for i := range b.images {
		if err := push(imageName(i), b.files, 1<<10, uint64(i)+1); err != nil {
			return err
		}
	}
	return errors.Join(push(largeImage, b.large, 4<<20, 1000), push(smallImage, smallFiles, 6000, 1001))
}

func imageName(i int) string { return fmt.Sprintf("many-%02d", i) }
