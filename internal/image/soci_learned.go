package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/layerindex"
)

// The file of learned digests: a header of learnedHeader bytes, then for chunk
// number i, at learnedHeader+i*learnedRecord, its digest and a checksum of number
// and digest. A place that was never written, or not wholly, has a wrong checksum.
// So the file needs no order of writes, and a loss costs one decoding more.
const (
	learnedMagic  = "nplylrn1"
	learnedHeader = 128
	learnedRecord = 36
)

// learned are the chunks of a layer whose digests are not known in advance, and
// what is known of them by now. It implements fetch.Learner.
type learned struct {
	*layerindex.Index
	digests []atomic.Pointer[estargz.Digest]
	file    *os.File
}

func (c *Catalog) learnedPath(id layerID) string {
	return filepath.Join(c.dir, "layers", id.file()+".learned")
}

// openLearned reads what was learned of the layer's chunks in earlier runs. A file
// that is not about this index is begun anew.
func openLearned(path string, index *layerindex.Index) (*learned, error) {
	f, err := os.OpenFile(filepath.Clean(path), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("learned digests: %w", err)
	}
	l := &learned{Index: index, digests: make([]atomic.Pointer[estargz.Digest], index.NumChunks()), file: f}
	if err := l.load(); err != nil {
		return nil, fmt.Errorf("learned digests: %w", errors.Join(err, f.Close()))
	}
	return l, nil
}

// header ties the file to the blob and to what the chunks were taken from.
func (l *learned) header() []byte {
	info := l.Info()
	p := make([]byte, 0, learnedHeader)
	p = append(p, learnedMagic...)
	p = append(p, info.Digest[:]...)
	p = append(p, info.TOCDigest[:]...)
	p = binary.LittleEndian.AppendUint64(p, uint64(len(l.digests)))
	return p[:learnedHeader]
}

func (l *learned) load() error {
	want := l.header()
	got := make([]byte, learnedHeader)
	_, err := io.ReadFull(l.file, got)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if string(got) != string(want) {
		if err := l.file.Truncate(0); err != nil {
			return err
		}
		_, err := l.file.WriteAt(want, 0)
		return err
	}
	buf := make([]byte, 1024*learnedRecord)
	for i := 0; i < len(l.digests); {
		n, err := io.ReadFull(l.file, buf[:min(len(buf), learnedRecord*(len(l.digests)-i))])
		for p := buf[:n]; len(p) >= learnedRecord; p = p[learnedRecord:] {
			d := estargz.Digest(p[:32])
			if binary.LittleEndian.Uint32(p[32:]) == learnedSum(uint32(i), d) {
				l.digests[i].Store(&d)
			}
			i++
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func learnedSum(i uint32, d estargz.Digest) uint32 {
	var p [4 + len(d)]byte
	binary.LittleEndian.PutUint32(p[:], i)
	copy(p[4:], d[:])
	return ^crc32.Checksum(p[:], crc32.MakeTable(crc32.Castagnoli))
}

// Chunk gives chunk number i, with a name in the place of a digest that is not
// known.
func (l *learned) Chunk(i uint32) (estargz.Chunk, bool) {
	c, ok := l.Index.Chunk(i)
	if ok && int64(i) < int64(len(l.digests)) {
		if d := l.digests[i].Load(); d != nil {
			c.Digest = *d
		}
	}
	return c, ok
}

// Learn implements fetch.Learner. What cannot be written is learned again in a
// later run.
func (l *learned) Learn(i uint32, d estargz.Digest) {
	if int64(i) >= int64(len(l.digests)) {
		return
	}
	if old := l.digests[i].Swap(&d); old != nil && *old == d {
		return
	}
	var p [learnedRecord]byte
	copy(p[:], d[:])
	binary.LittleEndian.PutUint32(p[32:], learnedSum(i, d))
	_, _ = l.file.WriteAt(p[:], learnedHeader+int64(i)*learnedRecord) // see above
}

func (l *learned) close() error { return l.file.Close() }
