package soci_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/inflate"
	"github.com/nineply/nineply/internal/soci"
)

// TestGolden reads zTOCs that their own builder made, and holds them against
// the layers they were made of.
func TestGolden(t *testing.T) {
	tarball := gunzip(t, readFile(t, "layer.tar.gz"))
	for _, tt := range []struct {
		name, ztoc string
		blob       []byte
		spans      int
	}{
		{"gzip", "layer.ztoc.gz", readFile(t, "layer.tar.gz"), 2},
		{"members", "members.ztoc.gz", readFile(t, "members.tar.gz"), 3},
		{"uncompressed", "plain.ztoc.gz", tarball, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			z, err := soci.Parse(gunzip(t, readFile(t, tt.ztoc)), soci.Limits{ChunkSize: 8000})
			if err != nil {
				t.Fatal(err)
			}
			if len(z.Spans()) != tt.spans || z.BlobSize() != int64(len(tt.blob)) || z.Gzip() != (tt.name != "uncompressed") {
				t.Fatalf("%d spans, blob of %d bytes, gzip %v", len(z.Spans()), z.BlobSize(), z.Gzip())
			}
			for i, s := range z.Spans() {
				if got := estargz.Sum(tt.blob[s.Lo:s.Hi]); got != s.Digest {
					t.Errorf("span %d has digest %v, want %v", i, got, s.Digest)
				}
			}
			checkFiles(t, z, tt.blob, tarball)
		})
	}
}

// checkFiles compares the entries with the tar, and their chunks, decoded each
// from its span alone, with its contents.
func checkFiles(t *testing.T, z *soci.ZTOC, blob, tarball []byte) {
	t.Helper()
	var got, want []estargz.Entry
	var content []byte
	err := z.Entries(func(e *estargz.Entry) error {
		if e.ChunkSize > 0 {
			content = append(content, chunk(t, z, blob, e)...)
		}
		if e.Type != estargz.TypeChunk {
			plain := *e
			plain.Offset, plain.ChunkSize = 0, 0
			got = append(got, plain)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var wantContent []byte
	tr := tar.NewReader(bytes.NewReader(tarball))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, entryOf(h))
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		wantContent = append(wantContent, body...)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-tar +zTOC):\n%s", diff)
	}
	if !bytes.Equal(content, wantContent) {
		t.Errorf("%d bytes of content differ from the tar's %d", len(content), len(wantContent))
	}
}

func entryOf(h *tar.Header) estargz.Entry {
	types := map[byte]estargz.EntryType{
		tar.TypeDir: estargz.TypeDir, tar.TypeReg: estargz.TypeReg, tar.TypeSymlink: estargz.TypeSymlink,
		tar.TypeLink: estargz.TypeHardlink, tar.TypeChar: estargz.TypeChar, tar.TypeBlock: estargz.TypeBlock, tar.TypeFifo: estargz.TypeFifo,
	}
	e := estargz.Entry{
		Name: h.Name, Type: types[h.Typeflag], Size: h.Size, ModTime: h.ModTime.UTC().Round(time.Nanosecond), LinkName: h.Linkname,
		Mode: uint32(h.Mode), UID: uint32(h.Uid), GID: uint32(h.Gid), DevMajor: uint32(h.Devmajor), DevMinor: uint32(h.Devminor),
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string][]byte{}
			}
			e.Xattrs[name] = []byte(v)
		}
	}
	return e
}

// chunk decodes a chunk of nothing but the span that it lies in.
func chunk(t *testing.T, z *soci.ZTOC, blob []byte, e *estargz.Entry) []byte {
	t.Helper()
	spans := z.Spans()
	i := len(spans) - 1
	for spans[i].Out > e.Offset {
		i--
	}
	s := spans[i]
	body := blob[s.Lo:s.Hi]
	p := make([]byte, e.ChunkSize)
	if !z.Gzip() {
		copy(p, body[e.Offset-s.Out:])
		return p
	}
	r, err := inflate.NewStream(bytes.NewReader(body), inflate.Point{In: s.Lo, Bit: s.Bit, Out: s.Out, Window: s.Window})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }() // it only gives memory back
	if err := r.Discard(e.Offset - s.Out); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, p); err != nil {
		t.Fatalf("%q at %d in span %d: %v", e.Name, e.Offset, i, err)
	}
	return p
}
