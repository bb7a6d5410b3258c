package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	smallFiles  = 2000
	randomReads = 4000
	seqBuffer   = 1 << 20
	walkBuffer  = 64 << 10
)

// row is something to be done with a mount.
type row struct {
	name string
	run  func(ctx context.Context, root string) error
	warm float64 // how many times as long as native it may take; 0: anything
	cold float64
}

func (b *bench) allRows() []row {
	return []row{
		{name: "find", run: find, warm: 1.3},
		{name: "lstat", run: lstatWalk, warm: 1.3, cold: 4},
		{name: "small", run: b.smallFiles, warm: 1.3, cold: 4},
		{name: "tar", run: tarAll, warm: 1.3},
		{name: "sequential", run: sequential, warm: 1.3, cold: 2},
		{name: "random", run: randomBlocks, warm: 1.3},
	}
}

// rows measures every row, both mounts in turn, and compares.
func (b *bench) rows(ctx context.Context, out io.Writer) error {
	took := map[string][]float64{}
	for range b.runs {
		for _, r := range b.allRows() {
			if b.only != "" && !slices.Contains(strings.Split(b.only, ","), r.name) {
				continue
			}
			if err := b.turn(ctx, &r, took, out); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	for _, r := range b.allRows() {
		if err := errors.Join(compare(out, took, r.name+"/cold", r.cold), compare(out, took, r.name+"/warm", r.warm)); err != nil {
			return err
		}
	}
	return nil
}

// compare prints how the medians of a row relate.
func compare(out io.Writer, took map[string][]float64, row string, bar float64) error {
	native, ours := took["native/"+row], took["nineply/"+row]
	if native == nil {
		return nil
	}
	line := fmt.Sprintf("Benchmarkratio/%s 1 %.3f of-native", row, median(ours)/median(native))
	if bar > 0 {
		line += fmt.Sprintf(" %g of-native-max", bar)
	}
	_, err := fmt.Fprintln(out, line)
	return err
}

// turn measures one row once with each mount, cold and warm.
func (b *bench) turn(ctx context.Context, r *row, took map[string][]float64, out io.Writer) error {
	for _, m := range []struct{ name, root string }{{"native", b.native}, {"nineply", b.ours}} {
		for _, state := range []string{"cold", "warm"} {
			if state == "cold" {
				if err := dropCaches(); err != nil {
					return err
				}
			}
			runtime.GC()
			began := time.Now()
			if err := r.run(ctx, m.root); err != nil {
				return err
			}
			ms := float64(time.Since(began).Microseconds()) / 1000
			key := m.name + "/" + r.name + "/" + state
			took[key] = append(took[key], ms)
			if _, err := fmt.Fprintf(out, "Benchmark%s 1 %g ms\n", key, ms); err != nil {
				return err
			}
		}
	}
	return nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// dropCaches has the kernel forget what it can read again. What lies on a tmpfs
// it cannot.
func dropCaches() error {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

func find(ctx context.Context, root string) error {
	return exec.CommandContext(ctx, "find", root).Run()
}

// tarAll packs the tree. GNU tar reads no files if it sees that nobody wants
// them, so that somebody does.
func tarAll(ctx context.Context, root string) error {
	return exec.CommandContext(ctx, "bash", "-c", `set -o pipefail; tar -cf - -C "$1" . | cat >/dev/null`, "bash", root).Run()
}

// lstatWalk lists every directory and asks for the attributes of all in it.
func lstatWalk(_ context.Context, root string) error {
	return walkDir(root, make([]byte, walkBuffer))
}

func walkDir(dir string, buf []byte) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	names, err := listDir(fd, buf)
	var subdirs []string
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			subdirs = append(subdirs, dir+"/"+name)
		}
	}
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return err
	}
	for _, sub := range subdirs {
		if err := walkDir(sub, buf); err != nil {
			return err
		}
	}
	return nil
}

func listDir(fd int, buf []byte) (names []string, err error) {
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil || n == 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// smallFiles opens, reads and closes files all over the tree.
func (b *bench) smallFiles(_ context.Context, root string) error {
	buf := make([]byte, 256<<10)
	step := max(1, len(b.plan.files)/smallFiles)
	for i := 0; i < smallFiles*step && i < len(b.plan.files); i += step {
		fd, err := unix.Open(root+"/"+b.plan.files[i], unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		n, err := unix.Read(fd, buf)
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			return err
		}
	}
	return nil
}

func sequential(_ context.Context, root string) error {
	fd, err := unix.Open(filepath.Join(root, large), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	buf, total := make([]byte, seqBuffer), 0
	for {
		n, err := unix.Read(fd, buf)
		if total += n; err != nil || n == 0 {
			if err == nil && total != largeLen {
				err = fmt.Errorf("%d bytes of %d", total, largeLen)
			}
			return errors.Join(err, unix.Close(fd))
		}
	}
}

// randomBlocks reads blocks all over the large file.
func randomBlocks(_ context.Context, root string) error {
	fd, err := unix.Open(filepath.Join(root, large), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	rng, buf := rand.New(rand.NewPCG(seed, 2)), make([]byte, block)
	for range randomReads {
		if n, err := unix.Pread(fd, buf, rng.Int64N(largeLen/block)*block); err != nil || n != block {
			return errors.Join(fmt.Errorf("%d bytes", n), err, unix.Close(fd))
		}
	}
	return unix.Close(fd)
}

// sameTrees compares two trees, bytes included.
func sameTrees(a, b string) error {
	one, two := make([]byte, seqBuffer), make([]byte, seqBuffer)
	count := 0
	err := filepath.WalkDir(a, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		count++
		other := b + strings.TrimPrefix(path, a)
		var st, so unix.Stat_t
		if err := errors.Join(unix.Lstat(path, &st), unix.Lstat(other, &so)); err != nil {
			return err
		}
		if st.Mode != so.Mode || st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Size != so.Size {
			return fmt.Errorf("%s: mode %o and size %d there, %o and %d here", other, st.Mode, st.Size, so.Mode, so.Size)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			return nil
		}
		return sameBytes(path, other, one, two)
	})
	if err != nil {
		return err
	}
	err = filepath.WalkDir(b, func(_ string, _ fs.DirEntry, err error) error {
		count--
		return err
	})
	if err == nil && count != 0 {
		err = fmt.Errorf("%d entries more in one of the trees", count)
	}
	return err
}

func sameBytes(a, b string, one, two []byte) (err error) {
	fa, err := os.Open(a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fa.Close()) }()
	fb, err := os.Open(b)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fb.Close()) }()
	for {
		n, err := io.ReadFull(fa, one)
		m, other := io.ReadFull(fb, two)
		if n != m || !bytes.Equal(one[:n], two[:m]) || !errors.Is(other, err) {
			return fmt.Errorf("%s: other bytes than %s (%w)", b, a, other)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
