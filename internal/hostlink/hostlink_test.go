package hostlink_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/hostlink"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// content is that of every file: its node's number, over and over.
func content(n uint64, p []byte) { copy(p, bytes.Repeat([]byte{byte(n)}, len(p))) }

// fixture is a server with one tree. Nodes from 100 on have to be waited for,
// from 200 on they fail.
type fixture struct {
	path     string
	released atomic.Int32
	stuck    chan struct{} // node 150 waits for it
}

func serve(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{path: filepath.Join(t.TempDir(), "link"), stuck: make(chan struct{})}
	index := filepath.Join(t.TempDir(), "index")
	must(t, os.WriteFile(index, []byte("an index"), 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	ln, err := hostlink.Listen(ctx, f.path)
	must(t, err)
	s := hostlink.NewServer(hostlink.Options{MaxWaiting: 4, Attach: func(_ context.Context, aname string) (hostlink.Tree, error) {
		if aname != "image/known" {
			return hostlink.Tree{}, fserr.New(fserr.NotExist, "attach", aname, errors.New("no such image"))
		}
		file, err := os.Open(index)
		return hostlink.Tree{
			TryRead: f.tryRead, Read: f.read, Index: file, Release: func() { f.released.Add(1) },
			Welcome: hostlink.Welcome{Tree: "t", BlockSize: 4096, Blocks: 3, Files: 4},
		}, err
	}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ctx, ln) // stopped
	}()
	t.Cleanup(func() { cancel(); <-done })
	return f
}

func (f *fixture) tryRead(n uint64, p []byte, _ int64) (int, bool, error) {
	switch {
	case n >= 200:
		return 0, true, errors.New("damaged")
	case n >= 100:
		return 0, false, nil
	}
	m := min(len(p), 1000) // in pieces
	content(n, p[:m])
	return m, true, nil
}

func (f *fixture) read(ctx context.Context, n uint64, p []byte, _ int64) (int, error) {
	if n == 150 {
		select {
		case <-f.stuck:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	content(n, p)
	return len(p), nil
}

func testCtx(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// attach attaches with a pipe in place of a FUSE device. Only what is written to it
// at once, up to 4 KiB, stays together.
func attach(t testing.TB, f *fixture) (*hostlink.Conn, *os.File) {
	t.Helper()
	c, w, index, err := hostlink.Attach(testCtx(t), f.path, "image/known")
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	text, err := io.ReadAll(index)
	must(t, errors.Join(err, index.Close()))
	if string(text) != "an index" || w.Tree != "t" || w.Blocks != 3 || w.Files != 4 || w.BlockSize != 4096 {
		t.Errorf("index %q, %+v", text, w)
	}
	r, wr, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { _ = r.Close() })
	must(t, errors.Join(c.Device(wr), wr.Close()))
	return c, r
}

// answer reads one from the device.
func answer(t testing.TB, device *os.File) (unique uint64, errno int32, data []byte) {
	t.Helper()
	head := make([]byte, 16)
	_, err := io.ReadFull(device, head)
	must(t, err)
	ne := binary.NativeEndian
	data = make([]byte, ne.Uint32(head)-16)
	_, err = io.ReadFull(device, data)
	must(t, err)
	return ne.Uint64(head[8:]), int32(ne.Uint32(head[4:])), data
}

func TestReads(t *testing.T) {
	f := serve(t)
	c, device := attach(t, f)
	var b []byte
	want := map[uint64]hostlink.Read{}
	for i, node := range []uint64{1, 2, 3, 100, 101, 200} {
		r := hostlink.Read{Unique: uint64(2 * (i + 1)), Node: node, Off: int64(i), Size: uint32(1 + 700*i)}
		want[r.Unique] = r
		b = hostlink.AppendRead(b, r)
	}
	must(t, c.Send(b))
	for range len(want) {
		unique, errno, data := answer(t, device)
		r := want[unique]
		if r.Node == 200 {
			if errno != -int32(syscall.EIO) || len(data) != 0 {
				t.Errorf("a read that fails: %d, %d bytes", errno, len(data))
			}
			continue
		}
		expect := make([]byte, r.Size)
		content(r.Node, expect)
		if errno != 0 || !bytes.Equal(data, expect) {
			t.Errorf("node %d: error %d, %d bytes", r.Node, errno, len(data))
		}
	}
	var acked []uint64
	for len(acked) < len(want) {
		must(t, c.Acks(func(unique uint64) { acked = append(acked, unique) }))
	}
	slices.Sort(acked)
	if !slices.Equal(acked, []uint64{2, 4, 6, 8, 10, 12}) {
		t.Errorf("acknowledged %v", acked)
	}
}

// Reads that wait do not hold up those that need not.
func TestWaitingIsAlone(t *testing.T) {
	f := serve(t)
	c, device := attach(t, f)
	must(t, c.Send(hostlink.AppendRead(nil, hostlink.Read{Unique: 2, Node: 150, Size: 5})))
	sent, err := c.TrySend(hostlink.AppendRead(nil, hostlink.Read{Unique: 4, Node: 1, Size: 5}))
	if err != nil || !sent {
		t.Fatal(sent, err)
	}
	if unique, _, _ := answer(t, device); unique != 4 {
		t.Errorf("answer to %d came first", unique)
	}
	close(f.stuck)
	if unique, _, _ := answer(t, device); unique != 2 {
		t.Errorf("answer to %d came last", unique)
	}
}

// What a daemon that ends has not got is not answered; the tree is given back.
func TestKeeperLeaves(t *testing.T) {
	f := serve(t)
	c, device := attach(t, f)
	must(t, c.Send(hostlink.AppendRead(nil, hostlink.Read{Unique: 2, Node: 150, Size: 5})))
	must(t, c.Close())
	if n, err := device.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%d bytes, %v: the device is to be closed, and nothing written", n, err)
	}
	for f.released.Load() != 1 {
		time.Sleep(time.Millisecond)
	}
}

func TestRefused(t *testing.T) {
	f := serve(t)
	_, _, _, err := hostlink.Attach(testCtx(t), f.path, "image/unknown")
	if !errors.Is(err, hostlink.ErrRefused) || !errors.Is(err, syscall.ENOENT) {
		t.Errorf("unknown: %v", err)
	}
	if _, err := hostlink.Listen(testCtx(t), f.path); !fserr.Is(err, fserr.Busy) {
		t.Errorf("second server: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, _, err := hostlink.Attach(ctx, f.path, "image/known"); err == nil {
		t.Error("attached in no time")
	}
}

// Messages that cannot be end their connection, and no other.
func TestBadMessages(t *testing.T) {
	f := serve(t)
	good, device := attach(t, f)
	read := func(node, size uint64) []byte {
		b := binary.LittleEndian.AppendUint64(nil, 2)
		b = binary.LittleEndian.AppendUint64(b, node)
		b = binary.LittleEndian.AppendUint64(b, 0)
		return binary.LittleEndian.AppendUint64(b, size)
	}
	for name, b := range map[string][]byte{
		"short": make([]byte, 31), "long": make([]byte, 33), "size 0": read(1, 0), "too large": read(1, hostlink.MaxRead+1),
		"overflow": read(1, 1<<32+1), "negative": append(read(1, 1)[:16], bytes.Repeat([]byte{0xff}, 16)...),
	} {
		c, _ := attach(t, f)
		must(t, c.Send(b))
		if err := c.Acks(func(uint64) { t.Errorf("%s: acknowledged", name) }); err == nil {
			t.Errorf("%s: the connection stays", name)
		}
	}
	for name, first := range map[string]string{"no JSON": "x", "another version": `{"version":9}`} {
		nc, err := net.Dial("unixpacket", f.path)
		must(t, err)
		_, err = nc.Write([]byte(first))
		must(t, err)
		_, err = io.Copy(io.Discard, nc)
		must(t, errors.Join(err, nc.Close()))
		_ = name
	}
	must(t, good.Send(hostlink.AppendRead(nil, hostlink.Read{Unique: 2, Node: 1, Size: 5})))
	if unique, _, _ := answer(t, device); unique != 2 {
		t.Errorf("answer to %d", unique)
	}
}

// Many mounts at once, each with more reads than may wait.
func TestMany(t *testing.T) {
	f := serve(t)
	var wg sync.WaitGroup
	for range 8 {
		c, device := attach(t, f)
		wg.Add(2)
		go func() {
			defer wg.Done()
			for i := range 300 {
				r := hostlink.Read{Unique: uint64(2*i + 2), Node: uint64(1 + i%120), Size: uint32(1 + i*13)}
				if err := c.Send(hostlink.AppendRead(nil, r)); err != nil {
					t.Error(err)
				}
			}
			for n := 0; n < 300; {
				if err := c.Acks(func(uint64) { n++ }); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		go func() {
			defer wg.Done()
			for range 300 {
				unique, errno, data := answer(t, device)
				i := int(unique-2) / 2
				if errno != 0 || len(data) != 1+i*13 || data[0] != byte(1+i%120) {
					t.Errorf("answer to %d: error %d, %d bytes", unique, errno, len(data))
				}
			}
		}()
	}
	wg.Wait()
}
