package p9client_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/nineply/nineply/internal/p9client"
)

// replies are well formed bodies to start from: version, attach, walk, getattr,
// open, data, directory entry, error.
var replies = [][]byte{
	[]byte("\x15\x00\x00\x00\x65\xff\xff\x18\x00\x10\x00\x08\x009P2000.L"),
	[]byte("\x14\x00\x00\x00\x69\x00\x00\x80\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"),
	[]byte("\x16\x00\x00\x00\x6f\x01\x00\x01\x00\x80\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00"),
	[]byte("\x0b\x00\x00\x00\x75\x02\x00\x00\x00\x00\x00"),
	[]byte("\x24\x00\x00\x00\x29\x01\x00\x19\x00\x00\x00\x80\x01\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x04\x01\x00a"),
	[]byte("\x0b\x00\x00\x00\x07\x03\x00\x02\x00\x00\x00"),
	[]byte("\x07\x00\x00\x00\x6d\x04\x01"),
}

// exercise makes one call of every kind; only that it returns matters.
func exercise(ctx context.Context, c *p9client.Client) {
	root, err := c.Attach(ctx, "x")
	if err != nil {
		return
	}
	f, _, err := root.WalkStat(ctx, "a", "b")
	if err != nil {
		f = root
	}
	buf := make([]byte, 4096)
	_, _ = f.OpenReadAt(ctx, buf, 0)
	_, _ = f.ReadDir(ctx, 0, buf, nil)
	_, _ = f.Readlink(ctx)
	_, _ = f.Xattrs(ctx)
	_, _ = f.Statfs(ctx)
	_ = f.Close()
}

// FuzzServer plays a server that sends whatever it likes.
func FuzzServer(f *testing.F) {
	var all []byte
	for _, r := range replies {
		f.Add(r)
		all = append(all, r...)
		f.Add(all)
	}
	f.Fuzz(func(_ *testing.T, stream []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		ours, theirs := net.Pipe()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_, _ = io.Copy(io.Discard, theirs)
		}()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			if len(stream) < 20 || stream[4] != 0x65 {
				_, _ = theirs.Write(replies[0])
			}
			_, _ = theirs.Write(stream)
			_ = theirs.Close()
		}()
		c, err := p9client.New(ctx, ours, p9client.Options{})
		if err == nil {
			exercise(ctx, c)
			_ = c.Close()
		}
		_ = theirs.Close()
		<-sent
		<-drained
	})
}
