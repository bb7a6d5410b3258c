//go:build linux

package p9server_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/layerindex"
	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// heldChild is set in a process that TestHeldDeaths kills.
const heldChild = "P9SERVER_HELD_CHILD"

func heldTree(t testing.TB) *p9test.Tree {
	t.Helper()
	data := make([]byte, 300<<10)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	files := []p9test.File{{Path: "/d", Mode: layerindex.ModeDir | 0o755}}
	for i := range 40 {
		files = append(files, p9test.File{
			Path: fmt.Sprintf("/d/f%d", i), Mode: layerindex.ModeReg | 0o644, Data: string(data[i*100:]), Remote: i%4 == 3,
			Xattrs: []string{"user.a", fmt.Sprint("value", i), "user.b", strings.Repeat("b", 300)},
		})
	}
	tree, err := p9test.NewTree(files)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestHeldChild is the server that is killed.
func TestHeldChild(t *testing.T) {
	if os.Getenv(heldChild) == "" {
		t.Skip("for TestHeldDeaths")
	}
	tree := heldTree(t)
	tree.Fetch = func(context.Context, string) error {
		time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond) // answers come in any order
		return nil
	}
	nc, err := net.FileConn(os.NewFile(3, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	s := p9server.NewServer(p9test.Export(tree), p9server.Options{})
	err = s.ServeHeld(context.Background(), nc.(*net.UnixConn), os.NewFile(4, "ledger"))
	fmt.Println("ended:", err)
}

func msg(typ byte, tag uint16, fields ...any) []byte {
	le := binary.LittleEndian
	b := []byte{0, 0, 0, 0, typ}
	b = le.AppendUint16(b, tag)
	for _, f := range fields {
		switch v := f.(type) {
		case uint16:
			b = le.AppendUint16(b, v)
		case uint32:
			b = le.AppendUint32(b, v)
		case uint64:
			b = le.AppendUint64(b, v)
		case string:
			b = append(le.AppendUint16(b, uint16(len(v))), v...)
		}
	}
	le.PutUint32(b, uint32(len(b)))
	return b
}

// heldWorkload makes batches of requests of all kinds.
type heldWorkload struct {
	r    *rand.Rand
	kept map[uint32]bool
	tag  uint16
}

func (w *heldWorkload) next(typ byte, fields ...any) []byte {
	w.tag++
	return msg(typ, w.tag, fields...)
}

// batch gives requests whose tags are 1 to n.
func (w *heldWorkload) batch() (b []byte, n int) {
	w.tag = 0
	for lane := range uint32(1 + w.r.IntN(16)) {
		id := 100 + lane*2
		name := fmt.Sprintf("f%d", w.r.IntN(42)) // two are not there
		b = append(b, w.next(110, uint32(0), id, uint16(2), "d", name)...)
		switch w.r.IntN(5) {
		case 0: // in two steps, in place
			b = append(b, w.next(110, uint32(0), id+1, uint16(1), "d")...)
			b = append(b, w.next(110, id+1, id+1, uint16(1), name)...)
			b = append(b, w.next(24, id+1, uint64(0x7ff))...)
			b = append(b, w.next(120, id+1)...)
		case 1:
			b = append(b, w.next(30, id, id+1, []string{"", "user.a", "user.b", "user.c"}[w.r.IntN(4)])...)
			b = append(b, w.next(116, id+1, uint64(w.r.IntN(10)), uint32(400))...)
			b = append(b, w.next(120, id+1)...)
		case 2:
			b = append(b, w.next(110, uint32(0), id+1, uint16(1), "d")...)
			b = append(b, w.next(12, id+1, uint32(0))...)
			b = append(b, w.next(40, id+1, uint64(w.r.IntN(30)), uint32(1000))...)
			b = append(b, w.next(120, id+1)...)
		}
		b = append(b, w.next(24, id, uint64(0x7ff))...)
		b = append(b, w.next(12, id, uint32(0))...)
		b = append(b, w.next(116, id, uint64(w.r.IntN(290<<10)), uint32(w.r.IntN(100<<10)))...)
		b = append(b, w.next(120, id)...)
	}
	return w.keep(b), int(w.tag)
}

// keep uses fids that live for long.
func (w *heldWorkload) keep(b []byte) []byte {
	for range 6 {
		id := 1000 + uint32(w.r.IntN(2000))
		switch {
		case !w.kept[id]:
			w.kept[id] = true
			b = append(b, w.next(110, uint32(0), id, uint16(2), "d", fmt.Sprintf("f%d", w.r.IntN(40)))...)
			b = append(b, w.next(12, id, uint32(0))...)
		case w.r.IntN(4) == 0:
			delete(w.kept, id)
			b = append(b, w.next(120, id)...)
		default:
			b = append(b, w.next(116, id, uint64(w.r.IntN(290<<10)), uint32(w.r.IntN(5000)))...)
		}
	}
	return b
}

func replies(nc net.Conn, n int) (map[uint16]string, error) {
	got := map[uint16]string{}
	for range n {
		var h [7]byte
		if _, err := io.ReadFull(nc, h[:]); err != nil {
			return nil, err
		}
		size := binary.LittleEndian.Uint32(h[:])
		if size < 7 || size > 1<<20 {
			return nil, fmt.Errorf("reply of %d bytes", size)
		}
		body := make([]byte, size)
		copy(body, h[:])
		if _, err := io.ReadFull(nc, body[7:]); err != nil {
			return nil, err
		}
		tag := binary.LittleEndian.Uint16(h[5:])
		if _, ok := got[tag]; ok {
			return nil, fmt.Errorf("tag %d was answered twice", tag)
		}
		got[tag] = string(body)
	}
	return got, nil
}

// both sends a batch to both servers, and compares what they say.
func both(t *testing.T, held, plain net.Conn, b []byte, n int) {
	t.Helper()
	go func() {
		_, _ = held.Write(b) // the replies tell
	}()
	if _, err := plain.Write(b); err != nil {
		t.Fatal(err)
	}
	want, err := replies(plain, n)
	if err != nil {
		t.Fatal(err)
	}
	got, err := replies(held, n)
	if err != nil {
		t.Fatal(err)
	}
	for tag, w := range want {
		if g := got[tag]; g != w {
			t.Fatalf("tag %d: %d bytes %.80q, want %d bytes %.80q", tag, len(g), g, len(w), w)
		}
	}
}

// pair gives the client's end of a socket pair, and the server's as a file.
func pair(t testing.TB) (net.Conn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "client")
	client, err := net.FileConn(f)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return client, os.NewFile(uintptr(fds[1]), "server")
}

// TestHeldDeaths: a server that is killed again and again, at any moment, under a
// client that compares every reply.
func TestHeldDeaths(t *testing.T) {
	deaths := 30
	if text := os.Getenv("P9SERVER_DEATHS"); text != "" {
		deaths, _ = strconv.Atoi(text)
	}
	plain := serve(t, p9test.Export(heldTree(t)), p9server.Options{}).dial()
	defer func() { _ = plain.Close() }()
	client, server := pair(t)
	ledger, err := p9server.NewLedger()
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan int)
	go func() {
		stopped <- killAgain(t, server, ledger, deaths)
	}()
	w := &heldWorkload{r: rand.New(rand.NewPCG(rand.Uint64(), 0)), kept: map[uint32]bool{}}
	both(t, client, plain, msg(100, 0xffff, uint32(128<<10), "9P2000.L"), 1)
	both(t, client, plain, msg(104, 1, uint32(0), ^uint32(0), "", "", uint32(0)), 1)
	batches, requests := 0, 0
	for died := -1; died < 0; batches++ {
		b, n := w.batch()
		both(t, client, plain, b, n)
		requests += n
		select {
		case died = <-stopped:
			deaths = died
		default:
		}
	}
	_ = client.Close() // the end of the session
	t.Logf("%d deaths, %d batches, %d requests", deaths, batches, requests)
}

// killAgain starts servers, one after the other has been killed, and leaves the
// last one.
func killAgain(t *testing.T, server, ledger *os.File, deaths int) int {
	for i := 0; ; i++ {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHeldChild$", "-test.v")
		cmd.Env = append(os.Environ(), heldChild+"=1")
		cmd.ExtraFiles = []*os.File{server, ledger}
		out := &strings.Builder{}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Error(err)
			return i
		}
		if i == deaths {
			t.Cleanup(func() {
				_ = server.Close()
				if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "ended: <nil>") {
					t.Errorf("the last server: %v\n%s", err, out.String())
				}
			})
			return i
		}
		time.Sleep(time.Duration(5+rand.IntN(60)) * time.Millisecond) // the moment is the point
		_ = cmd.Process.Kill()
		if err := cmd.Wait(); err == nil || strings.Contains(out.String(), "ended:") {
			t.Errorf("a server ended by itself: %v\n%s", err, out.String())
			return i
		}
	}
}
