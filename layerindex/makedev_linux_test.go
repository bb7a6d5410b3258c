package layerindex_test

import (
	"math"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/layerindex"
)

func TestMakedevIsLinux(t *testing.T) {
	values := []uint32{0, 1, 3, 0xff, 0x100, 0xfff, 0x1000, 0xfffff, 0x12345678, math.MaxUint32}
	for _, major := range values {
		for _, minor := range values {
			if got, want := layerindex.Makedev(major, minor), unix.Mkdev(major, minor); got != want {
				t.Errorf("%#x:%#x is %#x, want %#x", major, minor, got, want)
			}
		}
	}
}
