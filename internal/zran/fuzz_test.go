package zran_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"testing"

	"github.com/nineply/nineply/internal/zran"
)

// FuzzIndex opens what may be an index file, its checksum put right, and starts
// everywhere in it.
func FuzzIndex(f *testing.F) {
	blob := blocks(f, 6)
	_, good := record(f, blob, 64<<10)
	f.Add(good)
	f.Add(good[:200])
	points, size := foreignPoints(f, blob, 64<<10)
	for i := range points {
		points[i].Window = points[i].Window[max(0, len(points[i].Window)-100):]
	}
	f.Add(spansFile(f, zran.Info{BlobSize: int64(len(blob)), Size: size}, points))
	f.Add(spansFile(f, zran.Info{BlobSize: 100, Size: 100, Plain: true}, []zran.Point{{}, {In: 10, Out: 10}}))
	f.Fuzz(func(t *testing.T, index []byte) {
		zran.Seal(index)
		x, err := zran.Open(bytes.NewReader(index), int64(len(index)))
		if err != nil {
			return
		}
		_ = x.Verify() // windows may be anything
		size := x.Info().Size
		for _, off := range []int64{0, 1, size / 2, size - 1, size, size + 5} {
			if off < 0 || off > size {
				continue
			}
			lo, hi := x.Extent(off, 10)
			if lo < 0 || hi <= lo || x.First(off) > off {
				t.Fatalf("extent %d to %d of %d, output from %d on for %d", lo, hi, x.Info().BlobSize, x.First(off), off)
			}
			if lo > int64(len(blob)) {
				continue
			}
			s, _, err := x.Start(bytes.NewReader(blob[lo:]), lo)
			if err != nil {
				continue
			}
			_, _ = io.CopyN(io.Discard, s, 1<<20) // whatever comes, it must end
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// blocks is a small gzip blob of many blocks and much output: fuzzing is slow with
// large inputs.
func blocks(f *testing.F, level int) []byte {
	line := content(9, 60)
	var b bytes.Buffer
	for member := range 3 {
		zw, err := gzip.NewWriterLevel(&b, level)
		if err != nil {
			f.Fatal(err)
		}
		for i := range 12 * member {
			line[i] ^= 1
			_, _ = zw.Write(bytes.Repeat(line, 120)) // a buffer takes everything
			_ = zw.Flush()
		}
		_ = zw.Close()
	}
	return b.Bytes()
}

// FuzzRecord decompresses what may be a gzip blob, as the standard library does,
// and reads through the checkpoints it gets.
func FuzzRecord(f *testing.F) {
	for _, level := range []int{1, 6} {
		f.Add(blocks(f, level))
		reserved := blocks(f, level)
		reserved[3] |= 0x40
		f.Add(reserved)
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		want, wantErr := gunzip(blob)
		r := zran.NewRecorder(1)
		if err := r.Start(bytes.NewReader(blob)); err != nil {
			t.Fatal(err)
		}
		defer r.Close() //nolint:errcheck // it only gives memory back
		out, err := io.ReadAll(io.LimitReader(r, limit+1))
		if len(out) > limit || len(want) > limit || errors.Is(wantErr, errStricter) {
			return
		}
		if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(out, want) {
			t.Fatalf("%d bytes, %v; the library has %d, %v", len(out), err, len(want), wantErr)
		}
		if err != nil {
			return
		}
		var file bytes.Buffer
		if err := r.WriteTo(&file, [32]byte{}); err != nil {
			t.Fatal(err)
		}
		x := open(t, file.Bytes())
		for off := int64(0); off < int64(len(out)); off += 50_000 {
			n := min(60_000, int64(len(out))-off)
			got, err := readAt(t, x, blob, off, n)
			if err != nil || !bytes.Equal(got, out[off:off+n]) {
				t.Fatalf("%d bytes at %d: %v", n, off, err)
			}
		}
	})
}

// limit bounds what a blob may decompress to in a test.
const limit = 4 << 20

// errStricter: the library refuses names and comments of more than 511 bytes,
// which RFC 1952 allows.
var errStricter = errors.New("a header the library does not take")

// gunzip is what the standard library makes of a blob that zeros may follow,
// but for reserved header flags: it ignores them, and RFC 1952 demands an error.
func gunzip(blob []byte) ([]byte, error) {
	const reserved, text = 0xe0, 0x18
	in := bytes.NewReader(blob)
	zr := new(gzip.Reader)
	var out bytes.Buffer
	for {
		member := blob[len(blob)-in.Len():]
		err := zr.Reset(in)
		switch {
		case errors.Is(err, gzip.ErrHeader) && len(member) > 511 && member[3]&text != 0:
			return out.Bytes(), errStricter
		case err != nil:
			return out.Bytes(), err
		case member[3]&reserved != 0:
			return out.Bytes(), gzip.ErrHeader
		}
		zr.Multistream(false)
		if _, err := io.Copy(&out, io.LimitReader(zr, limit+1-int64(out.Len()))); err != nil || out.Len() > limit {
			return out.Bytes(), err
		}
		if rest := blob[len(blob)-in.Len():]; len(bytes.Trim(rest, "\x00")) == 0 {
			return out.Bytes(), nil
		}
	}
}
