package mount_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/mount"
	"github.com/nineply/nineply/p9server/p9test"
)

const (
	benchFiles = 1000
	benchBig   = 64 << 20
)

// benchMount mounts a directory of small files, d, and a large one, big.
func benchMount(b *testing.B) (dir string, small []string) {
	b.Helper()
	files := []p9test.File{
		{Path: "/big", Mode: unix.S_IFREG | 0o644, Data: string(make([]byte, benchBig))},
		{Path: "/d", Mode: unix.S_IFDIR | 0o755},
	}
	content := string(pattern(4096, 5))
	for i := range benchFiles {
		files = append(files, p9test.File{Path: fmt.Sprintf("/d/%d", i), Mode: unix.S_IFREG | 0o644, Data: content})
	}
	_, dir = mountProduct(b, productTree(b, files), mount.Options{})
	noPoll(b, dir)
	for i := range benchFiles {
		small = append(small, filepath.Join(dir, "d", fmt.Sprint(i)))
	}
	return dir, small
}

// perFile reports the time for one of the files an iteration handles.
func perFile(b *testing.B) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchFiles, "ns/file")
}

// BenchmarkLookup is lstat of files nobody asked about before.
func BenchmarkLookup(b *testing.B) {
	dir, small := benchMount(b)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		evict(b, dir)
		b.StartTimer()
		for _, path := range small {
			var st unix.Stat_t
			must(b, unix.Lstat(path, &st))
		}
	}
	perFile(b)
}

// BenchmarkWalk is what find and ls -l do: list and lstat everything.
func BenchmarkWalk(b *testing.B) {
	for _, warm := range []bool{false, true} {
		b.Run(map[bool]string{false: "cold", true: "warm"}[warm], func(b *testing.B) {
			dir, _ := benchMount(b)
			for b.Loop() {
				if !warm {
					b.StopTimer()
					evict(b, dir)
					b.StartTimer()
				}
				must(b, filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
					if err == nil {
						_, err = d.Info()
					}
					return err
				}))
			}
			perFile(b)
		})
	}
}

// BenchmarkSmallFiles opens, reads and closes files of 4 KiB.
func BenchmarkSmallFiles(b *testing.B) {
	for _, warm := range []bool{false, true} {
		b.Run(map[bool]string{false: "cold", true: "warm"}[warm], func(b *testing.B) {
			dir, small := benchMount(b)
			buf := make([]byte, 8192)
			for b.Loop() {
				if !warm {
					b.StopTimer()
					evict(b, dir)
					b.StartTimer()
				}
				for _, path := range small {
					fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
					must(b, err)
					if n, err := unix.Read(fd, buf); n != 4096 {
						b.Fatal(n, err)
					}
					must(b, unix.Close(fd))
				}
			}
			perFile(b)
		})
	}
}

// BenchmarkSequential reads a large file; tmpfs is what there is to compare.
func BenchmarkSequential(b *testing.B) {
	dir, _ := benchMount(b)
	mem := b.TempDir()
	must(b, unix.Mount("tmpfs", mem, "tmpfs", 0, ""))
	b.Cleanup(func() { must(b, unix.Unmount(mem, unix.MNT_DETACH)) })
	must(b, os.WriteFile(filepath.Join(mem, "big"), make([]byte, benchBig), 0o644))
	for name, at := range map[string]string{"cold": dir, "warm": dir, "tmpfs": mem} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 1<<20)
			b.SetBytes(benchBig)
			for b.Loop() {
				if name == "cold" {
					b.StopTimer()
					evict(b, dir)
					b.StartTimer()
				}
				f, err := os.Open(filepath.Join(at, "big"))
				must(b, err)
				for n := 1; n > 0; {
					n, _ = f.Read(buf) // the end is an error too
				}
				must(b, f.Close())
			}
		})
	}
}
