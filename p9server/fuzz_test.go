package p9server_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// overPipe serves one connection while drive uses its other end, and checks
// that nothing is left when it has ended.
func overPipe(t *testing.T, e *p9test.Exports, opts p9server.Options, drive func(nc net.Conn)) {
	t.Helper()
	s := p9server.NewServer(e, opts)
	theirs, ours := net.Pipe()
	var served sync.WaitGroup
	served.Go(func() {
		// How a connection of arbitrary bytes ends does not matter.
		_ = s.ServeConn(context.Background(), theirs)
	})
	drive(ours)
	if err := ours.Close(); err != nil {
		t.Error(err)
	}
	served.Wait()
	got := s.Stats()
	if got.FIDs != 0 || got.Attaches != 0 || got.Outstanding != 0 || got.BytesInFlight != 0 || got.Conns != 0 || e.Attached() != 0 {
		t.Errorf("left behind: %+v, %d attached", got, e.Attached())
	}
}

// FuzzConn sends arbitrary bytes, after a proper start of the session or
// without. Whatever comes back must be whole messages of at most msize bytes.
func FuzzConn(f *testing.F) {
	start := encode(f, `Tversion msize=8192 version="9P2000.L"`, "Tattach fid=0",
		`Twalk fid=0 newfid=1 wname=["remote"]`, "Tlopen fid=1", `Twalk fid=0 newfid=2 wname=["big"]`, "Tlopen fid=2",
		"Twalk fid=0 newfid=3", "Tlopen fid=3", `Twalk fid=0 newfid=4 wname=["attrs"]`)
	f.Add(false, start)
	f.Add(true, encode(f, "Tread tag=1 fid=1 count=100", "Tflush tag=2 oldtag=1", "Tread tag=1 fid=2 count=8000"))
	f.Add(true, encode(f, "Treaddir fid=3 count=8000", `Txattrwalk fid=4 newfid=5 name="user.a"`, "Tread fid=5 count=9", "Tclunk fid=5"))
	f.Add(true, encode(f, "Txattrwalk fid=4 newfid=5", "Tread fid=5 offset=3 count=9", "Tremove fid=4", `Twrite fid=0 data="abc"`))
	f.Add(true, encode(f, "Tread tag=1 fid=1 count=5", "Tread tag=1 fid=1 count=5"))
	f.Add(true, encode(f, "Tattach tag=1 fid=9", "Tclunk tag=2 fid=9", `Tversion msize=4096 version="9P2000.L"`, "Tattach fid=1"))
	f.Add(true, []byte{6, 0, 0, 0, 1, 2, 3})
	tree := p9test.Reference(f)
	f.Fuzz(func(t *testing.T, started bool, data []byte) {
		overPipe(t, p9test.Export(tree), p9server.Options{MaxMessageSize: 8192}, func(nc net.Conn) {
			var reader sync.WaitGroup
			reader.Go(func() { checkReplies(t, nc, 8192) })
			if started {
				data = append(start[:len(start):len(start)], data...)
			}
			// The server may hang up before it has taken everything.
			_, _ = nc.Write(data)
			_ = nc.Close()
			reader.Wait()
		})
	})
}

// checkReplies takes replies until the connection ends.
func checkReplies(t *testing.T, nc net.Conn, msize int) {
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(nc, head); err != nil {
			return
		}
		size := int(binary.LittleEndian.Uint32(head))
		if size < 7 || size > msize {
			t.Errorf("reply of %d bytes", size)
			return
		}
		msg := append(head, make([]byte, size-4)...)
		if _, err := io.ReadFull(nc, msg[4:]); err != nil {
			return // cut off by our own closing
		}
		if _, err := p9test.Decode(msg); err != nil {
			t.Errorf("reply: %v", err)
			return
		}
	}
}

// FuzzSession plays valid requests with few fids and names, one at a time but
// for reads of the remote file, against a model of which fids exist.
func FuzzSession(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 3, 1, 0, 0, 5, 1, 0, 0, 8, 1, 0, 0})
	f.Add([]byte{1, 0, 1, 4, 3, 1, 0, 0, 9, 1, 3, 0, 10, 0, 3, 0, 9, 1, 3, 0, 11, 0, 0, 0})
	f.Add([]byte{12, 0, 2, 2, 5, 2, 0, 0, 12, 0, 3, 0, 5, 3, 0, 0, 8, 2, 0, 0, 13, 0, 0, 0, 2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		tree, g := p9test.Reference(t), p9test.NewGate()
		tree.Fetch = g.Wait
		overPipe(t, p9test.Export(tree), p9server.Options{}, func(nc net.Conn) {
			m := &model{t: t, Client: p9test.NewClient(t, nc), fids: map[int]bool{}, waiting: map[int]bool{}}
			m.Exchange(`Tversion msize=8192 version="9P2000.L"`, `Rversion tag=65535 msize=8192 version="9P2000.L"`)
			for ; len(ops) >= 4 && len(m.waiting) < 500; ops = ops[4:] {
				m.play(int(ops[0]), int(ops[1]%8), int(ops[2]%8), int(ops[3]))
			}
			g.Open()
			for range len(m.waiting) {
				m.late(m.Receive())
			}
		})
	})
}

// model knows which fids exist and which tags have reads waiting.
type model struct {
	*p9test.Client
	t       *testing.T
	fids    map[int]bool
	waiting map[int]bool
}

var modelNames = []string{
	`"bin"`, `"etc" "passwd"`, `"etc" "rc"`, `"attrs"`, `"remote"`, `"big"`, `".."`, `"bin" "missing"`, `"missing"`, ``, `"a" "b" "c" ".."`,
}

// play sends one request about fid and checks what its reply says about it.
func (m *model) play(op, fid, other, arg int) {
	m.t.Helper()
	name := modelNames[arg%len(modelNames)]
	switch op % 14 {
	case 0:
		m.makes(fmt.Sprintf("Tattach tag=100 fid=%d", fid), -1, fid)
	case 1, 2:
		m.makes(fmt.Sprintf("Twalk tag=100 fid=%d newfid=%d wname=[%s]", fid, other, name), fid, other)
	case 3, 4:
		m.uses(fmt.Sprintf("Tlopen tag=100 fid=%d flags=%d", fid, arg&1), fid)
	case 5:
		m.uses(fmt.Sprintf("Tgetattr tag=100 fid=%d mask=0x7ff", fid), fid)
	case 6:
		m.uses(fmt.Sprintf("Treaddir tag=100 fid=%d offset=%d count=%d", fid, arg/8, 24+arg*30), fid)
	case 7:
		m.uses(fmt.Sprintf("Treadlink tag=100 fid=%d", fid), fid)
	case 8:
		m.clunk(fmt.Sprintf("Tclunk tag=100 fid=%d", fid), fid)
	case 9:
		m.read(fid, other, arg)
	case 10:
		m.flush(other)
	case 11:
		m.clunk(fmt.Sprintf("Tremove tag=100 fid=%d", fid), fid)
	case 12:
		m.makes(fmt.Sprintf(`Txattrwalk tag=100 fid=%d newfid=%d name="user.%c"`, fid, other, 'a'+arg%2), fid, other)
	case 13:
		m.uses(fmt.Sprintf("Tsetattr tag=100 fid=%d", fid), fid)
	}
}

const (
	noFID  = "Rlerror tag=100 ecode=9"
	inUse  = "Rlerror tag=100 ecode=22"
	walked = "Rwalk tag=100"
)

func (m *model) ask(request string) string {
	m.t.Helper()
	m.Send(request)
	return m.Receive()
}

// uses: EBADF if and only if fid is unknown, or not opened for what is asked.
func (m *model) uses(request string, fid int) {
	m.t.Helper()
	if got := m.ask(request); !m.fids[fid] && got != noFID {
		m.t.Fatalf("%s without fid %d: %s", request, fid, got)
	}
}

// makes: from must exist and made must not, unless it is the same.
func (m *model) makes(request string, from, made int) {
	m.t.Helper()
	got := m.ask(request)
	failed := len(got) > 7 && got[:7] == "Rlerror"
	switch {
	case from >= 0 && !m.fids[from]:
		if got != noFID {
			m.t.Fatalf("%s without fid %d: %s", request, from, got)
		}
	case m.fids[made] && made != from:
		if got != inUse {
			m.t.Fatalf("%s with fid %d in use: %s", request, made, got)
		}
	case !failed:
		// A partial walk makes no fid: ask.
		m.fids[made] = m.ask(fmt.Sprintf("Tgetattr tag=100 fid=%d mask=1", made)) != noFID
	}
}

func (m *model) clunk(request string, fid int) {
	m.t.Helper()
	got := m.ask(request)
	if (got == noFID) == m.fids[fid] {
		m.t.Fatalf("%s: %s, fid known: %v", request, got, m.fids[fid])
	}
	delete(m.fids, fid)
}

// read sends a Tread that may wait, and a request whose reply must come in any
// case.
func (m *model) read(fid, tag, arg int) {
	m.t.Helper()
	if m.waiting[tag] {
		return
	}
	// In one piece: a pipe takes no second request before the first is answered.
	m.SendBytes(encode(m.t, fmt.Sprintf("Tread tag=%d fid=%d offset=%d count=%d", tag, fid, arg, arg*16), "Tclunk tag=100 fid=1000"))
	got := m.Receive()
	if got == noFID {
		m.waiting[tag] = true
		return
	}
	m.Expect(noFID)
}

// late takes the reply of a read that waited.
func (m *model) late(reply string) {
	m.t.Helper()
	var kind string
	var tag int
	if n, err := fmt.Sscanf(reply, "%s tag=%d", &kind, &tag); n != 2 || err != nil || kind != "Rread" || !m.waiting[tag] {
		m.t.Fatalf("received %s, waiting for %v", reply, m.waiting)
	}
	delete(m.waiting, tag)
}

func (m *model) flush(tag int) {
	m.t.Helper()
	m.Exchange(fmt.Sprintf("Tflush tag=100 oldtag=%d", tag), "Rflush tag=100")
	delete(m.waiting, tag)
}
