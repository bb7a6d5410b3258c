package mount

import (
	"context"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/fserr"
)

// V9FSUsable says why the kernel's own 9p client cannot be used, nil if it
// can. It may load the modules.
func V9FSUsable() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fserr.New(fserr.Unsupported, "use v9fs", "", err)
	}
	if err := checkRelease(unix.ByteSliceToString(u.Release[:])); err != nil {
		return fserr.New(fserr.Unsupported, "use v9fs", "", err)
	}
	list, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return fserr.New(fserr.Unsupported, "use v9fs", "", err)
	}
	if !listsV9FS(string(list)) {
		return fserr.New(fserr.Unsupported, "use v9fs", "", errors.New("the kernel has no 9p (CONFIG_9P_FS, CONFIG_NET_9P_FD)"))
	}
	return nil
}

func listsV9FS(filesystems string) bool {
	for _, line := range strings.Split(filesystems, "\n") {
		if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] == "9p" {
			return true
		}
	}
	return false
}

// v9fsSource starts the source of mounts made by this package.
const v9fsSource = "nineply:"

func checkRelease(string) error { return nil }

func newV9FSMount(context.Context, string, *Options) (backend, error) { return nil, V9FSUsable() }
