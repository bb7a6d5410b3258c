package p9server_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hugelgupf/p9/fsimpl/templatefs"
	"github.com/hugelgupf/p9/linux"
	"github.com/hugelgupf/p9/p9"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/layerindex"
	"github.com/nineply/nineply/p9server"
	"github.com/nineply/nineply/p9server/p9test"
)

// lanes is a client that keeps q requests in flight: each step sends one
// request per lane and takes all replies. It does not allocate.
type lanes struct {
	t   testing.TB
	nc  net.Conn
	r   *bufio.Reader
	buf []byte
}

func newLanes(t testing.TB, nc net.Conn, msize int) *lanes {
	t.Helper()
	l := &lanes{t, nc, bufio.NewReaderSize(nc, 1<<20), make([]byte, msize)}
	t.Cleanup(func() { _ = nc.Close() }) // a server under test may have closed it
	l.step(encode(t, fmt.Sprintf(`Tversion msize=%d version="9P2000.L"`, msize)), 1)
	l.step(encode(t, "Tattach fid=0"), 1)
	return l
}

// step gives the sum of the sizes of n replies.
func (l *lanes) step(requests []byte, n int) (size int) {
	if _, err := l.nc.Write(requests); err != nil {
		l.t.Fatal(err)
	}
	for range n {
		size += len(l.reply())
	}
	return size
}

func (l *lanes) reply() []byte {
	if _, err := io.ReadFull(l.r, l.buf[:7]); err != nil {
		l.t.Fatal(err)
	}
	if l.buf[4] == 7 {
		l.t.Fatalf("received Rlerror")
	}
	msg := l.buf[:binary.LittleEndian.Uint32(l.buf)]
	if _, err := io.ReadFull(l.r, msg[7:]); err != nil {
		l.t.Fatal(err)
	}
	return msg
}

// each makes one step's requests: one line per lane, with the lane's number for
// the tag and 100 more in place of "#".
func each(t testing.TB, q int, format string) []byte {
	t.Helper()
	var b []byte
	for lane := range q {
		b = append(b, encode(t, fmt.Sprintf("%s tag=%d", strings.ReplaceAll(format, "#", fmt.Sprint(100+lane)), lane))...)
	}
	return b
}

// reportCPU reports what client and server used of the processors: on a busy
// machine a steadier figure than time.
func reportCPU(b *testing.B) (done func()) {
	b.Helper()
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}

const benchFile = 64 << 20

func benchTree(t testing.TB) *p9test.Tree {
	t.Helper()
	files := []p9test.File{
		{Path: "/dir", Mode: layerindex.ModeDir | 0o755},
		{Path: "/large", Mode: layerindex.ModeReg | 0o644, Data: strings.Repeat("0123456789abcdef", benchFile/16)},
	}
	for i := range 10_000 {
		files = append(files, p9test.File{Path: fmt.Sprintf("/dir/file-%05d", i), Mode: layerindex.ModeReg | 0o644, Data: strings.Repeat("x", 4096)})
	}
	tree, err := p9test.NewTree(files)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

type operation struct {
	name  string
	setup []string
	steps []string
	bytes int64
}

// run measures the operation with q lanes.
func (op operation) run(b *testing.B, l *lanes, q int) {
	for _, line := range op.setup {
		l.step(each(b, q, line), q)
	}
	var steps [][]byte
	for _, line := range op.steps {
		steps = append(steps, each(b, q, line))
	}
	b.SetBytes(op.bytes)
	b.ReportAllocs()
	defer reportCPU(b)()
	for i := 0; i < b.N; i += q {
		for _, requests := range steps {
			l.step(requests, q)
		}
	}
}

// operations are what is measured, by lane.
var operations = []operation{
	{"meta", nil, []string{`Twalk fid=0 newfid=# wname=["dir" "file-00#"]`, "Tgetattr fid=# mask=0x7ff", "Tclunk fid=#"}, 0},
	{"small", nil, []string{`Twalk fid=0 newfid=# wname=["dir" "file-00#"]`, "Tlopen fid=#", "Tread fid=# count=4096", "Tclunk fid=#"}, 0},
	{"read512K", []string{`Twalk fid=0 newfid=# wname=["large"]`, "Tlopen fid=#"}, []string{"Tread fid=# offset=# count=524288"}, 512 << 10},
}

func runOperations(b *testing.B, dial func(b *testing.B, tree *p9test.Tree) net.Conn) {
	tree := benchTree(b)
	for _, op := range operations {
		for _, q := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/q=%d", op.name, q), func(b *testing.B) {
				op.run(b, newLanes(b, dial(b, tree), 1<<20), q)
			})
		}
	}
	b.Run("readdir10k/q=1", func(b *testing.B) {
		l := newLanes(b, dial(b, tree), 256<<10)
		l.step(encode(b, `Twalk fid=0 newfid=1 wname=["dir"]`), 1)
		l.step(encode(b, "Tlopen fid=1"), 1)
		b.ReportAllocs()
		defer reportCPU(b)()
		for b.Loop() {
			l.listing(encode(b, "Treaddir fid=1 count=262120"))
		}
	})
}

// listing reads a directory to the end.
func (l *lanes) listing(request []byte) (entries int) {
	for binary.LittleEndian.PutUint64(request[11:], 0); ; {
		l.step(request, 1)
		data := l.buf[11:binary.LittleEndian.Uint32(l.buf)]
		if len(data) == 0 {
			return entries
		}
		for len(data) > 0 {
			copy(request[11:19], data[13:21])
			data = data[24+binary.LittleEndian.Uint16(data[22:]):]
			entries++
		}
	}
}

func BenchmarkServer(b *testing.B) {
	runOperations(b, func(b *testing.B, tree *p9test.Tree) net.Conn {
		return serve(b, p9test.Export(tree), p9server.Options{}).dial()
	})
}

// BenchmarkOther is the server of github.com/hugelgupf/p9 on the same tree.
func BenchmarkOther(b *testing.B) {
	runOperations(b, func(b *testing.B, tree *p9test.Tree) net.Conn {
		return listenAndHandle(b, func(nc net.Conn) {
			_ = p9.NewServer(&otherFile{tree: tree, node: tree.Root()}).Handle(nc, nc)
		})
	})
}

// BenchmarkFloor answers each request with a reply of 160 bytes, or of the
// size read: what sockets and the scheduler cost.
func BenchmarkFloor(b *testing.B) {
	for _, size := range []int{160, 512<<10 + 11} {
		for _, q := range []int{1, 16} {
			b.Run(fmt.Sprintf("reply=%d/q=%d", size, q), func(b *testing.B) {
				l := newLanes(b, listenAndHandle(b, func(nc net.Conn) { echo(nc, size) }), 1<<20)
				requests := each(b, q, "Tread fid=# offset=# count=524288")
				b.SetBytes(int64(size))
				b.ReportAllocs()
				defer reportCPU(b)()
				for i := 0; i < b.N; i += q {
					l.step(requests, q)
				}
			})
		}
	}
}

// echo batches replies as the server does.
func echo(nc net.Conn, size int) {
	r := bufio.NewReaderSize(nc, 16<<10)
	w := bufio.NewWriterSize(nc, 64<<10)
	reply := make([]byte, size)
	binary.LittleEndian.PutUint32(reply, uint32(size))
	for {
		head, err := r.Peek(4)
		if err != nil {
			return
		}
		if _, err := r.Discard(int(binary.LittleEndian.Uint32(head))); err != nil {
			return
		}
		if _, err := w.Write(reply); err != nil {
			return
		}
		if r.Buffered() == 0 && w.Flush() != nil {
			return
		}
	}
}

func listenAndHandle(b *testing.B, handle func(net.Conn)) net.Conn {
	b.Helper()
	l, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		handle(nc)
		_ = nc.Close() // closed by the handler or the client already
	}()
	b.Cleanup(func() {
		<-done // the client's end is closed by an earlier-registered clean-up
		_ = l.Close()
	})
	nc, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	return nc
}

// otherFile puts the tree behind the other server's interface.
type otherFile struct {
	templatefs.NotImplementedFile
	p9.DefaultWalkGetAttr
	tree *p9test.Tree
	node uint64
}

var _ p9.File = (*otherFile)(nil)

func (f *otherFile) Attach() (p9.File, error) { return f, nil }

func (f *otherFile) qid() (p9.QID, layerindex.Attr) {
	a, err := f.tree.Attr(f.node)
	if err != nil {
		return p9.QID{}, a
	}
	typ := p9.TypeRegular
	if a.Mode&layerindex.ModeTypeMask == layerindex.ModeDir {
		typ = p9.TypeDir
	}
	return p9.QID{Type: typ, Version: 1, Path: f.node}, a
}

func (f *otherFile) Walk(names []string) ([]p9.QID, p9.File, error) {
	to := &otherFile{tree: f.tree, node: f.node}
	var qids []p9.QID
	for _, name := range names {
		node, err := f.tree.Lookup(to.node, []byte(name))
		if err != nil {
			return nil, nil, linux.ENOENT
		}
		to.node = node
		qid, _ := to.qid()
		qids = append(qids, qid)
	}
	return qids, to, nil
}

func (f *otherFile) GetAttr(p9.AttrMask) (p9.QID, p9.AttrMask, p9.Attr, error) {
	qid, a := f.qid()
	return qid, p9.AttrMaskAll, p9.Attr{
		Mode: p9.FileMode(a.Mode), NLink: p9.NLink(a.NLink), Size: a.Size, BlockSize: 4096, MTimeSeconds: uint64(a.Mtime),
	}, nil
}

func (f *otherFile) Open(p9.OpenFlags) (p9.QID, uint32, error) {
	qid, _ := f.qid()
	return qid, 0, nil
}

func (f *otherFile) ReadAt(p []byte, off int64) (int, error) {
	n, _, err := f.tree.TryReadAt(f.node, p, off)
	return n, err
}

func (f *otherFile) Readdir(offset uint64, count uint32) (p9.Dirents, error) {
	var entries p9.Dirents
	for range count / 35 {
		e, next, ok, err := f.tree.Readdir(f.node, offset)
		if err != nil || !ok {
			return entries, err
		}
		entries = append(entries, p9.Dirent{QID: p9.QID{Version: 1, Path: e.Ino}, Offset: next, Type: p9.QIDType(e.Type), Name: string(e.Name)})
		offset = next
	}
	return entries, nil
}

func (f *otherFile) Close() error               { return nil }
func (f *otherFile) Renamed(p9.File, string)    {}
func (f *otherFile) StatFS() (p9.FSStat, error) { return p9.FSStat{}, nil }
func (f *otherFile) FSync() error               { return nil }
func (f *otherFile) Readlink() (string, error)  { return "", linux.EINVAL }
