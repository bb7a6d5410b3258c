package layerindex_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/layerindex"
)

// testTar holds files around every size of chunk and member, and returns their
// contents.
func testTar(t *testing.T) ([]byte, map[string][]byte) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	contents := map[string][]byte{}
	random := rand.New(rand.NewPCG(1, 2))
	add := func(h *tar.Header, content []byte) {
		h.Size, h.Mode = int64(len(content)), 0o644
		if err := errors.Join(w.WriteHeader(h), second(w.Write(content))); err != nil {
			t.Fatal(err)
		}
	}
	add(&tar.Header{Name: "./d/", Typeflag: tar.TypeDir}, nil)
	for i, size := range []int{0, 1, 100, 4095, 4096, 4097, 8192, 50_000, 3, 20_000} {
		content := make([]byte, size)
		for j := range content {
			content[j] = byte(random.IntN(1 + 255*(i%2)))
		}
		name := fmt.Sprint("d/file", i)
		add(&tar.Header{Name: "./" + name, Typeflag: tar.TypeReg}, content)
		contents[name] = content
	}
	add(&tar.Header{Name: "link", Typeflag: tar.TypeLink, Linkname: "./d/file7"}, nil)
	contents["link"] = contents["d/file7"]
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), contents
}

func second(_ int, err error) error { return err }

// TestReadThroughIndex writes a real layer and reads every file back by what the
// indexes say: layer, chunks, members.
func TestReadThroughIndex(t *testing.T) {
	archive, contents := testTar(t)
	for _, opts := range []estargz.WriterOptions{
		{ChunkSize: 4096, MinMemberSize: -1},
		{ChunkSize: 4096, MinMemberSize: 10_000, Prioritized: []string{"link"}},
		{},
	} {
		var blob bytes.Buffer
		w := estargz.NewWriter(&blob, opts)
		if err := w.AppendTar(context.Background(), bytes.NewReader(archive)); err != nil {
			t.Fatal(err)
		}
		res, err := w.Close()
		if err != nil {
			t.Fatal(err)
		}
		x := indexBlob(t, blob.Bytes(), res)
		if got := x.Info().PrefetchEnd; (got > 0) != (len(opts.Prioritized) > 0) {
			t.Errorf("%+v: prefetch end %d", opts, got)
		}
		m := merge(t, build(t, 7, words("f below")), x)
		for path, want := range contents {
			if got := readThrough(t, m, x, blob.Bytes(), path); !bytes.Equal(got, want) {
				t.Errorf("%+v: %s has %d bytes, want %d", opts, path, len(got), len(want))
			}
		}
	}
}

// indexBlob builds the index of an eStargz blob from its TOC.
func indexBlob(t *testing.T, blob []byte, res estargz.Result) *layerindex.Index {
	t.Helper()
	b, err := estargz.Open(bytes.NewReader(blob), int64(len(blob)), estargz.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	bld := layerindex.NewBuilder(layerindex.LayerInfo{
		Digest: res.BlobDigest, TOCDigest: b.TOCDigest(), BlobSize: res.BlobSize,
		DataEnd: b.Footer().TOCOffset, Format: layerindex.FormatEStargz,
	}, layerindex.Limits{})
	if err := b.Entries(bld.Add); err != nil {
		t.Fatal(err)
	}
	file, err := encode(bld)
	if err != nil {
		t.Fatal(err)
	}
	x, err := layerindex.OpenBytes(file)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// readThrough reads a file of merged index m whose content is in layer x.
func readThrough(t *testing.T, m, x *layerindex.Index, blob []byte, path string) []byte {
	t.Helper()
	c, err := m.Content(resolve(t, m, path))
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for n := c.First; n < c.First+c.Count; n++ {
		ch, ok := x.Chunk(n)
		if !ok || x.FindChunk(c, uint64(ch.Offset)) != n || x.ChunksFrom(ch.Member) > n {
			t.Fatalf("%s: chunk %d: %+v", path, n, ch)
		}
		member := blob[ch.Member : ch.Member+ch.MemberSize]
		err := estargz.DecodeMember(member, []estargz.Chunk{ch}, func(_ int, p []byte) error {
			out = append(out, p...)
			return nil
		})
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return out
}
