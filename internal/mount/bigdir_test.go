package mount_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/internal/mount"
	"github.com/nineply/nineply/internal/p9client"
	"github.com/nineply/nineply/p9server/p9test"
)

// bigDir is a tree with one directory of n files.
func bigDir(n int) []p9test.File {
	files := []p9test.File{{Path: "/d", Mode: unix.S_IFDIR | 0o755}}
	for i := range n {
		files = append(files, p9test.File{
			Path: fmt.Sprintf("/d/entry-number-%05d", i), Mode: unix.S_IFREG | 0o644, Data: fmt.Sprint(i),
		})
	}
	return files
}

// A directory of many entries is listed whole, in order and with the right
// attributes, while its listing is interrupted by the loss of the server.
func TestBigDirectory(t *testing.T) {
	const n = 10_000
	p := productTree(t, bigDir(n))
	m, dir := mountProduct(t, p, mount.Options{MaxFids: 64})
	d, err := os.Open(filepath.Join(dir, "d"))
	must(t, err)
	seen := 0
	for seen < n {
		ents, err := d.ReadDir(997)
		must(t, err)
		for _, e := range ents {
			info, err := e.Info()
			must(t, err)
			if want := fmt.Sprintf("entry-number-%05d", seen); e.Name() != want || info.Size() != int64(len(fmt.Sprint(seen))) {
				t.Fatalf("entry %d: %s, %d bytes", seen, e.Name(), info.Size())
			}
			seen++
		}
		p.stop()
		p.start()
	}
	must(t, d.Close())
	if st := m.Status(); st.Stale != 0 || st.Fids > 64 {
		t.Errorf("status %+v", st)
	}
}

// BenchmarkRelay shows what the relay costs: one Tgetattr at a time, and reads
// of 128 KiB, with it and without.
func BenchmarkRelay(b *testing.B) {
	big := string(pattern(128<<10, 1))
	p := productTree(b, []p9test.File{{Path: "/f", Mode: unix.S_IFREG | 0o644, Data: big}})
	opts := mount.SessionOptions{Dial: dialer(b, p.socket)}
	connect := func(b *testing.B, relayed bool) *p9client.File {
		conn, err := opts.Dial(b.Context())
		must(b, err)
		if relayed {
			var ours net.Conn
			server := conn
			ours, conn = connPair(b)
			ended := make(chan error, 1)
			go func() { ended <- mount.NewRelay(ours, opts).Run(testCtx(b), server) }()
			b.Cleanup(func() { must(b, <-ended) })
		}
		c, err := p9client.New(b.Context(), conn, p9client.Options{})
		must(b, err)
		b.Cleanup(func() { _ = c.Close() })
		root, err := c.Attach(b.Context(), "image/test")
		must(b, err)
		f, err := root.WalkOpen(b.Context(), "f")
		must(b, err)
		return f
	}
	for name, relayed := range map[string]bool{"direct": false, "relayed": true} {
		b.Run("stat/"+name, func(b *testing.B) {
			f := connect(b, relayed)
			b.ReportAllocs()
			for b.Loop() {
				_, err := f.Stat(b.Context())
				must(b, err)
			}
		})
		b.Run("read/"+name, func(b *testing.B) {
			f := connect(b, relayed)
			buf := make([]byte, len(big))
			b.SetBytes(int64(len(big)))
			b.ReportAllocs()
			for b.Loop() {
				_, err := f.ReadAt(b.Context(), buf, 0)
				must(b, err)
			}
		})
	}
}
