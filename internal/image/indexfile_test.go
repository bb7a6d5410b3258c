package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/zran"
	"github.com/nineply/nineply/layerindex"
)

// ownIndex makes an index of a layer with one file, and gives what it is of.
func ownIndex(t testing.TB, dir string, format layerindex.Format) (indexPlace, indexFor) {
	t.Helper()
	body := strings.Repeat("all work and no play ", 20_000)
	var raw, blob bytes.Buffer
	tw := tar.NewWriter(&raw)
	err := tw.WriteHeader(&tar.Header{Name: "a", Mode: 0o644, Size: int64(len(body)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = io.WriteString(tw, body)
	}
	if err = errors.Join(err, tw.Close()); err != nil {
		t.Fatal(err)
	}
	if format == layerindex.FormatSpans {
		zw := gzip.NewWriter(&blob)
		_, err = zw.Write(raw.Bytes())
		if err = errors.Join(err, zw.Close()); err != nil {
			t.Fatal(err)
		}
	} else {
		blob = raw
	}
	layer := indexFor{blob: estargz.Sum(blob.Bytes()), size: int64(blob.Len()), diffID: estargz.Sum(raw.Bytes()).String()}
	place := indexPlace{layer: filepath.Join(dir, "a.idx"), spans: filepath.Join(dir, "a.zran")}
	b := layerindex.NewBuilder(layerindex.LayerInfo{Digest: layer.blob, BlobSize: layer.size, Format: format}, layerindex.DefaultLimits())
	err = b.Add(&estargz.Entry{Name: "a", Type: estargz.TypeReg, Size: int64(len(body)), Offset: 512, ChunkDigest: estargz.Sum([]byte(body)), HasChunkDigest: true})
	if err = errors.Join(err, b.WriteFile(place.layer)); err != nil {
		t.Fatal(err)
	}
	if format == layerindex.FormatSpans {
		writeCheckpoints(t, place.spans, blob.Bytes())
	}
	return place, layer
}

func writeCheckpoints(t testing.TB, path string, blob []byte) {
	t.Helper()
	r := zran.NewRecorder(0)
	if err := r.Start(bytes.NewReader(blob)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := errors.Join(r.WriteTo(&b, estargz.Sum(blob)), r.Close(), os.WriteFile(path, b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func packed(t testing.TB, place indexPlace, layer indexFor) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "packed"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(packIndex(f, place, layer.diffID), f.Close()); err != nil {
		t.Fatal(err)
	}
	p, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPackedIndex(t *testing.T) {
	for format, want := range map[layerindex.Format]string{layerindex.FormatSpans: "gzip+index", layerindex.FormatTar: "tar+index"} {
		t.Run(want, func(t *testing.T) {
			place, layer := ownIndex(t, t.TempDir(), format)
			p := packed(t, place, layer)
			if !bytes.Equal(p, packed(t, place, layer)) {
				t.Error("packed twice, and not the same")
			}
			dir := t.TempDir()
			got := indexPlace{layer: filepath.Join(dir, "b.idx"), spans: filepath.Join(dir, "b.zran")}
			name, diffID, err := unpackIndex(bytes.NewReader(p), layer, got)
			if err != nil || name != want || diffID != layer.diffID {
				t.Fatalf("%s, %s, %v", name, diffID, err)
			}
			same(t, place.layer, got.layer)
			same(t, place.spans, got.spans)
			if left, err := os.ReadDir(dir); err != nil || len(left) > 2 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// same compares two files; both may be absent.
func same(t *testing.T, a, b string) {
	t.Helper()
	p, errA := os.ReadFile(a)
	q, errB := os.ReadFile(b)
	if errors.Is(errA, fs.ErrNotExist) != errors.Is(errB, fs.ErrNotExist) || !bytes.Equal(p, q) {
		t.Errorf("%s and %s: %v, %v", a, b, errA, errB)
	}
}

func TestPackedIndexRefused(t *testing.T) {
	place, layer := ownIndex(t, t.TempDir(), layerindex.FormatSpans)
	good := packed(t, place, layer)
	dir := t.TempDir()
	into := indexPlace{layer: filepath.Join(dir, "b.idx"), spans: filepath.Join(dir, "b.zran")}
	refused := func(what string, p []byte, layer indexFor) {
		t.Helper()
		_, _, err := unpackIndex(bytes.NewReader(p), layer, into)
		if err == nil && what == "a flipped bit" { // one that a decoder need not look at
			same(t, place.layer, into.layer)
			same(t, place.spans, into.spans)
			err = errors.Join(os.Remove(into.layer), os.Remove(into.spans))
			if err == nil {
				return
			}
		}
		if k := fserr.KindOf(err); err == nil || k != fserr.Corrupt && k != fserr.Unsupported {
			t.Errorf("%s: %v (%v)", what, err, k)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Fatalf("%s left %v, %v", what, left, err)
		}
	}
	for n := range good {
		if n < 2*packedHeader || n%97 == 0 || n > len(good)-5 {
			bad := bytes.Clone(good)
			bad[n] ^= 4
			refused("a flipped bit", bad, layer)
			refused("a part", good[:n], layer)
		}
	}
	refused("more behind it", append(bytes.Clone(good), 0), layer)
	other := layer
	other.blob[0] ^= 1
	refused("another blob", good, other)
	other = layer
	other.size++
	refused("another size", good, other)
	other = layer
	other.diffID = estargz.Sum(nil).String()
	refused("another diff ID", good, other)
	place2, layer2 := ownIndex(t, t.TempDir(), layerindex.FormatTar)
	mixed := packed(t, indexPlace{layer: place2.layer, spans: place.spans}, layer2)
	copy(mixed[12:], []byte{byte(layerindex.FormatSpans)})
	refused("the wrong format", mixed, layer2)
}

func TestPackNothingElse(t *testing.T) {
	place, layer := ownIndex(t, t.TempDir(), layerindex.FormatStream)
	f, err := os.Create(filepath.Join(t.TempDir(), "packed"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	if err := packIndex(f, place, layer.diffID); !fserr.Is(err, fserr.Unsupported) {
		t.Errorf("a layer that is read whole: %v", err)
	}
}

// FuzzUnpackIndex unpacks what may be a packed index.
func FuzzUnpackIndex(f *testing.F) {
	for _, format := range []layerindex.Format{layerindex.FormatSpans, layerindex.FormatTar} {
		place, layer := ownIndex(f, f.TempDir(), format)
		f.Add(packed(f, place, layer))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) < packedHeader {
			return
		}
		// The sum is put right, so that what is behind it is reached.
		binary.LittleEndian.PutUint32(p[packedCRC:], crc32.Checksum(p[:packedCRC], crc32.MakeTable(crc32.Castagnoli)))
		dir := t.TempDir()
		layer := indexFor{blob: estargz.Digest(p[16:48]), size: int64(binary.LittleEndian.Uint64(p[48:]))}
		_, _, err := unpackIndex(bytes.NewReader(p), layer, indexPlace{layer: filepath.Join(dir, "a"), spans: filepath.Join(dir, "b")})
		if left, rerr := os.ReadDir(dir); rerr != nil || err != nil && len(left) > 0 {
			t.Fatalf("%v left %v, %v", err, left, rerr)
		}
	})
}
