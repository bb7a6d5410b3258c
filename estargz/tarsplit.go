package estargz

import (
	"bytes"
	"encoding/base64"
	"hash/crc64"
	"strconv"

	"github.com/klauspost/compress/zstd"
)

// tarSplit makes the data out of which, with the files, the tar can be put
// together again: JSON lines (github.com/vbatts/tar-split, tar/storage), one for
// what is in front of each file's content, and one for the file. A nil tarSplit
// takes everything and makes nothing.
type tarSplit struct {
	zw       *zstd.Encoder
	packed   bytes.Buffer
	size     int64 // uncompressed
	position int
	pad      int    // bytes of zero that belong to the next segment
	crc      uint64 // of the file
	table    *crc64.Table
	line     []byte
	bad      bool
}

const (
	splitFile    = 1
	splitSegment = 2
)

func newTarSplit() (*tarSplit, error) {
	t := &tarSplit{table: crc64.MakeTable(crc64.ISO)}
	var err error
	t.zw, err = newZstdWriter(&t.packed, 3)
	return t, err
}

// unfit says that the tar has something that tar-split or its readers cannot do.
func (t *tarSplit) unfit() {
	if t != nil {
		t.bad, t.line = true, nil
		t.packed = bytes.Buffer{}
	}
}

func (t *tarSplit) idle() bool { return t == nil || t.bad }

// segment adds bytes that are no content.
func (t *tarSplit) segment(p []byte) error {
	if t.idle() || len(p) == 0 && t.pad == 0 {
		return nil
	}
	if t.pad > 0 {
		p = append(make([]byte, t.pad), p...)
		t.pad = 0
	}
	t.begin(splitSegment)
	t.line = append(t.line, `,"payload":"`...)
	t.line = append(base64.StdEncoding.AppendEncode(t.line, p), '"')
	return t.end()
}

// padded says that n bytes of zero follow a file.
func (t *tarSplit) padded(n int) {
	if !t.idle() {
		t.pad = n
	}
}

// content adds to the content of the file that is next.
func (t *tarSplit) content(p []byte) {
	if !t.idle() {
		t.crc = crc64.Update(t.crc, t.table, p)
	}
}

// file adds a file of size bytes.
func (t *tarSplit) file(name string, size int64) error {
	if t.idle() {
		return nil
	}
	t.begin(splitFile)
	t.line = appendText(append(t.line, `,"name":`...), name)
	t.line = appendNumber(t.line, `,"size":`, size)
	if size == 0 {
		t.line = append(t.line, `,"payload":null`...)
		return t.end()
	}
	var sum [8]byte
	for i := range sum {
		sum[i] = byte(t.crc >> (56 - 8*i))
	}
	t.crc = 0
	t.line = append(t.line, `,"payload":"`...)
	t.line = append(base64.StdEncoding.AppendEncode(t.line, sum[:]), '"')
	return t.end()
}

func (t *tarSplit) begin(kind int64) {
	t.line = strconv.AppendInt(append(t.line[:0], `{"type":`...), kind, 10)
}

func (t *tarSplit) end() error {
	t.line = strconv.AppendInt(append(t.line, `,"position":`...), int64(t.position), 10)
	t.line = append(t.line, "}\n"...)
	t.position++
	t.size += int64(len(t.line))
	_, err := t.zw.Write(t.line)
	return err
}

// finish gives the compressed data, or nil if there is none.
func (t *tarSplit) finish() ([]byte, error) {
	if t.idle() {
		return nil, nil
	}
	if err := t.segment(nil); err != nil {
		return nil, err
	}
	if err := t.zw.Close(); err != nil {
		return nil, err
	}
	return t.packed.Bytes(), nil
}
