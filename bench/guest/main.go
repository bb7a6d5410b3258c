// Command guest measures an image mounted in guests with other kernels, under
// User-Mode Linux and QEMU, against what else these have for the same tree: the
// guest's own tmpfs, and a directory of the host by QEMU's virtio-9p or by
// UML's hostfs.
//
//	go run ./bench/guest [-runs 3] [-files 2000] [-guests uml,qemu] [-mounts v9fs,...]
//
// The mounts of the image are v9fs, the kernel's client over TCP; forward, the
// same over a port that QEMU itself joins with the daemon's socket; keeper, by
// nineply-mount, which survives the daemon; and fuse, the same with FUSE.
//
// What the daemon keeps lies on a tmpfs, and is complete before anything is
// measured. The rows named ratio compare medians of one guest. The rows named
// echo are round trips with a server that does nothing but answer, on the same
// ways; server is the daemon's own share of a message.
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
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/testbed"
	"github.com/nineply/nineply/vm"
)

// settings come from the command line.
type settings struct {
	runs    int
	files   int
	guests  string
	mounts  string
	only    string
	program string
	helper  string
	msize   int
}

func main() {
	var s settings
	flag.IntVar(&s.runs, "runs", 3, "how often each row is measured")
	flag.IntVar(&s.files, "files", 2000, "small files in the image")
	flag.StringVar(&s.guests, "guests", "uml,qemu", "guests to boot, separated by commas")
	flag.StringVar(&s.mounts, "mounts", "v9fs,forward,keeper,fuse", "mounts of the image, separated by commas")
	flag.StringVar(&s.only, "only", "", "rows to measure, separated by commas; all by default")
	flag.StringVar(&s.program, "program", "bin/nineply", "the nineply to start")
	flag.StringVar(&s.helper, "helper", "bin/nineply-mount", "the nineply-mount of the guests; static")
	flag.IntVar(&s.msize, "msize", 256<<10+24, "message size of v9fs and forward, bytes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, s, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// bench is the image, served, and its tree unpacked.
type bench struct {
	settings
	bed    *testbed.Bed
	tree   string // unpacked
	aname  string
	state  string // directory of the daemon's sockets
	echo   string // unix socket of the server that echoes
	inside string // program for the guests
}

func measure(ctx context.Context, s settings, out io.Writer) (err error) {
	if err := errors.Join(testbed.Require("docker-registry"), vm.MissingUML(), vm.MissingQEMU()); err != nil {
		return err
	}
	bed, err := testbed.New("guest")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	b := &bench{settings: s, bed: bed, state: filepath.Join(bed.Dir, "run")}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "pkg: bench/guest"); err != nil {
		return err
	}
	for _, kind := range strings.Split(s.guests, ",") {
		if err := b.guest(ctx, kind, out); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	return nil
}

// prepare makes the image and starts what serves it.
func (b *bench) prepare(ctx context.Context) error {
	dir := b.bed.Dir
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("tmpfs on %s: %w", dir, err)
	}
	b.bed.OnClose(func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	files := plan(b.files)
	b.tree = filepath.Join(dir, "tree")
	if err := unpack(b.tree, files); err != nil {
		return err
	}
	address, err := b.bed.StartRegistry(ctx)
	if err != nil {
		return err
	}
	ref := address + "/bench/guest:v1"
	b.aname = "image/" + ref
	if err := push(ctx, ref, files); err != nil {
		return err
	}
	if _, err := b.bed.StartDaemon(ctx, b.program, "[fetch]\nbackground = false\n"); err != nil {
		return err
	}
	b.echo = filepath.Join(dir, "echo.sock")
	stop, err := serveEcho(ctx, b.echo)
	if err != nil {
		return err
	}
	b.bed.OnClose(stop)
	say("building the guests' program")
	b.inside, err = vm.BuildStatic(ctx, dir, "github.com/nineply/nineply/bench/guest/inside")
	return err
}
