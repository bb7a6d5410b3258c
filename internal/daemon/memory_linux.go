package daemon

import (
	"bufio"
	"bytes"
	"debug/elf"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// restProgram gives back what is resident of files that only this process has mapped
// and that it does not write to: the program itself, and the tables of the chunk
// index. Of the program the page cache keeps what there is, so that it comes back
// without a disk. Advice that cannot be given is not.
func restProgram() {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	constant := !relocated(self)
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer func() { _ = maps.Close() }() // only read
	for sc := bufio.NewScanner(maps); sc.Scan(); {
		// From-to, permissions, offset, device, inode, path.
		f := bytes.Fields(sc.Bytes())
		if len(f) != 6 {
			continue
		}
		switch perm, path := string(f[1]), string(f[5]); {
		case path == self && (perm == "r-xp" || perm == "r--p" && constant):
			// It stays where it is as long as the process lives, and has no page of
			// its own: what is dropped is read again from the file.
			advise(f[0], unix.MADV_DONTNEED)
		case perm == "rw-s" && bytes.HasSuffix(f[5], []byte(".sst")):
			// It may be gone by now, and another mapping in its place: this advice
			// loses nothing whatever it meets.
			advise(f[0], unix.MADV_PAGEOUT)
		}
	}
}

// advise advises the kernel about one mapping, written as from-to in hexadecimal.
func advise(place []byte, advice uintptr) {
	from, to, _ := bytes.Cut(place, []byte("-"))
	lo, err1 := strconv.ParseUint(string(from), 16, 64)
	hi, err2 := strconv.ParseUint(string(to), 16, 64)
	if err1 == nil && err2 == nil && lo < hi {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(lo), uintptr(hi-lo), advice) // advice
	}
}

// relocated reports whether the program at path is one whose constants are written to
// when it is loaded, or of no known kind.
func relocated(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return true
	}
	defer func() { _ = f.Close() }() // only read
	return f.Type != elf.ET_EXEC
}
