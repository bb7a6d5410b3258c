package p9server_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"syscall"
	"testing"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/layerindex"
	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// faulty fails in the method named, with a corrupt index's error, or lies.
type faulty struct {
	*p9test.Tree
	method string
}

var errFault = fserr.New(fserr.Corrupt, "read", "index", nil)

func (f *faulty) Attr(n uint64) (layerindex.Attr, error) {
	a, err := f.Tree.Attr(n)
	switch f.method {
	case "Attr":
		return a, errFault
	case "huge":
		a.Size = math.MaxUint64
	case "longer":
		a.Size++
	}
	return a, err
}

func (f *faulty) Parent(dir uint64) (uint64, error) {
	if f.method == "Parent" {
		return 0, errFault
	}
	return f.Tree.Parent(dir)
}

func (f *faulty) Readdir(dir, pos uint64) (layerindex.Dirent, uint64, bool, error) {
	e, next, ok, err := f.Tree.Readdir(dir, pos)
	switch {
	case f.method == "Readdir" && pos == 2:
		return layerindex.Dirent{}, 0, false, errFault
	case f.method == "standing still":
		next = pos
	case f.method == "far":
		next = math.MaxUint64
	}
	return e, next, ok, err
}

func (f *faulty) Readlink(n uint64) ([]byte, error) {
	switch f.method {
	case "Readlink":
		return nil, errFault
	case "long link":
		return make([]byte, 1<<16), nil
	}
	return f.Tree.Readlink(n)
}

func (f *faulty) Xattr(n uint64, name []byte) ([]byte, error) {
	if f.method == "Xattr" {
		return nil, errFault
	}
	return f.Tree.Xattr(n, name)
}

func (f *faulty) XattrNames(n uint64, fn func([]byte) bool) error {
	switch f.method {
	case "XattrNames":
		return errFault
	case "many names":
		for i := range 100_000 {
			if !fn(fmt.Appendf(nil, "user.%d", i)) {
				return nil
			}
		}
	}
	return f.Tree.XattrNames(n, fn)
}

func (f *faulty) TryReadAt(n uint64, p []byte, off int64) (int, bool, error) {
	switch f.method {
	case "TryReadAt":
		return 0, false, errFault
	case "bytewise":
		p = p[:1]
	case "half local":
		if off > 0 {
			return 0, false, nil
		}
		p = p[:1]
	}
	return f.Tree.TryReadAt(n, p, off)
}

func (f *faulty) ReadAt(ctx context.Context, n uint64, p []byte, off int64) (int, error) {
	if f.method == "bytewise" {
		p = p[:1]
	}
	return f.Tree.ReadAt(ctx, n, p, off)
}

func (f *faulty) Statfs() p9server.Statfs {
	if f.method == "Statfs" {
		return p9server.Statfs{Type: 0xef53, BlockSize: 512, NameLen: 100}
	}
	return f.Tree.Statfs()
}

const (
	eio      = "Rlerror tag=0 ecode=5"
	content  = `Rread tag=0 data="root:x:0:0:root:/root:/bin/sh\n"`
	toPasswd = `Twalk fid=0 newfid=1 wname=["etc" "passwd"]`
	toRC     = `Twalk fid=0 newfid=1 wname=["etc" "rc"]`
	toEtc    = `Twalk fid=0 newfid=1 wname=["etc"]`
	open1    = "Tlopen fid=1"
)

func TestFaultyTrees(t *testing.T) {
	tests := []struct {
		method   string
		requests []string
		want     string // the last reply
	}{
		{"Attr", []string{"Tattach fid=5"}, eio},
		{"Parent", []string{`Twalk fid=0 newfid=1 wname=[".."]`}, eio},
		{"Parent", []string{toEtc, open1, "Treaddir fid=1 offset=1 count=1000"}, eio},
		{"Readdir", []string{toEtc, open1, "Treaddir fid=1 count=1000"},
			`Rreaddir tag=0 data=[(80.1.5) 1 4 ".", (80.1.1) 2 4 "..", (0.1.7) 3 8 "empty", (0.1.6) 4 8 "passwd"]`},
		{"Readdir", []string{toEtc, open1, "Treaddir fid=1 offset=4 count=1000"}, eio},
		{"standing still", []string{toEtc, open1, "Treaddir fid=1 offset=2 count=1000"}, eio},
		{"far", []string{toEtc, open1, "Treaddir fid=1 offset=2 count=1000"}, eio},
		{"Readlink", []string{toRC, "Treadlink fid=1"}, eio},
		{"long link", []string{toRC, "Treadlink fid=1"}, "Rlerror tag=0 ecode=36"},
		{"Xattr", []string{`Txattrwalk fid=0 newfid=1 name="user.a"`}, eio},
		{"XattrNames", []string{"Txattrwalk fid=0 newfid=1"}, eio},
		{"many names", []string{"Txattrwalk fid=0 newfid=1"}, "Rlerror tag=0 ecode=7"},
		{"TryReadAt", []string{toPasswd, open1, "Tread fid=1 count=100"}, eio},
		{"bytewise", []string{toPasswd, open1, "Tread fid=1 count=100"}, content},
		{"half local", []string{toPasswd, open1, "Tread fid=1 count=100"}, content},
		{"bytewise", []string{`Twalk fid=0 newfid=1 wname=["remote"]`, open1, "Tread fid=1 count=4"}, "Rread tag=0 " + remoteData},
		{"longer", []string{toPasswd, open1, "Tread fid=1 count=100"}, eio},
		{"longer", []string{`Twalk fid=0 newfid=1 wname=["remote"]`, open1, "Tread fid=1 offset=4990 count=100"}, eio},
		{"huge", []string{toPasswd, open1}, "Rlerror tag=0 ecode=27"},
		{"Statfs", []string{"Tstatfs fid=0"},
			"Rstatfs tag=0 type=61267 bsize=512 blocks=0 bfree=0 bavail=0 files=0 ffree=0 fsid=0 namelen=100"},
	}
	for _, tt := range tests {
		t.Run(tt.method, func(t *testing.T) {
			tree := &faulty{p9test.Reference(t), tt.method}
			e := p9test.Export(p9test.Reference(t))
			e.Add("faulty", tree)
			s := serve(t, e, p9server.Options{})
			c := p9test.NewClient(t, s.dial())
			c.Exchange(`Tversion msize=8192 version="9P2000.L"`, `Rversion tag=65535 msize=8192 version="9P2000.L"`)
			got := ""
			for _, request := range append([]string{`Tattach fid=0 aname="faulty"`}, tt.requests...) {
				if strings.HasPrefix(request, "Tattach fid=5") {
					request += ` aname="faulty"`
				}
				c.Send(request)
				got = c.Receive()
			}
			if got != tt.want {
				t.Errorf("received %s\n    want %s", got, tt.want)
			}
			if tt.method == "Attr" && e.Attached() != 0 {
				t.Error("the tree of a failed attach was not released")
			}
		})
	}
}

// Every request whose body is cut short anywhere is refused, and the session
// goes on.
func TestTruncatedRequests(t *testing.T) {
	s := serve(t, p9test.Export(p9test.Reference(t)), p9server.Options{})
	c := s.client()
	requests := []string{
		`Tversion msize=8192 version="9P2000.L"`, `Tattach fid=3 uname="u" aname=""`, "Tflush oldtag=7",
		`Twalk fid=0 newfid=3 wname=["etc" "passwd"]`, "Tgetattr fid=0 mask=1", "Tlopen fid=0", "Tread fid=0 count=1",
		"Treaddir fid=0 count=100", "Treadlink fid=0", `Txattrwalk fid=0 newfid=3 name="user.a"`, "Tstatfs fid=0",
		"Tclunk fid=0", "Tremove fid=0", `Tlock fid=0 client="host"`, `Tgetlock fid=0 client="host"`,
	}
	for _, request := range requests {
		whole := encode(t, request)
		for n := 7; n < len(whole); n++ {
			cut := append([]byte(nil), whole[:n]...)
			cut[0], cut[5], cut[6] = byte(n), 1, 0
			c.SendBytes(cut)
			c.Expect(fmt.Sprintf("Rlerror tag=1 ecode=%d", syscall.EINVAL))
		}
	}
	// Tfsync and changes need no more than their fid.
	for _, request := range []string{"Tfsync fid=0", `Tmkdir dfid=0 name="x"`, `Twrite fid=0 data="x"`} {
		whole := encode(t, request)
		for n := 7; n < 11; n++ {
			cut := append([]byte(nil), whole[:n]...)
			cut[0], cut[5] = byte(n), 1
			c.SendBytes(cut)
			c.Expect(fmt.Sprintf("Rlerror tag=1 ecode=%d", syscall.EINVAL))
		}
	}
	c.Exchange("Tgetattr tag=2 fid=3 mask=0", "Rlerror tag=2 ecode=9")
	c.Exchange("Tclunk tag=2 fid=0", "Rclunk tag=2")
}

func TestValueBound(t *testing.T) {
	s := serve(t, p9test.Export(p9test.Reference(t)), p9server.Options{})
	c := s.client()
	c.Exchange(`Twalk fid=0 newfid=1 wname=["attrs"]`, "Rwalk tag=0 wqid=[(0.1.14)]")
	const request = `Txattrwalk fid=1 newfid=%d name="user.a"`
	for i := range 1024 {
		c.Exchange(fmt.Sprintf(request, i+2), "Rxattrwalk tag=0 size=5")
	}
	c.Exchange(fmt.Sprintf(request, 2000), fmt.Sprintf("Rlerror tag=0 ecode=%d", syscall.EMFILE))
	c.Exchange("Tclunk fid=2", "Rclunk tag=0")
	c.Exchange(fmt.Sprintf(request, 2000), "Rxattrwalk tag=0 size=5")
}
