package soci_test

import (
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/soci"
)

// FuzzZTOC: whatever the bytes, there is an error of a known kind, or what came
// out keeps its promises.
func FuzzZTOC(f *testing.F) {
	f.Add(flatten(fields{0: "0.9", 2: int64(9000), 3: int64(9000), 4: fields{0: refs{goodFile()}},
		5: fields{0: uint8(2), 1: uint32(1), 2: digests(2), 3: string(flatten(fields{0: uint32(2), 1: int64(4500), 2: int64(9000)}))}}))
	f.Add(gunzip(f, readFile(f, "plain.ztoc.gz")))
	f.Fuzz(func(t *testing.T, data []byte) { checkZTOC(t, data) })
}

// FuzzFiles changes one file and its record in a zTOC that is otherwise good.
func FuzzFiles(f *testing.F) {
	f.Add("a", "reg", "", int64(512), int64(10), int64(0o644), "2024-01-02T03:04:05Z", "SCHILY.xattr.user.a", "b")
	f.Add("l", "symlink", "../a", int64(1024), int64(0), int64(-1), "never", "GNU.sparse.major", "1")
	f.Fuzz(func(t *testing.T, name, kind, link string, offset, size, mode int64, mtime, key, value string) {
		v := good()
		v[3] = int64(1 << 40)
		v[4] = fields{0: refs{goodFile(), fields{0: name, 1: kind, 2: offset, 3: size, 4: link, 5: mode, 10: mtime, 13: refs{fields{0: key, 1: value}}}}}
		checkZTOC(t, flatten(v))
	})
}

// FuzzCheckpoints changes the checkpoints in a zTOC that is otherwise good.
func FuzzCheckpoints(f *testing.F) {
	f.Add(uint32(2), uint64(10), uint64(0), uint8(0), uint64(600), uint64(1000), uint8(3), int64(9000), false)
	f.Add(uint32(3), uint64(600), uint64(100), uint8(0), uint64(700), uint64(1000), uint8(7), int64(9000), true)
	f.Fuzz(func(t *testing.T, count uint32, in0, out0 uint64, bits0 uint8, in1, out1 uint64, bits1 uint8, blob int64, cut bool) {
		p := checkpoints(int(count), point{in0, out0, bits0}, point{in1, out1, bits1})
		if cut {
			p = p[:len(p)-1]
		}
		v := good()
		v[2] = blob
		v[5] = fields{1: count - 1, 2: digests(int(min(count, 4))), 3: p}
		checkZTOC(t, flatten(v))
	})
}

func checkZTOC(t *testing.T, data []byte) {
	t.Helper()
	lim := soci.Limits{Entries: 1000, Chunks: 1000}
	z, err := soci.Parse(data, lim)
	if err != nil {
		checkKind(t, err)
		return
	}
	spans := z.Spans()
	if len(spans) == 0 || spans[0].Out != 0 || spans[len(spans)-1].Hi != z.BlobSize() {
		t.Fatalf("%d spans of a blob of %d bytes", len(spans), z.BlobSize())
	}
	for i, s := range spans {
		if s.Lo < 0 || s.Hi <= s.Lo || s.Hi > z.BlobSize() || s.Bit > 7 {
			t.Fatalf("span %d: %+v", i, s)
		}
		if i > 0 && (s.Out <= spans[i-1].Out || s.Lo > spans[i-1].Hi || s.Lo < spans[i-1].Hi-1) {
			t.Fatalf("span %d: %+v after %+v", i, s, spans[i-1])
		}
	}
	var end, left int64
	err = z.Entries(func(e *estargz.Entry) error {
		if e.Type == 0 || (e.Type == estargz.TypeChunk) != (left > 0) {
			t.Fatalf("entry %+v with %d bytes to come", e, left)
		}
		if e.Type == estargz.TypeReg {
			left = e.Size
		}
		if e.ChunkSize < 0 || e.ChunkSize > left || left > 0 && (e.ChunkSize == 0 || e.Offset < end) || e.Offset > z.TarSize() {
			t.Fatalf("entry %+v, %d left, the last ended at %d of %d", e, left, end, z.TarSize())
		}
		if e.ChunkSize > 0 {
			left -= e.ChunkSize
			end = e.Offset + e.ChunkSize
		}
		return nil
	})
	if err != nil {
		checkKind(t, err)
	} else if left != 0 {
		t.Fatalf("%d bytes of a file have no chunk", left)
	}
}

func checkKind(t *testing.T, err error) {
	t.Helper()
	switch kind := fserr.KindOf(err); kind {
	case fserr.Corrupt, fserr.TooLarge, fserr.Unsupported:
	default:
		t.Fatalf("%v is of kind %v", err, kind)
	}
}

// FuzzIndex reads manifests.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(manifest("2", "", layer(octets, digestB, "1000", digestA))))
	f.Add([]byte(manifest("1", `"subject":{"digest":"x"},`, layer(octets, digestB, "-1", ""))))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := soci.ParseIndex(data, soci.Limits{})
		if err != nil {
			checkKind(t, err)
			return
		}
		if x.Version != 1 && x.Version != 2 {
			t.Fatalf("version %d", x.Version)
		}
		if d, ok := x.ZTOC(digestA); ok && (d.Size < 0 || d.Digest.Validate() != nil) {
			t.Fatalf("descriptor %+v", d)
		}
	})
}
