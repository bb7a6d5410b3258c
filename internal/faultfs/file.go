package faultfs

import (
	"errors"
	"io"
	"io/fs"
	"syscall"
)

// file is an open file.
type file struct {
	fs     *FS
	name   string
	node   *inode
	closed bool // under fs.mu
}

// begin takes the lock and checks what all calls check; the caller unlocks.
func (h *file) begin(op string, off, n int64, changes bool) error {
	h.fs.mu.Lock()
	if h.closed {
		return &fs.PathError{Op: op, Path: h.name, Err: fs.ErrClosed}
	}
	return h.fs.check(op, h.name, off, n, changes)
}

// Close implements [chunkstore.File].
func (h *file) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return &fs.PathError{Op: "close", Path: h.name, Err: fs.ErrClosed}
	}
	h.closed = true
	return nil
}

// ReadAt implements [chunkstore.File].
func (h *file) ReadAt(p []byte, off int64) (int, error) {
	err := h.begin("read", off, int64(len(p)), false)
	defer h.fs.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return h.node.now.readAt(p, off)
}

// ReadVAt implements [chunkstore.File].
func (h *file) ReadVAt(bufs [][]byte, off int64) (int, error) {
	done := 0
	for _, b := range bufs {
		n, err := h.ReadAt(b, off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// WriteAt implements [chunkstore.File].
func (h *file) WriteAt(p []byte, off int64) (int, error) {
	err := h.begin("write", off, int64(len(p)), true)
	defer h.fs.mu.Unlock()
	var torn Torn
	switch {
	case errors.As(err, &torn):
		n := min(int64(len(p)), torn.N)
		h.node.write(p[:n], off)
		return int(n), &fs.PathError{Op: "write", Path: h.name, Err: torn.Err}
	case err != nil:
		return 0, err
	}
	n := int64(len(p))
	if over := h.fs.allocated("") + h.growth(off, n) - h.fs.capacity; over > 0 {
		n = max(0, n-over-pageSize)
		h.node.write(p[:n], off)
		return int(n), &fs.PathError{Op: "write", Path: h.name, Err: syscall.ENOSPC}
	}
	h.node.write(p, off)
	return len(p), nil
}

// growth is how many bytes a write would allocate.
func (h *file) growth(off, n int64) int64 {
	var pages int64
	for i := off / pageSize; i*pageSize < off+n; i++ {
		if h.node.now.pages[i] == nil {
			pages++
		}
	}
	return pages * pageSize
}

// Sync implements [chunkstore.File].
func (h *file) Sync() error {
	err := h.begin("sync", 0, 0, true)
	defer h.fs.mu.Unlock()
	if err != nil {
		return err
	}
	h.node.sync()
	return nil
}

// Truncate implements [chunkstore.File].
func (h *file) Truncate(size int64) error {
	err := h.begin("truncate", size, 0, true)
	defer h.fs.mu.Unlock()
	if err != nil {
		return err
	}
	h.node.do(func(c *content) { c.truncate(size) })
	return nil
}

// Size implements [chunkstore.File].
func (h *file) Size() (int64, error) {
	err := h.begin("size", 0, 0, false)
	defer h.fs.mu.Unlock()
	return h.node.now.size, err
}

// PunchHole implements [chunkstore.File].
func (h *file) PunchHole(off, n int64) error {
	err := h.begin("punch", off, n, true)
	defer h.fs.mu.Unlock()
	if err != nil {
		return err
	}
	h.node.do(func(c *content) { c.punch(off, n) })
	return nil
}

var _ io.ReaderAt = (*file)(nil)
