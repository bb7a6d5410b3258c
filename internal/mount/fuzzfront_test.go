package mount

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/layerindex"
)

// frontOf answers from a small index, without a kernel.
func frontOf(t testing.TB) *indexFront {
	t.Helper()
	b := layerindex.NewBuilder(layerindex.LayerInfo{BlobSize: 1000, DataEnd: 999, Format: layerindex.FormatEStargz}, layerindex.Limits{})
	for _, e := range []*estargz.Entry{
		{Name: "d", Type: estargz.TypeDir, Mode: 0o755, Xattrs: map[string][]byte{"user.a": []byte("value")}},
		{Name: "d/empty", Type: estargz.TypeReg, Mode: 0o644},
		{Name: "d/file", Type: estargz.TypeReg, Mode: 0o644, Size: 10, Offset: 100, HasChunkDigest: true, ChunkDigest: estargz.Sum(nil)},
		{Name: "link", Type: estargz.TypeSymlink, Mode: 0o777, LinkName: "d/file"},
	} {
		if err := b.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "index")
	if err := b.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var all Indexes
	x, err := all.open("tree", file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.release(); err != nil {
			t.Error(err)
		}
	})
	return &indexFront{x: x.index, reads: newReads(), flags: capNoOpen}
}

// message is a request as the kernel sends it.
func message(op uint32, node uint64, body []byte) []byte {
	e := binary.NativeEndian
	b := e.AppendUint32(nil, uint32(inHeaderSize+len(body)))
	b = e.AppendUint32(b, op)
	b = e.AppendUint64(b, 2)
	b = e.AppendUint64(b, node)
	return append(append(b, make([]byte, inHeaderSize-24)...), body...)
}

// No request, however short or strange, has an answer that is too long or does
// not say how long it is.
func FuzzFront(f *testing.F) {
	front := frontOf(f)
	for op := range uint32(55) {
		f.Add(op, uint64(1), []byte("d\x00"))
		f.Add(op, uint64(2), make([]byte, 40))
		f.Add(op, uint64(1<<60), []byte{})
	}
	f.Fuzz(func(t *testing.T, op uint32, node uint64, body []byte) {
		r, ok := parseRequest(message(op, node, body))
		if !ok {
			t.Fatal("a whole message is refused")
		}
		var w reply
		w.begin()
		errno, answer := front.handle(&r, &w)
		if !answer {
			front.reads.answered(2)
			return
		}
		b := w.end(r.unique, errno)
		if int(binary.NativeEndian.Uint32(b)) != len(b) || len(b) > outHeaderSize+maxDirReply+layerReplies {
			t.Errorf("answer of %d bytes says %d", len(b), binary.NativeEndian.Uint32(b))
		}
		if errno != 0 && len(b) != outHeaderSize {
			t.Errorf("error %v with %d bytes", errno, len(b))
		}
	})
}

// layerReplies is room for any answer but a directory's.
const layerReplies = 64 << 10

// What is answered from the index allocates nothing.
func TestFrontAllocatesNothing(t *testing.T) {
	front := frontOf(t)
	w := reply{b: make([]byte, 0, maxDirReply+1000)}
	list := make([]byte, 40)
	binary.NativeEndian.PutUint32(list[16:], 4096)
	for what, msg := range map[string][]byte{
		"lookup":      message(fuseLookup, 1, []byte("link\x00")),
		"absent":      message(fuseLookup, 1, []byte("none\x00")),
		"getattr":     message(fuseGetattr, 2, make([]byte, 16)),
		"readdirplus": message(fuseReaddirplus, 1, list),
		"getxattr":    message(fuseGetxattr, 2, []byte("\x10\x00\x00\x00\x00\x00\x00\x00user.a\x00")),
	} {
		if n := testing.AllocsPerRun(100, func() {
			r, _ := parseRequest(msg)
			w.begin()
			if errno, answer := front.handle(&r, &w); errno != 0 || !answer || len(w.b) == outHeaderSize {
				t.Errorf("%s: %v", what, errno)
			}
		}); n > 0 {
			t.Errorf("%s allocates %v times", what, n)
		}
	}
}
