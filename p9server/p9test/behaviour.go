package p9test

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
)

// testReaddirSteps lists a directory with replies that hold few entries.
func testReaddirSteps(t *testing.T, connect Connect) {
	tree := Reference(t)
	c := NewClient(t, connect(t, Export(tree)))
	c.Start("8192", "")
	c.Exchange(`Twalk fid=0 newfid=1 wname=["many"]`, fmt.Sprintf("Rwalk tag=0 wqid=[(80.1.%d)]", find(t, tree, "/many")))
	c.Exchange("Tlopen fid=1", fmt.Sprintf("Rlopen tag=0 qid=(80.1.%d) iounit=0", find(t, tree, "/many")))
	var whole []string
	for _, count := range []int{280, 400, 1000, 8000} {
		names := list(t, c, 1, count)
		if whole == nil {
			whole = names
		}
		if strings.Join(names, "/") != strings.Join(whole, "/") {
			t.Errorf("in steps of %d bytes: %q\nin steps of 280: %q", count, names, whole)
		}
	}
	if len(whole) != 2+60+2 || whole[0] != "." || whole[1] != ".." {
		t.Errorf("%d names: %q", len(whole), whole)
	}
}

// list reads a directory to its end in replies of at most count bytes.
func list(t *testing.T, c *Client, fid, count int) (names []string) {
	t.Helper()
	offset := uint64(0)
	for {
		c.Send(fmt.Sprintf("Treaddir fid=%d offset=%d count=%d", fid, offset, count))
		msg, err := c.ReceiveBytes()
		if err != nil || msg[4] != 41 {
			t.Fatalf("Treaddir offset=%d: % x, %v", offset, msg, err)
		}
		data := reader{b: msg[11:]}
		if len(data.b) > count {
			t.Fatalf("%d bytes of entries, asked for %d", len(data.b), count)
		}
		if len(data.b) == 0 {
			return names
		}
		for len(data.b) > 0 {
			data.bytes(13)
			offset = data.int(8)
			data.bytes(1)
			names = append(names, string(data.bytes(int(data.int(2)))))
		}
	}
}

// testCookies goes on with a listing on another connection.
func testCookies(t *testing.T, connect Connect) {
	e := Export(Reference(t))
	open := func() *Client {
		c := NewClient(t, connect(t, e))
		c.Start("8192", "")
		c.Send(`Twalk fid=0 newfid=1 wname=["etc"]`)
		c.Receive()
		c.Send("Tlopen fid=1")
		c.Receive()
		return c
	}
	first, second := open(), open()
	first.Send("Treaddir fid=1 offset=0 count=8000")
	all := first.Receive()
	rest := all[strings.Index(all, "[")+1:]
	for _, entry := range strings.Split(strings.TrimSuffix(rest, "]"), ", ") {
		_, rest, _ = strings.Cut(rest, ", ")
		offset := strings.Fields(entry)[1]
		second.Exchange("Treaddir fid=1 count=8000 offset="+offset, "Rreaddir tag=0 data=["+strings.TrimSuffix(rest, "]")+"]")
	}
}

// openRemote starts a session in which fid 1 is the open remote file.
func openRemote(t *testing.T, connect Connect) (*Client, *Gate) {
	t.Helper()
	tree, g := Reference(t), NewGate()
	tree.Fetch = g.Wait
	c := NewClient(t, connect(t, Export(tree)))
	c.Start("8192", "")
	ino := find(t, tree, "/remote")
	c.Exchange(`Twalk fid=0 newfid=1 wname=["remote"]`, fmt.Sprintf("Rwalk tag=0 wqid=[(0.1.%d)]", ino))
	c.Exchange("Tlopen fid=1", fmt.Sprintf("Rlopen tag=0 qid=(0.1.%d) iounit=0", ino))
	return c, g
}

func find(t *testing.T, tree *Tree, path string) uint64 {
	t.Helper()
	ino, err := tree.Find(path)
	if err != nil {
		t.Fatal(err)
	}
	return ino
}

const (
	remoteStart = `data="\x00\a\x0e\x15"`
	rootAttr    = "Tgetattr tag=9 fid=0 mask=0x7ff"
)

// testSlowRead: reads that wait hold nothing else up, and may be answered in
// any order; the fid may be clunked meanwhile.
func testSlowRead(t *testing.T, connect Connect) {
	c, g := openRemote(t, connect)
	c.Send("Tread tag=1 fid=1 count=4")
	c.Send("Tread tag=2 fid=1 count=4")
	<-g.Entered
	<-g.Entered
	c.Exchange("Tclunk tag=3 fid=1", "Rclunk tag=3")
	c.Send(rootAttr)
	if got := c.Receive(); !strings.HasPrefix(got, "Rgetattr tag=9 ") {
		t.Fatalf("received %s", got)
	}
	g.Open()
	replies := c.Receive() + " " + c.Receive()
	for _, want := range []string{"Rread tag=1 " + remoteStart, "Rread tag=2 " + remoteStart} {
		if !strings.Contains(replies, want) {
			t.Errorf("replies %s lack %s", replies, want)
		}
	}
}

// testFlush: a flushed read is cancelled and never answered; its tag can be
// used again at once.
func testFlush(t *testing.T, connect Connect) {
	c, g := openRemote(t, connect)
	c.Send("Tread tag=1 fid=1 count=4")
	<-g.Entered
	c.Exchange("Tflush tag=2 oldtag=1", "Rflush tag=2")
	if err := <-g.Left; err == nil {
		t.Error("the flushed read was not cancelled")
	}
	c.Exchange("Tclunk tag=1 fid=77", "Rlerror tag=1 ecode=9")
	c.Exchange("Tflush tag=2 oldtag=1", "Rflush tag=2")
	c.Exchange("Tflush tag=2 oldtag=2", "Rflush tag=2")
	g.Open()
	c.Exchange("Tread tag=1 fid=1 count=4", "Rread tag=1 "+remoteStart)
}

// testSlowAttach: an attach that waits holds nothing else up; flushed, it
// leaves its fid free and nothing attached.
func testSlowAttach(t *testing.T, connect Connect) {
	g := NewGate()
	e := Export(Reference(t))
	e.Add("slow", Reference(t))
	e.Wait = func(ctx context.Context, aname string) error {
		if aname == "" {
			return nil
		}
		return g.Wait(ctx, aname)
	}
	c := NewClient(t, connect(t, e))
	c.Start("8192", "")
	c.Send(`Tattach tag=1 fid=5 aname="slow"`)
	<-g.Entered
	c.Exchange("Tgetattr tag=2 fid=5 mask=1", "Rlerror tag=2 ecode=9")
	c.Exchange("Tclunk tag=2 fid=5", "Rlerror tag=2 ecode=9")
	c.Exchange("Tflush tag=2 oldtag=1", "Rflush tag=2")
	if err := <-g.Left; err == nil {
		t.Error("the flushed attach was not cancelled")
	}
	c.Exchange(`Tattach tag=1 fid=5 aname=""`, "Rattach tag=1 qid=(80.1.1)")
	c.Exchange("Tclunk tag=2 fid=5", "Rclunk tag=2")
	g.Open()
	c.Exchange(`Tattach tag=1 fid=5 aname="slow"`, "Rattach tag=1 qid=(80.1.1)")
	if got := e.Attached(); got != 2 {
		t.Errorf("%d trees attached, want 2", got)
	}
	c.Exchange("Tclunk fid=5", "Rclunk tag=0")
	c.Exchange("Tclunk fid=0", "Rclunk tag=0")
	if got := e.Attached(); got != 0 {
		t.Errorf("%d trees attached after the last clunk", got)
	}
}

// testVersionResets: Tversion on a live connection ends the session.
func testVersionResets(t *testing.T, connect Connect) {
	c, g := openRemote(t, connect)
	c.Send("Tread tag=1 fid=1 count=4")
	<-g.Entered
	c.Exchange(`Tversion msize=16384 version="9P2000.L"`, `Rversion tag=65535 msize=16384 version="9P2000.L"`)
	if err := <-g.Left; err == nil {
		t.Error("the read of the ended session was not cancelled")
	}
	for _, fid := range []int{0, 1} {
		c.Exchange(fmt.Sprintf("Tclunk tag=1 fid=%d", fid), "Rlerror tag=1 ecode=9")
	}
	c.Exchange("Tattach tag=1 fid=0", "Rattach tag=1 qid=(80.1.1)")
	c.Exchange(`Twalk tag=1 fid=0 newfid=1 wname=["big"]`, "Rwalk tag=1 wqid=[(0.1.13)]")
	c.Exchange("Tlopen tag=1 fid=1", "Rlopen tag=1 qid=(0.1.13) iounit=0")
	c.Send("Tread tag=1 fid=1 count=1000000")
	msg, err := c.ReceiveBytes()
	if err != nil || len(msg) > 16384 || binary.LittleEndian.Uint32(msg[7:]) < 16384-24 {
		t.Errorf("read at the new msize: message of %d bytes, %v", len(msg), err)
	}
}
