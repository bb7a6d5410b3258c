package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Names of writers that are compared.
const (
	imageEStargz = "image/estargz"
	imageZstd    = "image/zstd-chunked"
	ctrRemote    = "image/ctr-remote"
	plainGzip    = "tar/gzip6"
	plainZstd    = "tar/zstd3"
)

// cost is what a run took.
type cost struct {
	wall, cpu time.Duration
	memory    int64 // the most it had in memory, bytes; 0: not known
	size      int64 // of the layer
	bound     bool  // the memory has a bar
}

// String is the cost in the form of go test -bench.
func (c cost) String() string {
	s := fmt.Sprintf("%.3f s %.3f CPU-s %d bytes", c.wall.Seconds(), c.cpu.Seconds(), c.size)
	if c.memory > 0 {
		s += fmt.Sprintf(" %.1f MB", float64(c.memory)/1e6)
	}
	if c.bound {
		s += fmt.Sprintf(" %d MB-max", maxMemory)
	}
	return s
}

// bench is what the writers work on.
type bench struct {
	layer, nineply string
	dir            string // for all that is written
	image          string // the image as an OCI layout
	write          string // the program bench/convert/write
	ctrd           *containerd
}

func (b *bench) writers() []writer {
	tar := func(name string, args ...string) writer {
		return writer{"tar/" + name, func(ctx context.Context) (cost, error) { return b.fromTar(ctx, args...) }}
	}
	image := func(name string, args ...string) writer {
		return writer{name, func(ctx context.Context) (cost, error) { return b.fromImage(ctx, args...) }}
	}
	return []writer{
		image(imageEStargz),
		{ctrRemote, b.ctrRemote},
		image(imageZstd, "--format", "zstd:chunked"),
		{plainGzip, func(ctx context.Context) (cost, error) { return b.filter(ctx, "gzip", "-6", "-n") }},
		{plainZstd, func(ctx context.Context) (cost, error) { return b.filter(ctx, "zstd", "-3", "-q") }},
		tar("estargz"),
		tar("estargz-kept", "-keep-diff-id"),
		tar("zstd-chunked", "-format", "zstd"),
		tar("zstd-chunked-containers", "-format", "containers"),
	}
}

// prepare builds the writer of plain tars, the image, and a containerd that has it.
func (b *bench) prepare(ctx context.Context) error {
	b.write = filepath.Join(b.dir, "write")
	if err := quiet(ctx, "go", "build", "-o", b.write, "./bench/convert/write"); err != nil {
		return err
	}
	b.image = filepath.Join(b.dir, "image")
	if err := writeImage(ctx, b.layer, b.image); err != nil {
		return err
	}
	archive := b.image + ".tar"
	if err := quiet(ctx, "tar", "-c", "-C", b.image, "-f", archive, "."); err != nil {
		return err
	}
	var err error
	if b.ctrd, err = startContainerd(ctx, filepath.Join(b.dir, "containerd")); err != nil {
		return err
	}
	if err := quiet(ctx, "ctr", "-a", b.ctrd.socket, "images", "import", "--no-unpack", archive); err != nil {
		return errors.Join(err, b.ctrd.stop())
	}
	if err := b.ctrd.remember(); err != nil {
		return errors.Join(err, b.ctrd.stop())
	}
	return os.Remove(archive)
}

func (b *bench) close() {
	if err := b.ctrd.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "containerd:", err)
	}
}

// quiet runs a command that says nothing unless it fails.
func quiet(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// measured runs a command and says what that took.
func measured(cmd *exec.Cmd) (cost, error) {
	cmd.Stderr = nil
	begun := time.Now()
	if err := cmd.Run(); err != nil {
		return cost{}, fmt.Errorf("%s: %w", cmd, err)
	}
	c := cost{wall: time.Since(begun), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		c.memory = usage.Maxrss << 10
	}
	return c, nil
}

func sized(c cost, path string) (cost, error) {
	info, err := os.Stat(path)
	if err != nil {
		return c, err
	}
	c.size = info.Size()
	return c, os.Remove(path)
}

// filter runs a command from the tar to a file.
func (b *bench) filter(ctx context.Context, name string, args ...string) (c cost, err error) {
	in, err := os.Open(b.layer)
	if err != nil {
		return cost{}, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	path := filepath.Join(b.dir, "out")
	out, err := os.Create(path)
	if err != nil {
		return cost{}, err
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin, cmd.Stdout = in, out
	c, err = measured(cmd)
	if err = errors.Join(err, out.Close()); err != nil {
		return cost{}, err
	}
	return sized(c, path)
}

// fromTar writes a layer from the plain tar.
func (b *bench) fromTar(ctx context.Context, args ...string) (cost, error) {
	path := filepath.Join(b.dir, "out")
	c, err := measured(exec.CommandContext(ctx, b.write, append(args, b.layer, path)...))
	if err != nil {
		return cost{}, err
	}
	c.bound = true
	return sized(c, path)
}

// fromImage converts the image.
func (b *bench) fromImage(ctx context.Context, args ...string) (cost, error) {
	to := filepath.Join(b.dir, "converted")
	args = append([]string{"convert", "--quiet", "--temp-dir", b.dir, "oci:" + b.image + ":v1", "oci:" + to + ":v1"}, args...)
	c, err := measured(exec.CommandContext(ctx, b.nineply, args...))
	if err != nil {
		return cost{}, err
	}
	c.bound = true
	if c.size, err = largest(filepath.Join(to, "blobs", "sha256")); err != nil {
		return cost{}, err
	}
	return c, os.RemoveAll(to)
}

// largest gives the size of the largest file: the layer is.
func largest(dir string) (size int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return 0, err
		}
		size = max(size, info.Size())
	}
	return size, nil
}

// ctrRemote converts the image in containerd's store.
func (b *bench) ctrRemote(ctx context.Context) (cost, error) {
	ctr := func(args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, "ctr-remote", append([]string{"-a", b.ctrd.socket}, args...)...)
	}
	before, err := b.ctrd.cpu()
	if err != nil {
		return cost{}, err
	}
	c, err := measured(ctr("images", "convert", "--estargz", "--oci", imageName, convertedName))
	if err != nil {
		return cost{}, err
	}
	after, err := b.ctrd.cpu()
	if err != nil {
		return cost{}, err
	}
	c.cpu += after - before
	if c.size, err = b.ctrd.largestNew(); err != nil {
		return cost{}, err
	}
	return c, quiet(ctx, "ctr", "-a", b.ctrd.socket, "images", "rm", "--sync", convertedName)
}

// ticks reads a number of a /proc file in which time is counted.
func ticks(s string) (time.Duration, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	return time.Duration(n) * time.Second / 100, err
}
