package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// blockSize is the unit of st_blocks.
const blockSize = 512

// diskUsage adds up what is below dir. Files may come and go meanwhile, as they
// do in a running container.
func diskUsage(ctx context.Context, dir string) (snapshots.Usage, error) {
	var u snapshots.Usage
	type inode struct{ dev, ino uint64 }
	linked := map[inode]struct{}{} // only files with several names need a memory
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return ignoreVanished(path, dir, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fi, err := d.Info()
		if err != nil {
			return ignoreVanished(path, dir, err)
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("%s: no inode information", path)
		}
		if st.Nlink > 1 && !fi.IsDir() {
			key := inode{dev: st.Dev, ino: st.Ino}
			if _, counted := linked[key]; counted {
				return nil
			}
			linked[key] = struct{}{}
		}
		u.Inodes++
		u.Size += st.Blocks * blockSize
		return nil
	})
	if err != nil {
		return snapshots.Usage{}, err
	}
	return u, nil
}

func ignoreVanished(path, dir string, err error) error {
	if path != dir && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
