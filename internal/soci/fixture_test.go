package soci_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nineply/nineply/estargz"
)

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func gunzip(t testing.TB, data []byte) []byte {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The parts of a flatbuffer under construction: fields maps numbers of fields to
// parts of a table, refs is a vector of parts, repeated a vector that leads to the
// same part everywhere.
type (
	fields   map[int]any
	refs     []any
	repeated struct {
		n    int
		part any
	}
)

// flatten writes a flatbuffer: each part in front of what it refers to.
func flatten(root fields) []byte {
	w := &flatWriter{buf: make([]byte, 4)}
	w.refer(0, root)
	return w.buf
}

type flatWriter struct{ buf []byte }

func (w *flatWriter) align() {
	for len(w.buf)%8 != 0 {
		w.buf = append(w.buf, 0)
	}
}

// refer writes a part and the reference to it, at off.
func (w *flatWriter) refer(off int, part any) {
	w.align()
	at := len(w.buf)
	switch p := part.(type) {
	case string:
		w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(len(p)))
		w.buf = append(append(w.buf, p...), 0)
	case refs:
		w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(len(p)))
		w.buf = append(w.buf, make([]byte, 4*len(p))...)
		for i, e := range p {
			w.refer(at+4+4*i, e)
		}
	case repeated:
		w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(p.n))
		w.buf = append(w.buf, make([]byte, 4*p.n)...)
		w.align()
		w.refer(at+4, p.part)
		to := at + 4 + int(binary.LittleEndian.Uint32(w.buf[at+4:]))
		for ref := at + 8; ref < at+4+4*p.n; ref += 4 {
			binary.LittleEndian.PutUint32(w.buf[ref:], uint32(to-ref))
		}
	case fields:
		at = w.table(p)
	}
	binary.LittleEndian.PutUint32(w.buf[off:], uint32(at-off))
}

func (w *flatWriter) table(p fields) int {
	vtable, count := len(w.buf), 0
	for i := range p {
		count = max(count, i+1)
	}
	w.buf = append(w.buf, make([]byte, 4+2*count)...)
	binary.LittleEndian.PutUint16(w.buf[vtable:], uint16(4+2*count))
	w.align()
	at := len(w.buf)
	w.buf = append(w.buf, make([]byte, 4+8*count)...)
	binary.LittleEndian.PutUint32(w.buf[at:], uint32(at-vtable))
	binary.LittleEndian.PutUint16(w.buf[vtable+2:], uint16(4+8*count))
	keys := make([]int, 0, len(p))
	for i := range p {
		keys = append(keys, i)
	}
	slices.Sort(keys)
	for _, i := range keys {
		place := 4 + 8*i
		binary.LittleEndian.PutUint16(w.buf[vtable+4+2*i:], uint16(place))
		switch v := p[i].(type) {
		case int64:
			binary.LittleEndian.PutUint64(w.buf[at+place:], uint64(v))
		case uint32:
			binary.LittleEndian.PutUint32(w.buf[at+place:], v)
		case uint8:
			w.buf[at+place] = v
		default:
			w.refer(at+place, v)
		}
	}
	return at
}

// point is a checkpoint to be written.
type point struct {
	in, out uint64
	bits    uint8
}

// checkpoints writes points, and says that there are count of them.
func checkpoints(count int, points ...point) string {
	p := binary.LittleEndian.AppendUint32(nil, uint32(count))
	p = binary.LittleEndian.AppendUint64(p, 4<<20)
	for _, pt := range points {
		p = binary.LittleEndian.AppendUint64(p, pt.in)
		p = binary.LittleEndian.AppendUint64(p, pt.out)
		p = append(p, pt.bits)
		p = append(p, make([]byte, 32<<10)...)
	}
	return string(p)
}

// digests is n digests as a zTOC has them.
func digests(n int) refs {
	list := make(refs, n)
	for i := range list {
		list[i] = estargz.Sum([]byte{byte(i)}).String()
	}
	return list
}

// goodFile is a regular file of ten bytes, at the start of a tar.
func goodFile() fields {
	return fields{0: "a", 1: "reg", 2: int64(512), 3: int64(10), 5: int64(0o644), 10: "2024-01-02T03:04:05.5Z"}
}

// good is a zTOC of one file and two spans.
func good() fields {
	return fields{
		0: "0.9", 1: "test", 2: int64(9000), 3: int64(9000),
		4: fields{0: refs{goodFile()}},
		5: fields{0: uint8(1), 1: uint32(1), 2: digests(2), 3: checkpoints(2, point{in: 10}, point{in: 600, out: 1000, bits: 3})},
	}
}
