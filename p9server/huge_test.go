package p9server_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// vast is a tree that no image has: a directory of a million names of 255 bytes,
// and a file of 2^40 bytes, each made of its place when it is asked for.
type vast struct{}

const (
	vastEntries = 1_000_000
	vastFile    = vastEntries + 2
	vastSize    = 1 << 40
)

// vastName is i in 255 digits.
func vastName(i uint64) []byte {
	name := bytes.Repeat([]byte{'0'}, 255)
	for at := len(name) - 1; i > 0; at, i = at-1, i/10 {
		name[at] = byte('0' + i%10)
	}
	return name
}

func (vast) Root() uint64 { return 1 }

func (vast) Lookup(dir uint64, name []byte) (uint64, error) {
	var i uint64
	if dir != 1 {
		return 0, fserr.New(fserr.NotDir, "lookup", "", nil)
	}
	if string(name) == "vast" {
		return vastFile, nil
	}
	if n, err := fmt.Sscanf(string(name), "%d", &i); n != 1 || err != nil || i >= vastEntries || !bytes.Equal(name, vastName(i)) {
		return 0, fserr.New(fserr.NotExist, "lookup", "", nil)
	}
	return i + 2, nil
}

func (vast) Attr(n uint64) (layerindex.Attr, error) {
	switch n {
	case 1:
		return layerindex.Attr{Ino: 1, Mode: layerindex.ModeDir | 0o755, NLink: 2}, nil
	case vastFile:
		return layerindex.Attr{Ino: n, Mode: layerindex.ModeReg | 0o644, NLink: 1, Size: vastSize}, nil
	}
	return layerindex.Attr{Ino: n, Mode: layerindex.ModeReg | 0o644, NLink: 1}, nil
}

func (vast) Parent(uint64) (uint64, error) { return 1, nil }

func (vast) Readdir(_, pos uint64) (layerindex.Dirent, uint64, bool, error) {
	if pos >= vastEntries {
		return layerindex.Dirent{}, 0, false, nil
	}
	return layerindex.Dirent{Ino: pos + 2, Type: layerindex.DTReg, Name: vastName(pos)}, pos + 1, true, nil
}

func (vast) Readlink(uint64) ([]byte, error) {
	return nil, fserr.New(fserr.Invalid, "readlink", "", nil)
}
func (vast) Xattr(uint64, []byte) ([]byte, error) {
	return nil, fserr.New(fserr.NoAttr, "xattr", "", nil)
}
func (vast) XattrNames(uint64, func(name []byte) bool) error { return nil }
func (vast) Statfs() p9server.Statfs                         { return p9server.Statfs{} }

// TryReadAt gives eight bytes for each place: its offset.
func (vast) TryReadAt(_ uint64, p []byte, off int64) (int, bool, error) {
	for i := range p {
		at := off + int64(i)
		p[i] = byte(at &^ 7 >> (at & 7 * 8))
	}
	return len(p), true, nil
}

func (v vast) ReadAt(_ context.Context, n uint64, p []byte, off int64) (int, error) {
	done, _, err := v.TryReadAt(n, p, off)
	return done, err
}

// vastClient is a session with the largest messages.
func vastClient(t *testing.T) *p9test.Client {
	t.Helper()
	c := p9test.NewClient(t, serve(t, p9test.Export(vast{}), p9server.Options{}).dial())
	c.Start("1048600", "")
	return c
}

func TestMillionLongNames(t *testing.T) {
	c := vastClient(t)
	c.Exchange("Twalk fid=0 newfid=1", "Rwalk tag=0 wqid=[]")
	c.Exchange("Tlopen fid=1", "Rlopen tag=0 qid=(80.1.1) iounit=0")
	const fixed = 24
	var cookie, seen uint64
	for replies := 0; ; replies++ {
		c.Send(fmt.Sprintf("Treaddir fid=1 offset=%d count=1048576", cookie))
		msg, err := c.ReceiveBytes()
		if err != nil || msg[4] != 41 || len(msg) > 1048600 {
			t.Fatalf("reply %d: %d bytes of type %d, %v", replies, len(msg), msg[4], err)
		}
		data := msg[11:]
		if len(data) == 0 {
			break
		}
		for ; len(data) > 0; seen++ {
			name := data[fixed : fixed+int(binary.LittleEndian.Uint16(data[22:]))]
			if seen >= 2 && (!bytes.Equal(name, vastName(seen-2)) || binary.LittleEndian.Uint64(data[5:]) != seen || data[21] != layerindex.DTReg) {
				t.Fatalf("entry %d is %q", seen, name)
			}
			cookie = binary.LittleEndian.Uint64(data[13:])
			data = data[fixed+len(name):]
		}
	}
	if seen != vastEntries+2 {
		t.Errorf("%d entries", seen)
	}
	last := vastName(vastEntries - 1)
	c.Exchange(fmt.Sprintf("Twalk fid=0 newfid=2 wname=[%q]", last), fmt.Sprintf("Rwalk tag=0 wqid=[(0.1.%d)]", vastEntries+1))
	c.Exchange(fmt.Sprintf("Twalk fid=0 newfid=3 wname=[%q]", vastName(vastEntries)), "Rlerror tag=0 ecode=2")
	c.Exchange(fmt.Sprintf("Twalk fid=0 newfid=3 wname=[\"%s0\"]", last), "Rlerror tag=0 ecode=36")
	// Sixteen names of 255 bytes, through a file.
	c.Exchange("Twalk fid=0 newfid=3 wname=["+strings.Repeat(fmt.Sprintf("%q ", last), 15)+fmt.Sprintf("%q]", last),
		fmt.Sprintf("Rwalk tag=0 wqid=[(0.1.%d)]", vastEntries+1))
	c.Exchange("Tclunk fid=3", "Rlerror tag=0 ecode=9")
}

func TestVastFile(t *testing.T) {
	c := vastClient(t)
	c.Exchange(`Twalk fid=0 newfid=1 wname=["vast"]`, fmt.Sprintf("Rwalk tag=0 wqid=[(0.1.%d)]", vastFile))
	c.Exchange("Tlopen fid=1", fmt.Sprintf("Rlopen tag=0 qid=(0.1.%d) iounit=0", vastFile))
	c.Send("Tgetattr fid=1 mask=0x7ff")
	if got := c.Receive(); !strings.Contains(got, " size=1099511627776 ") || !strings.Contains(got, " blocks=2147483648 ") {
		t.Errorf("attributes: %s", got)
	}
	for _, tt := range []struct {
		off   uint64
		count uint32
		want  int
	}{
		{0, 8, 8},
		{1<<32 - 4, 16, 16},
		{vastSize - 5, 100, 5},
		{vastSize - 1<<20, math.MaxUint32, 1 << 20},
		{vastSize - 4<<20, math.MaxUint32, 1<<20 + 13}, // all that msize leaves
		{vastSize, 100, 0},
		{vastSize + 1, 100, 0},
		{math.MaxInt64, 100, 0},
	} {
		c.Send(fmt.Sprintf("Tread fid=1 offset=%d count=%d", tt.off, tt.count))
		msg, err := c.ReceiveBytes()
		if err != nil || msg[4] != 117 || len(msg) != 11+tt.want {
			t.Fatalf("%d bytes at %d: %d bytes of type %d, %v", tt.count, tt.off, len(msg), msg[4], err)
		}
		want := make([]byte, tt.want)
		_, _, _ = vast{}.TryReadAt(vastFile, want, int64(tt.off)) // never fails
		if !bytes.Equal(msg[11:], want) {
			t.Errorf("%d bytes at %d are wrong", tt.count, tt.off)
		}
	}
	c.Exchange("Tread fid=1 offset=9223372036854775808 count=1", "Rlerror tag=0 ecode=22")
}
