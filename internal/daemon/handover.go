package daemon

import (
	"errors"
	"strings"

	"github.com/nineply/nineply/internal/config"
	"github.com/nineply/nineply/snapshotter"
)

// rawMSize is the size of messages of mounts that others make: 256 KiB of payload,
// and the header. Kernels before 6.19 need contiguous memory for them.
const rawMSize = 256<<10 + 24

// rawMounts says how others are to mount, nil if this host does.
func rawMounts(c config.Config) (*snapshotter.RawMounts, error) {
	if c.Snapshotter.Handover != "raw" {
		return nil, nil
	}
	for _, addr := range c.Listen.NineP {
		if path, ok := strings.CutPrefix(addr, "unix:"); ok {
			return &snapshotter.RawMounts{Socket: path, MSize: rawMSize}, nil
		}
	}
	return nil, errors.New("snapshotter.handover: raw needs a unix socket in listen.ninep")
}
