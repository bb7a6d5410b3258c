//go:build unix

package layerindex

import (
	"os"

	"golang.org/x/sys/unix"
)

// mapFile maps the first size bytes of f, which must not be 0. The mapping
// outlives f.
func mapFile(f *os.File, size int) (data []byte, unmap func([]byte) error, err error) {
	data, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, os.NewSyscallError("mmap", err)
	}
	return data, unix.Munmap, nil
}
