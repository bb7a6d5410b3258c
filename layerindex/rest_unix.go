//go:build unix

package layerindex

import "golang.org/x/sys/unix"

func rest(data []byte) {
	if len(data) > 0 {
		_ = unix.Madvise(data, unix.MADV_DONTNEED) // advice; the mapping is of a file, and only read
	}
}
