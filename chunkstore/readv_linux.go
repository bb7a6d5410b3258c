package chunkstore

import (
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReadVAt implements [File] with preadv: one system call for a header, the
// caller's buffer and the edges of its blocks.
func (f *osFile) ReadVAt(bufs [][]byte, off int64) (int, error) {
	if err := f.acquire(); err != nil {
		return 0, err
	}
	defer f.drop()
	done, want := 0, 0
	for _, b := range bufs {
		want += len(b)
	}
	for done < want {
		n, err := preadv(f.fd, bufs, done, off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != 0:
			return done, f.fail("read", err)
		case n == 0:
			return done, io.EOF
		default:
			done += n
		}
	}
	return done, nil
}

// preadv makes the call for what is left of bufs after the first skip bytes.
func preadv(fd int, bufs [][]byte, skip int, off int64) (int, unix.Errno) {
	vec := iovecPool.Get().(*iovecs)
	count := 0
	for _, b := range bufs {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		b = b[skip:]
		skip = 0
		if count == len(vec.v) {
			break
		}
		vec.v[count].Base = &b[0]
		vec.v[count].SetLen(len(b))
		count++
	}
	// The offset travels as two longs; on 64-bit machines the first holds it all.
	lo, hi := uintptr(off), uintptr(uint64(off)>>(unsafe.Sizeof(uintptr(0))*4)>>(unsafe.Sizeof(uintptr(0))*4))
	n, _, errno := unix.Syscall6(unix.SYS_PREADV, uintptr(fd), uintptr(unsafe.Pointer(&vec.v[0])), uintptr(count), lo, hi, 0)
	clear(vec.v[:count]) // the pool must not keep the caller's buffers alive
	iovecPool.Put(vec)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
