package mount

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
)

// The FUSE protocol, as much of it as a tree that never changes needs. Numbers
// are in the order of the machine.
const (
	fuseMajor    = 7
	fuseMinor    = 31 // what is spoken here
	fuseMinMinor = 23 // of the kernel, for the size of the answer to INIT

	inHeaderSize  = 40
	outHeaderSize = 16
	attrSize      = 88
	entrySize     = 128
	initOutSize   = 64
	statfsSize    = 80
)

// Operations.
const (
	fuseLookup      = 1
	fuseForget      = 2
	fuseGetattr     = 3
	fuseReadlink    = 5
	fuseOpen        = 14
	fuseRead        = 15
	fuseStatfs      = 17
	fuseGetxattr    = 22
	fuseListxattr   = 23
	fuseInit        = 26
	fuseOpendir     = 27
	fuseReaddir     = 28
	fuseInterrupt   = 36
	fuseDestroy     = 38
	fuseBatchForget = 42
	fuseReaddirplus = 44
	fuseRelease     = 18
	fuseReleasedir  = 29
)

// Capabilities, as both sides name them in INIT.
const (
	capAsyncRead     = 1 << 0
	capReaddirplus   = 1 << 13
	capNoOpen        = 1 << 17
	capParallelDirs  = 1 << 18
	capMaxPages      = 1 << 22
	capCacheSymlinks = 1 << 23
	capNoOpendir     = 1 << 24
	capExplicitInval = 1 << 25
)

// What an open file or directory may do.
const (
	openKeepCache = 1 << 1
	openCacheDir  = 1 << 3
	openNoFlush   = 1 << 5
)

const (
	// requestSize is the longest request that comes: names and little else. The
	// kernel asks for this much room.
	requestSize = 8 << 10
	// replySize holds any answer but a directory's.
	replySize = outHeaderSize + 512
	// maxHostRead is the largest read the kernel sends; it is answered in one
	// piece.
	maxHostRead = 1 << 20
	pageSize    = 4096
)

// fuseRequest is one of the kernel's.
type fuseRequest struct {
	op     uint32
	unique uint64
	node   uint64
	pid    uint32
	body   []byte
}

// parseRequest takes a message apart.
func parseRequest(b []byte) (r fuseRequest, ok bool) {
	if len(b) < inHeaderSize || int(binary.NativeEndian.Uint32(b)) != len(b) {
		return r, false
	}
	e := binary.NativeEndian
	return fuseRequest{op: e.Uint32(b[4:]), unique: e.Uint64(b[8:]), node: e.Uint64(b[16:]), pid: e.Uint32(b[32:]), body: b[inHeaderSize:]}, true
}

// u32 and u64 read a field of the body; one that is not there is 0.
func (r *fuseRequest) u32(at int) uint32 {
	if at+4 > len(r.body) {
		return 0
	}
	return binary.NativeEndian.Uint32(r.body[at:])
}

func (r *fuseRequest) u64(at int) uint64 {
	if at+8 > len(r.body) {
		return 0
	}
	return binary.NativeEndian.Uint64(r.body[at:])
}

// name is the text from at on, without the zero that ends it.
func (r *fuseRequest) name(at int) []byte {
	if at >= len(r.body) {
		return nil
	}
	b := r.body[at:]
	if b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return b
}

// reply is an answer under construction, header first.
type reply struct{ b []byte }

func (w *reply) begin()       { w.b = append(w.b[:0], make([]byte, outHeaderSize)...) }
func (w *reply) u16(v uint16) { w.b = binary.NativeEndian.AppendUint16(w.b, v) }
func (w *reply) u32(v uint32) { w.b = binary.NativeEndian.AppendUint32(w.b, v) }
func (w *reply) u64(v uint64) { w.b = binary.NativeEndian.AppendUint64(w.b, v) }

// zeros appends n of them.
func (w *reply) zeros(n int) {
	var none [entrySize]byte
	w.b = append(w.b, none[:n]...)
}

// end completes the header. An errno takes the place of all that was appended.
func (w *reply) end(unique uint64, errno unix.Errno) []byte {
	if errno != 0 {
		w.b = w.b[:outHeaderSize]
	}
	binary.NativeEndian.PutUint32(w.b, uint32(len(w.b)))
	binary.NativeEndian.PutUint32(w.b[4:], uint32(-int32(errno)))
	binary.NativeEndian.PutUint64(w.b[8:], unique)
	return w.b
}

// handler answers requests. handle appends to w and returns done, or says that
// nothing is to be answered (now).
type handler interface {
	handle(r *fuseRequest, w *reply) (errno unix.Errno, answer bool)
}

// device is the descriptor that the kernel's requests come from. It has been
// through INIT.
type device struct {
	file  *os.File
	fd    int
	flags uint32 // what the kernel can and we want
	wg    sync.WaitGroup
	eager eager
	freezer
}

// newDevice takes over a descriptor that was mounted, and greets the kernel.
func newDevice(file *os.File) (*device, error) {
	d := &device{file: file, fd: int(file.Fd()), freezer: newFreezer()}
	buf := make([]byte, requestSize)
	r, err := d.next(buf)
	if err != nil {
		return nil, err
	}
	kernel := r.u32(4) // its minor version
	if r.op != fuseInit || r.u32(0) != fuseMajor || kernel < fuseMinMinor {
		return nil, fserr.Newf(fserr.Unsupported, "greet the kernel", "", "it speaks FUSE %d.%d", r.u32(0), kernel)
	}
	const wanted = capAsyncRead | capReaddirplus | capNoOpen | capParallelDirs |
		capMaxPages | capCacheSymlinks | capNoOpendir | capExplicitInval
	d.flags = r.u32(12) & wanted
	var w reply
	w.begin()
	w.u32(fuseMajor)
	w.u32(fuseMinor)
	w.u32(max(r.u32(8), maxHostRead))
	w.u32(d.flags)
	w.u16(maxBackground)
	w.u16(maxBackground * 3 / 4)
	w.u32(pageSize) // of writes, which do not come
	w.u32(1)        // times are in nanoseconds
	w.u16(maxHostRead / pageSize)
	w.zeros(outHeaderSize + initOutSize - len(w.b))
	return d, d.send(w.end(r.unique, 0))
}

// errEnded: the kernel has given the mount up.
var errEnded = errors.New("the mount has ended")

// next waits for a request. The result lies in buf.
func (d *device) next(buf []byte) (r fuseRequest, err error) {
	for {
		if d.frozen.Load() {
			return r, errFrozen
		}
		n, err := unix.Read(d.fd, buf)
		switch {
		case err == nil:
			r, ok := parseRequest(buf[:n])
			if !ok {
				return r, fmt.Errorf("a request of %d bytes from the kernel cannot be", n)
			}
			return r, nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAGAIN): // taken back before we had it
			continue
		case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ECONNABORTED):
			return r, errEnded
		}
		return r, fmt.Errorf("read from the kernel: %w", err)
	}
}

// send answers. A request that nobody waits for any more is no error.
func (d *device) send(b []byte) error {
	for {
		_, err := unix.Write(d.fd, b)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EPERM):
			return errEnded
		}
		return fmt.Errorf("answer to the kernel: %w", err)
	}
}

// refuse answers a request with an errno alone.
func (d *device) refuse(unique uint64, errno unix.Errno) error {
	var w reply
	w.begin()
	return d.send(w.end(unique, errno))
}

// serveUntilFrozen has n goroutines answer requests until the kernel has given up
// (nil) or the device is frozen (errFrozen).
func (d *device) serveUntilFrozen(n int, h handler) error {
	d.eager.start()
	errs := make([]error, n)
	for i := range n {
		d.wg.Add(1)
		go func() {
			defer d.wg.Done()
			errs[i] = d.loop(h)
		}()
	}
	d.wg.Wait()
	frozen := 0
	for _, err := range errs {
		switch {
		case errors.Is(err, errFrozen):
			frozen++
		case !errors.Is(err, errEnded):
			return err
		}
	}
	if frozen == n {
		return errFrozen
	}
	return nil
}

func (d *device) loop(h handler) error {
	buf, w := make([]byte, requestSize), &reply{b: make([]byte, 0, replySize)}
	for {
		d.lookOut()
		r, err := d.next(buf)
		if err != nil {
			return err
		}
		d.eager.came(r.op)
		w.begin()
		errno, answer := h.handle(&r, w)
		if answer {
			err = d.send(w.end(r.unique, errno))
		}
		if err != nil {
			return err
		}
		d.eager.done()
		if cap(w.b) > 4*replySize {
			w.b = make([]byte, 0, replySize) // a directory's goes
		}
	}
}
