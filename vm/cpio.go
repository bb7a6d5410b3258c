package vm

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// cpio writes an initramfs: a "newc" cpio archive, the only form the kernel
// unpacks. The first error sticks and is returned by finish.
type cpio struct {
	w    *bufio.Writer
	ino  int
	made map[string]bool
	err  error
}

func newCPIO(w io.Writer) *cpio {
	return &cpio{w: bufio.NewWriterSize(w, 1<<20), made: map[string]bool{"/": true}}
}

func (c *cpio) header(name string, mode uint32, size int64, major, minor uint32) {
	if c.err != nil {
		return
	}
	c.ino++
	name = strings.TrimPrefix(name, "/")
	_, c.err = fmt.Fprintf(c.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0)
	if c.err != nil {
		return
	}
	_, c.err = c.w.WriteString(name + "\x00")
	c.pad(int64(110 + len(name) + 1))
}

// pad brings what had n bytes to a multiple of four.
func (c *cpio) pad(n int64) {
	if c.err == nil && n%4 != 0 {
		_, c.err = c.w.Write(make([]byte, 4-n%4))
	}
}

// dir adds a directory and its parents, once each.
func (c *cpio) dir(name string) {
	if c.made[name] {
		return
	}
	c.dir(path.Dir(name))
	c.made[name] = true
	c.header(name, unix.S_IFDIR|0o755, 0, 0, 0)
}

// console adds /dev/console, which the kernel opens before init runs.
func (c *cpio) console() {
	c.dir("/dev")
	c.header("/dev/console", unix.S_IFCHR|0o600, 0, 5, 1)
}

func (c *cpio) bytes(name string, data []byte, perm uint32) {
	c.dir(path.Dir(name))
	c.header(name, unix.S_IFREG|perm, int64(len(data)), 0, 0)
	if c.err == nil {
		_, c.err = c.w.Write(data)
	}
	c.pad(int64(len(data)))
}

func (c *cpio) hostFile(name, host string, perm uint32) {
	if c.err != nil {
		return
	}
	data, err := os.ReadFile(host)
	if err != nil {
		c.err = err
		return
	}
	c.bytes(name, data, perm)
}

func (c *cpio) finish() error {
	c.header("TRAILER!!!", 0, 0, 0, 0)
	if c.err == nil {
		c.err = c.w.Flush()
	}
	if c.err != nil {
		return fmt.Errorf("initramfs: %w", c.err)
	}
	return nil
}
