// Package generated makes images for benchmarks, of files whose bytes follow from a
// number, and puts them into a registry. It is no source of images as people make
// them: those are packages of a distribution, in internal/demoimage and bench/convert.
package generated

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/source"
)

// File is one file of an image: its path without a leading slash, its size in bytes,
// and the number that its bytes follow from.
type File struct {
	Name   string
	Size   int64
	Number uint64
}

// Target is where images are put.
type Target interface {
	Pusher(ctx context.Context, ref string) (source.Pusher, error)
}

// Push makes an image of one layer, packed as o says, and puts it into a registry or a
// layout. It gives the layer's descriptor.
func Push(ctx context.Context, r Target, ref string, files []File, o estargz.WriterOptions) (ocispec.Descriptor, error) {
	layers, err := PushTars(ctx, r, ref, o, func(w io.Writer) error { return writeTar(w, files) })
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return layers[0], nil
}

// PushTars is Push for layers, bottom first, that the functions write as tars.
func PushTars(ctx context.Context, r Target, ref string, o estargz.WriterOptions, tars ...func(io.Writer) error) ([]ocispec.Descriptor, error) {
	to, err := r.Pusher(ctx, ref)
	if err != nil {
		return nil, err
	}
	config := ocispec.Image{Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}, RootFS: ocispec.RootFS{Type: "layers"}}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for i, write := range tars {
		packed, res, err := pack(ctx, write, o)
		if err != nil {
			return nil, fmt.Errorf("packing layer %d of %s: %w", i, ref, err)
		}
		layer, err := pushBytes(ctx, to, ocispec.MediaTypeImageLayerGzip, packed)
		if err != nil {
			return nil, err
		}
		layer.Annotations = map[string]string{estargz.AnnotationTOCDigest: res.TOCDigest.String()}
		manifest.Layers = append(manifest.Layers, layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.Digest(res.DiffID.String()))
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	if manifest.Config, err = pushBytes(ctx, to, ocispec.MediaTypeImageConfig, text); err != nil {
		return nil, err
	}
	if text, err = json.Marshal(manifest); err != nil {
		return nil, err
	}
	_, err = to.PushManifest(ctx, ref, manifest.MediaType, text)
	return manifest.Layers, err
}

// pack makes a layer of a tar.
func pack(ctx context.Context, write func(io.Writer) error, o estargz.WriterOptions) ([]byte, estargz.Result, error) {
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(write(pw)) }() // ends with the reader
	defer func() { _ = pr.Close() }()
	var packed bytes.Buffer
	w := estargz.NewWriter(&packed, o)
	if err := w.AppendTar(ctx, pr); err != nil {
		return nil, estargz.Result{}, err
	}
	res, err := w.Close()
	return packed.Bytes(), res, err
}

// writeTar writes the files, and each directory before the first file in it.
func writeTar(w io.Writer, files []File) error {
	tw := tar.NewWriter(w)
	mtime := time.Unix(1_700_000_000, 0)
	dirs := map[string]bool{".": true}
	for _, f := range files {
		for _, dir := range missing(dirs, path.Dir(f.Name)) {
			if err := tw.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: mtime}); err != nil {
				return err
			}
		}
		h := tar.Header{Name: f.Name, Typeflag: tar.TypeReg, Size: f.Size, Mode: 0o644, ModTime: mtime}
		if err := tw.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, Content(f.Number, f.Size)); err != nil {
			return err
		}
	}
	return tw.Close()
}

// missing gives the directories above and at dir that are not known yet, and makes
// them known.
func missing(known map[string]bool, dir string) (list []string) {
	if known[dir] {
		return nil
	}
	known[dir] = true
	return append(missing(known, path.Dir(dir)), dir)
}

// block is how many bytes of a file half random, half zeros take: they are packed to
// about half.
const block = 4096

// Content gives so many bytes, which follow from a number.
func Content(number uint64, size int64) io.Reader {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], number)
	return io.LimitReader(&noise{rng: rand.NewChaCha8(seed)}, size)
}

type noise struct {
	rng *rand.ChaCha8
	buf [block]byte
	at  int
}

func (n *noise) Read(p []byte) (int, error) {
	if n.at == 0 {
		_, _ = n.rng.Read(n.buf[:block/2]) // never fails
	}
	m := copy(p, n.buf[n.at:])
	n.at = (n.at + m) % block
	return m, nil
}

func pushBytes(ctx context.Context, to source.Pusher, mediaType string, b []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return desc, to.PushBlob(ctx, desc, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
}
