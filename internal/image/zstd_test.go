package image_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/image"
	"github.com/nineply/nineply/internal/testreg"
)

// zstdBuilder makes zstd:chunked blobs by hand: a frame for each piece.
type zstdBuilder struct {
	t       testing.TB
	enc     *zstd.Encoder
	blob    []byte
	raw     bytes.Buffer // the tar
	tw      *tar.Writer
	done    int // of raw
	entries []map[string]any
}

func newZstdBuilder(t testing.TB) *zstdBuilder {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &zstdBuilder{t: t, enc: enc}
	b.tw = tar.NewWriter(&b.raw)
	return b
}

// flush makes a frame of what the tar has more, and gives its place.
func (b *zstdBuilder) flush() int {
	at := len(b.blob)
	if p := b.raw.Bytes()[b.done:]; len(p) > 0 {
		b.blob = b.enc.EncodeAll(p, b.blob)
		b.done = b.raw.Len()
	}
	return at
}

// add appends a file in pieces; an empty piece is a hole as long as its number
// says.
func (b *zstdBuilder) add(name string, pieces ...any) {
	b.t.Helper()
	size := 0
	for _, p := range pieces {
		if s, ok := p.(string); ok {
			size += len(s)
		} else {
			size += p.(int)
		}
	}
	if err := b.tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size), Typeflag: tar.TypeReg}); err != nil {
		b.t.Fatal(err)
	}
	b.flush()
	whole := digest.SHA256.Digester()
	first := len(b.entries)
	at := 0
	for _, p := range pieces {
		e := map[string]any{"type": "chunk", "name": name, "chunkOffset": at}
		body, ok := p.(string)
		if !ok {
			body = strings.Repeat("\x00", p.(int))
			e["chunkType"] = "zeros"
		}
		if _, err := b.tw.Write([]byte(body)); err != nil {
			b.t.Fatal(err)
		}
		whole.Hash().Write([]byte(body))
		e["offset"] = b.flush()
		e["endOffset"] = len(b.blob)
		if len(pieces) > 1 {
			e["chunkSize"], e["chunkDigest"] = len(body), digest.FromString(body)
		}
		b.entries = append(b.entries, e)
		at += len(body)
	}
	if len(pieces) == 0 {
		b.entries = append(b.entries, map[string]any{"name": name})
	}
	e := b.entries[first]
	e["type"], e["size"], e["mode"], e["digest"] = "reg", size, 0o644, whole.Digest()
	e["modtime"] = "2024-01-02T03:04:05.000000006+01:00"
}

func (b *zstdBuilder) skippable(p []byte) int {
	b.blob = binary.LittleEndian.AppendUint32(append(b.blob, 0x50, 0x2a, 0x4d, 0x18), uint32(len(p)))
	at := len(b.blob)
	b.blob = append(b.blob, p...)
	return at
}

// finish ends the blob in the dialect of containers/storage or of
// stargz-snapshotter.
func (b *zstdBuilder) finish(containers bool) testreg.Layer {
	b.t.Helper()
	if err := b.tw.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.flush()
	text, err := json.Marshal(map[string]any{"version": 1, "entries": b.entries, "tarSplitDigest": digest.FromString("split")})
	if err != nil {
		b.t.Fatal(err)
	}
	packed := b.enc.EncodeAll(text, nil)
	at := b.skippable(packed)
	numbers := []uint64{uint64(at), uint64(len(packed)), uint64(len(text)), 1}
	position := fmt.Sprintf("%d:%d:%d:%d", at, len(packed), len(text), 1)
	l := testreg.Layer{DiffID: digest.FromBytes(b.raw.Bytes()), MediaType: ocispec.MediaTypeImageLayerZstd}
	magic := "GnUlInUx"
	if containers {
		magic = "GNUlInUx"
		split := b.skippable([]byte("split"))
		numbers = append(numbers, uint64(split), 5, 5)
		l.Annotations = map[string]string{
			estargz.AnnotationContainersChecksum: digest.FromBytes(packed).String(), estargz.AnnotationContainersPosition: position,
		}
	} else {
		l.Annotations = map[string]string{
			estargz.AnnotationStargzChecksum: digest.FromBytes(packed).String(), estargz.AnnotationStargzPosition: position,
			estargz.AnnotationTOCDigest: digest.FromBytes(text).String(),
		}
	}
	var footer []byte
	for _, n := range numbers {
		footer = binary.LittleEndian.AppendUint64(footer, n)
	}
	b.skippable(append(footer, magic...))
	l.Data = b.blob
	return l
}

func TestZstdChunked(t *testing.T) {
	hole := strings.Repeat("\x00", 300_000)
	want := map[string]string{"a": big, "tiny": "t", "sparse": "x" + hole + "y" + hole, "zeros": hole}
	for _, containers := range []bool{true, false} {
		b := newZstdBuilder(t)
		b.add("a", big[:1_000_000], big[1_000_000:])
		b.add("tiny", "t")
		b.add("sparse", "x", len(hole), "y", len(hole))
		b.add("zeros", len(hole))
		b.add("empty")
		layer := b.finish(containers)
		footerOnly := layer
		footerOnly.Annotations = map[string]string{}
		for _, k := range []string{estargz.AnnotationTOCDigest} {
			if v, ok := layer.Annotations[k]; ok {
				footerOnly.Annotations[k] = v
			}
		}
		wrongTOC := layer
		wrongTOC.Annotations = map[string]string{estargz.AnnotationTOCDigest: digest.FromString("x").String()}
		for k, v := range layer.Annotations {
			if k != estargz.AnnotationTOCDigest {
				wrongTOC.Annotations[k] = v
			}
		}
		tests := []struct {
			name  string
			layer testreg.Layer
			lazy  bool
		}{
			{"as written", layer, true},
			{"place from the footer", footerOnly, !containers},
			{"one of two claims is false", wrongTOC, false},
		}
		for _, tt := range tests {
			t.Run(fmt.Sprintf("containers %v: %s", containers, tt.name), func(t *testing.T) {
				reg := testreg.New(t)
				added := reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{tt.layer}})
				n, _ := start(t, t.TempDir(), 0)
				check(t, n.tree(t, "image/"+reg.Ref("app", "v1")), want)
				l := n.Layers()[0]
				if l.Lazy != tt.lazy || l.Lazy && l.Format != "zstd:chunked" || (l.Reason == "") != tt.lazy {
					t.Errorf("%+v", l)
				}
				// Zeros are no reason to ask for bytes.
				if got := reg.Count(testreg.Match{Digest: added.Layers[0].Digest}); tt.lazy && got.Requests > 6 {
					t.Errorf("%+v", got)
				}
			})
		}
	}
}

// TestTOCWithoutTree: the manifest vouches for a TOC that no tree can be made of.
func TestTOCWithoutTree(t *testing.T) {
	b := newZstdBuilder(t)
	b.add("a", "alpha")
	b.entries = append(b.entries, map[string]any{"type": "hardlink", "name": "l", "linkName": "nothing"})
	reg := testreg.New(t)
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{b.finish(true)}})
	n, _ := start(t, t.TempDir(), 0)
	check(t, n.tree(t, "image/"+reg.Ref("app", "v1")), map[string]string{"a": "alpha", "l": ""})
	if l := n.Layers()[0]; l.Lazy || !strings.Contains(l.Reason, "hard link target") {
		t.Errorf("%+v", l)
	}
}

// TestTOCOfSecondImage: one image vouches for the TOC of a layer, and another that has
// the same layer does not.
func TestTOCOfSecondImage(t *testing.T) {
	b := newZstdBuilder(t)
	b.add("a", "alpha")
	layer := b.finish(true)
	bare := layer
	bare.Annotations = nil
	reg := testreg.New(t)
	reg.AddImage("bare", "v1", testreg.Image{Layers: []testreg.Layer{bare}})
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	n, _ := start(t, t.TempDir(), 0)
	for repo, format := range map[string]string{"bare": "whole", "app": "zstd:chunked"} {
		check(t, n.tree(t, "image/"+reg.Ref(repo, "v1")), map[string]string{"a": "alpha"})
		if !slices.ContainsFunc(n.Layers(), func(l image.LayerInfo) bool { return l.Format == format }) {
			t.Errorf("%s is none of %+v", format, n.Layers())
		}
	}
}

// TestUselessTOCOfSecondImage: what the second image vouches for is no TOC, and the
// layer is not read again for everyone who asks.
func TestUselessTOCOfSecondImage(t *testing.T) {
	layer := zstdLayer(t, file{name: "a", body: big})
	reg := testreg.New(t)
	added := reg.AddImage("bare", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	layer.Annotations = map[string]string{estargz.AnnotationTOCDigest: digest.FromString("none").String()}
	reg.AddImage("app", "v1", testreg.Image{Layers: []testreg.Layer{layer}})
	n, _ := start(t, t.TempDir(), 0)
	for range 3 {
		for _, repo := range []string{"bare", "app"} {
			check(t, n.tree(t, "image/"+reg.Ref(repo, "v1")), map[string]string{"a": big})
		}
	}
	if got := reg.Count(testreg.Match{Digest: added.Layers[0].Digest}); got.Bytes > 3*added.Layers[0].Size+1000 {
		t.Errorf("%d bytes fetched of a layer of %d", got.Bytes, added.Layers[0].Size)
	}
}
