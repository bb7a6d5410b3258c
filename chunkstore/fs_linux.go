package chunkstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
)

// OSFS is the operating system's file system.
type OSFS struct{}

// OpenFile implements [FS].
func (OSFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	for {
		fd, err := unix.Open(name, flag|unix.O_CLOEXEC, uint32(perm.Perm()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		f := &osFile{fd: fd, name: name}
		f.refs.Store(1)
		return f, nil
	}
}

// Remove implements [FS].
func (OSFS) Remove(name string) error { return os.Remove(name) }

// Rename implements [FS].
func (OSFS) Rename(oldname, newname string) error { return os.Rename(oldname, newname) }

// MkdirAll implements [FS].
func (OSFS) MkdirAll(name string, perm fs.FileMode) error { return os.MkdirAll(name, perm) }

// ReadDir implements [FS].
func (OSFS) ReadDir(name string) ([]string, error) {
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// SyncDir implements [FS].
func (OSFS) SyncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Free implements [FS].
func (OSFS) Free(name string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(name, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: name, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Lock implements [FS] with flock, which ends with the process however it ends.
func (OSFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := lockHolder(f)
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fserr.Newf(fserr.Busy, "lock", name, "in use by another process%s", holder)
		}
		return nil, &fs.PathError{Op: "flock", Path: name, Err: err}
	}
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if _, err := f.WriteAt([]byte(pid), 0); err == nil {
		_ = f.Truncate(int64(len(pid))) // the number only serves a message
	}
	return f, nil
}

// lockHolder reads who took the lock, for an error message.
func lockHolder(f *os.File) string {
	buf := make([]byte, 16)
	n, err := f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (pid %d)", pid)
}

// BootID implements [FS]. Where the kernel does not tell, every open counts as
// a new boot.
func (OSFS) BootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// osFile is a descriptor with a count of its users, so that closing it while
// reads are under way can neither fail them nor let them meet a reused number.
// os.File does the same but offers no preadv.
type osFile struct {
	fd     int
	name   string
	refs   atomic.Int64 // one for being open, one per call in progress
	closed atomic.Bool
}

func (f *osFile) acquire() error {
	for {
		n := f.refs.Load()
		if n <= 0 || f.closed.Load() {
			return fs.ErrClosed
		}
		if f.refs.CompareAndSwap(n, n+1) {
			return nil
		}
	}
}

func (f *osFile) release() error {
	if f.refs.Add(-1) == 0 {
		return unix.Close(f.fd)
	}
	return nil
}

func (f *osFile) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}

// Close implements [File].
func (f *osFile) Close() error {
	if f.closed.Swap(true) {
		return fs.ErrClosed
	}
	if err := f.release(); err != nil {
		return f.fail("close", err)
	}
	return nil
}

// ReadAt implements [File].
func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.acquire(); err != nil {
		return 0, err
	}
	defer f.drop()
	done := 0
	for done < len(p) {
		n, err := unix.Pread(f.fd, p[done:], off+int64(done))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return done, f.fail("read", err)
		case n == 0:
			return done, io.EOF
		default:
			done += n
		}
	}
	return done, nil
}

// WriteAt implements [File].
func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.acquire(); err != nil {
		return 0, err
	}
	defer f.drop()
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(f.fd, p[done:], off+int64(done))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return done, f.fail("write", err)
		case n == 0:
			return done, f.fail("write", io.ErrShortWrite)
		default:
			done += n
		}
	}
	return done, nil
}

// drop gives up a reference; a late close error belongs to nobody.
func (f *osFile) drop() { _ = f.release() }

// do runs one call that takes only the descriptor, repeating it on EINTR.
func (f *osFile) do(op string, call func(fd int) error) error {
	if err := f.acquire(); err != nil {
		return err
	}
	defer f.drop()
	for {
		err := call(f.fd)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return f.fail(op, err)
		}
		return nil
	}
}

// Sync implements [File].
func (f *osFile) Sync() error { return f.do("fsync", unix.Fsync) }

// Truncate implements [File].
func (f *osFile) Truncate(size int64) error {
	return f.do("truncate", func(fd int) error { return unix.Ftruncate(fd, size) })
}

// Size implements [File].
func (f *osFile) Size() (int64, error) {
	var st unix.Stat_t
	err := f.do("stat", func(fd int) error { return unix.Fstat(fd, &st) })
	return st.Size, err
}

// PunchHole implements [File].
func (f *osFile) PunchHole(off, n int64) error {
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	err := f.do("punch hole", func(fd int) error { return unix.Fallocate(fd, mode, off, n) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return err
}

// iovecs is the kernel's form of a list of buffers, pooled because it must not
// be allocated on every read.
type iovecs struct{ v [4]unix.Iovec }

var iovecPool = sync.Pool{New: func() any { return new(iovecs) }}
