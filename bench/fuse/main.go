// Command fuse measures FUSE mounts of an image, with a daemon and a keeper
// behind them, against the same tree on the machine's own file systems: an
// overlay of one tmpfs directory for each layer.
//
//	go run ./bench/fuse [-runs 5] [-files 30000] [-only ROW,...]
//
// What the daemon keeps lies on a tmpfs too, and is complete before anything is
// measured. Cold means that the kernel's caches were dropped before; warm, that
// the same was done once before. Both mounts take turns. Times are milliseconds.
// The rows named ratio compare the medians.
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

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/control"
	"github.com/nineply/nineply/internal/testbed"
)

// settings come from the command line.
type settings struct {
	runs    int
	files   int
	only    string
	program string
	config  string
	memory  bool
	hold    bool
}

func main() {
	var s settings
	flag.IntVar(&s.runs, "runs", 5, "how often each row is measured")
	flag.IntVar(&s.files, "files", 30_000, "files in the image")
	flag.StringVar(&s.only, "only", "", "rows to measure, separated by commas; all by default")
	flag.StringVar(&s.program, "program", "bin/nineply", "the nineply to start")
	flag.StringVar(&s.config, "config", "[fetch]\nbackground = false\n", "configuration of the daemon, TOML text; by default it does nothing in the background")
	flag.BoolVar(&s.memory, "memory", true, "measure the keeper's memory, too")
	flag.BoolVar(&s.hold, "hold", false, "keep the mounts until interrupted instead of measuring")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, s, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fuse:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// bench is the image, mounted in both ways.
type bench struct {
	settings
	bed    *testbed.Bed
	client *control.Client
	aname  string
	plan   *plan
	native string // mount points
	ours   string
}

func measure(ctx context.Context, s settings, out io.Writer) (err error) {
	if err := testbed.Require("docker-registry", "find", "tar"); err != nil {
		return err
	}
	bed, err := testbed.New("fuse")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	b := &bench{settings: s, bed: bed}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	if s.hold {
		say("native %s\nours   %s", b.native, b.ours)
		<-ctx.Done()
		return nil
	}
	if _, err := fmt.Fprintln(out, "pkg: bench/fuse"); err != nil {
		return err
	}
	if err := b.rows(ctx, out); err != nil {
		return err
	}
	if !s.memory {
		return nil
	}
	return b.memory(ctx, out)
}

// prepare makes the image and mounts it.
func (b *bench) prepare(ctx context.Context) error {
	if err := b.mountTmpfs(b.bed.Dir); err != nil {
		return err
	}
	b.plan = newPlan(b.files)
	say("writing %d files in %d layers", b.files, layers)
	lowers, err := b.plan.extract(filepath.Join(b.bed.Dir, "layers"))
	if err != nil {
		return err
	}
	if err := b.mountOverlay(lowers); err != nil {
		return err
	}
	addr, err := b.bed.StartRegistry(ctx)
	if err != nil {
		return err
	}
	say("pushing the image")
	ref := addr + "/bench/fuse:v1"
	if err := b.plan.push(ctx, ref); err != nil {
		return err
	}
	return b.mountOurs(ctx, ref)
}

func (b *bench) mountTmpfs(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("tmpfs on %s: %w", dir, err)
	}
	b.bed.OnClose(func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	return nil
}

// mountOverlay puts lowers, bottom first, together.
func (b *bench) mountOverlay(lowers []string) error {
	b.native = filepath.Join(b.bed.Dir, "native")
	if err := os.Mkdir(b.native, 0o755); err != nil {
		return err
	}
	top := slices.Clone(lowers)
	slices.Reverse(top)
	err := unix.Mount("overlay", b.native, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(top, ":"))
	if err != nil {
		return fmt.Errorf("overlay on %s: %w", b.native, err)
	}
	b.bed.OnClose(func() error { return unix.Unmount(b.native, 0) })
	return nil
}

// mountOurs starts a daemon, mounts the image and reads all of it once.
func (b *bench) mountOurs(ctx context.Context, ref string) error {
	daemon, err := b.bed.StartDaemon(ctx, b.program, b.config)
	if err != nil {
		return err
	}
	b.client = control.NewClient(daemon.Control)
	b.bed.OnClose(func() error { b.client.Close(); return nil })
	b.aname, b.ours = "image/"+ref, filepath.Join(b.bed.Dir, "ours")
	if err := b.mount(ctx, b.ours); err != nil {
		return err
	}
	say("filling the daemon's cache, and comparing the trees")
	began := time.Now()
	if err := sameTrees(b.native, b.ours); err != nil {
		return err
	}
	say("both trees are equal (%v)", time.Since(began).Round(time.Millisecond))
	return nil
}

// mount mounts the image on dir until the end.
func (b *bench) mount(ctx context.Context, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := b.client.Mount(ctx, control.MountRequest{Aname: b.aname, Target: dir, Mode: "fuse"}); err != nil {
		return err
	}
	b.bed.OnClose(func() error { return b.client.Unmount(context.WithoutCancel(ctx), dir) })
	return nil
}
