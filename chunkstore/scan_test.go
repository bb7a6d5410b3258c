package chunkstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/nineply/nineply/chunkstore"
)

// FuzzSegmentScan takes any bytes for the first segment of a store: opening it
// must not panic, a verifying scan yields only records whose payload has their
// digest, and a store built on it serves no other.
func FuzzSegmentScan(f *testing.F) {
	for _, sealed := range []bool{true, false} {
		image := smallSegment(f, sealed)
		f.Add(image)
		f.Add(image[:len(image)/2])
		f.Add(append(bytes.Repeat([]byte{0}, 128), image...))
	}
	f.Add([]byte("NPLYSEG1"))
	f.Fuzz(func(t *testing.T, image []byte) {
		cookie := uint64(0)
		if len(image) >= 24 {
			cookie = binary.LittleEndian.Uint64(image[16:])
		}
		records, sealed := chunkstore.Scan(bytes.NewReader(image), int64(len(image)), 1, cookie, true)
		if !sealed {
			for _, r := range records {
				if sha256.Sum256(image[r.Off:r.Off+r.Size]) != r.Digest {
					t.Fatalf("record at %d does not have its digest", r.Off)
				}
			}
		}
		serveScanned(t, image, cookie, records)
	})
}

// serveScanned opens a store that consists of the image.
func serveScanned(t *testing.T, image []byte, cookie uint64, records []chunkstore.Record) {
	k := newDisk()
	h, err := k.fs.OpenFile("/cache/segments/00000001.seg", createFlags, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(image, 0); err != nil {
		t.Fatal(err)
	}
	s, err := chunkstore.Open(context.Background(), k.options(0))
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	for _, r := range records {
		data, err := readAll(s, r.Digest, int(r.Size))
		if err == nil && sha256.Sum256(data) != r.Digest && !bytes.Contains(image, data) {
			t.Fatalf("served %d bytes that are not %x", len(data), r.Digest)
		}
	}
	if err := s.Verify(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if data, err := readAll(s, r.Digest, int(r.Size)); err == nil && sha256.Sum256(data) != r.Digest {
			t.Fatalf("after verify: served %d bytes that are not %x", len(data), r.Digest)
		}
	}
}

// smallSegment gives the bytes of a segment with a few small records.
func smallSegment(tb testing.TB, sealed bool) []byte {
	tb.Helper()
	k := newDisk()
	s := open(tb, k.options(0))
	for i := range 5 {
		d, data := chunkOf(i, 400)
		put(tb, s, d, data)
	}
	if !sealed {
		if err := s.Sync(context.Background()); err != nil {
			tb.Fatal(err)
		}
		return contentOf(k.fs, segmentNames(k.fs)[0])
	}
	closeStore(tb, s)
	return contentOf(k.fs, segmentNames(k.fs)[0])
}

func TestLoc(t *testing.T) {
	tests := []struct {
		segment, unit uint32
		payload       int64
		blocks        int
	}{
		{1, 1, 0, 0}, {1, 1, 1, 1}, {1, 1, 4096, 1}, {1, 1, 4097, 2},
		{1<<28 - 1, 1<<24 - 1, 4094 * 4096, 4094}, {7, 12345, 4094*4096 + 1, 4095}, {7, 12345, 64 << 20, 4095},
	}
	for _, tt := range tests {
		segment, unit, blocks := chunkstore.MakeLoc(tt.segment, tt.unit, tt.payload).Parts()
		if segment != tt.segment || unit != tt.unit || blocks != tt.blocks {
			t.Errorf("%+v came back as %d, %d, %d", tt, segment, unit, blocks)
		}
	}
}
