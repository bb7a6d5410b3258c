// Package convert rewrites an image as eStargz, from any source to any target
// and without a container engine.
//
// Each layer streams from its source through verification, decompression and
// the eStargz writer into a temporary file, whose digests are known when it is
// complete; then it is pushed. Config and manifest follow when all layers are
// there, and the tag last of all: a conversion that breaks leaves no tag behind.
//
// The result differs from the source in its digests (layers, config and
// manifest), so signatures of the source do not cover it.
package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"strconv"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/layertar"
	"github.com/nineply/nineply/internal/source"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Options tune a conversion. The zero value is what most users want.
type Options struct {
	Platform ocispec.Platform // of the image to take; zero: this machine's
	Writer   estargz.WriterOptions
	TempDir  string // holds one layer at a time per worker; "": the system's
	Parallel int    // layers converted at once; 0: 2
	// Progress, when not nil, is called from several goroutines.
	Progress func(Event)
}

// Event reports one finished layer.
type Event struct {
	Index, Layers       int
	Source, Target      digest.Digest
	SourceSize, NewSize int64
}

// Result says what was written.
type Result struct {
	Ref          string          `json:"ref"`
	SourceDigest digest.Digest   `json:"sourceDigest"`
	Digest       digest.Digest   `json:"digest"`
	Layers       []digest.Digest `json:"layers"`
	SourceSize   int64           `json:"sourceSize"` // of all layers, bytes
	Size         int64           `json:"size"`
}

// job is one conversion under way.
type job struct {
	opts Options
	from source.Repository
	ref  string
	to   source.Pusher
	img  *source.Image
}

// Convert reads srcRef from src, and writes it as eStargz to dstRef at dst.
func Convert(ctx context.Context, src source.Repository, srcRef string, dst source.PushTarget, dstRef string, opts Options) (Result, error) {
	img, err := src.Resolve(ctx, srcRef, opts.Platform)
	if err != nil {
		return Result{}, err
	}
	pusher, err := dst.Pusher(ctx, dstRef)
	if err != nil {
		return Result{}, err
	}
	if len(img.Config.RootFS.DiffIDs) != len(img.Manifest.Layers) {
		return Result{}, fserr.Newf(fserr.Corrupt, "convert", srcRef, "the manifest has %d layers and its config %d diff IDs", len(img.Manifest.Layers), len(img.Config.RootFS.DiffIDs))
	}
	j := &job{opts: opts, from: src, ref: img.Ref, to: pusher, img: img}
	if j.opts.Parallel < 1 {
		j.opts.Parallel = 2
	}
	layers, err := j.layers(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("converting %s: %w", srcRef, err)
	}
	return j.finish(ctx, dstRef, layers)
}

// newLayer is one converted layer.
type newLayer struct {
	desc   ocispec.Descriptor
	diffID digest.Digest
}

func (j *job) layers(ctx context.Context) ([]newLayer, error) {
	layers := make([]newLayer, len(j.img.Manifest.Layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(j.opts.Parallel)
	for i, desc := range j.img.Manifest.Layers {
		g.Go(func() error {
			l, err := j.layer(ctx, i, desc)
			if err != nil {
				return fmt.Errorf("layer %d (%s): %w", i+1, desc.Digest, err)
			}
			layers[i] = l
			return nil
		})
	}
	return layers, g.Wait()
}

// layer converts and pushes one layer.
func (j *job) layer(ctx context.Context, i int, desc ocispec.Descriptor) (newLayer, error) {
	tmp, err := os.CreateTemp(j.opts.TempDir, "nineply-layer-*")
	if err != nil {
		return newLayer{}, fmt.Errorf("temporary file: %w", err)
	}
	defer func() {
		_ = tmp.Close() // scratch: what was pushed was verified on the way
		_ = os.Remove(tmp.Name())
	}()
	res, err := j.rewrite(ctx, i, desc, tmp)
	if err != nil {
		return newLayer{}, err
	}
	out := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayerGzip, Digest: toDigest(res.BlobDigest), Size: res.BlobSize,
		Annotations: map[string]string{},
	}
	maps.Copy(out.Annotations, desc.Annotations)
	out.Annotations[estargz.AnnotationTOCDigest] = res.TOCDigest.String()
	out.Annotations[estargz.AnnotationUncompressedSize] = strconv.FormatInt(res.UncompressedSize, 10)
	open := func() (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(tmp, 0, res.BlobSize)), nil
	}
	if err := j.to.PushBlob(ctx, out, open); err != nil {
		return newLayer{}, err
	}
	if j.opts.Progress != nil {
		j.opts.Progress(Event{Index: i, Layers: len(j.img.Manifest.Layers), Source: desc.Digest, Target: out.Digest, SourceSize: desc.Size, NewSize: out.Size})
	}
	return newLayer{desc: out, diffID: toDigest(res.DiffID)}, nil
}

// rewrite streams one layer into w as eStargz. The source blob is checked
// against its digest, and its tar against the DiffID of the config.
func (j *job) rewrite(ctx context.Context, i int, desc ocispec.Descriptor, w io.Writer) (estargz.Result, error) {
	blob, err := j.from.Blob(ctx, j.ref, desc)
	if err != nil {
		return estargz.Result{}, err
	}
	rc, err := blob.Stream(ctx, 0)
	if err != nil {
		return estargz.Result{}, err
	}
	verified := source.Verified(rc, desc.Digest, blob.Size())
	defer func() { _ = verified.Close() }() // read side; the digest decides
	stream, err := layertar.Open(verified)
	if err != nil {
		return estargz.Result{}, err
	}
	defer stream.Close()
	hash := digest.SHA256.Digester()
	tee := io.TeeReader(stream, hash.Hash())
	zw := estargz.NewWriter(w, j.opts.Writer)
	if err := zw.AppendTar(ctx, tee); err != nil {
		_, cerr := zw.Close()
		_ = cerr // the tar's error is the cause of this one
		return estargz.Result{}, err
	}
	res, err := zw.Close()
	if err != nil {
		return estargz.Result{}, err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return estargz.Result{}, err
	}
	if err := stream.Drain(); err != nil {
		return estargz.Result{}, err
	}
	if want := j.img.Config.RootFS.DiffIDs[i]; hash.Digest() != want {
		return estargz.Result{}, fserr.Newf(fserr.Corrupt, "verify", "", "its content has diff ID %s, the image's config says %s", hash.Digest(), want)
	}
	return res, nil
}

// finish pushes config and manifest.
func (j *job) finish(ctx context.Context, dstRef string, layers []newLayer) (Result, error) {
	config, err := j.config(layers)
	if err != nil {
		return Result{}, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config:      ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Annotations: j.img.Manifest.Annotations,
	}
	res := Result{Ref: dstRef, SourceDigest: j.img.Digest}
	for i, l := range layers {
		m.Layers = append(m.Layers, l.desc)
		res.Layers = append(res.Layers, l.desc.Digest)
		res.Size += l.desc.Size
		res.SourceSize += j.img.Manifest.Layers[i].Size
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(config)), nil }
	if err := j.to.PushBlob(ctx, m.Config, open); err != nil {
		return Result{}, fmt.Errorf("config: %w", err)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return Result{}, fmt.Errorf("manifest: %w", err)
	}
	desc, err := j.to.PushManifest(ctx, dstRef, m.MediaType, text)
	if err != nil {
		return Result{}, fmt.Errorf("manifest: %w", err)
	}
	res.Digest = desc.Digest
	return res, nil
}

// config rewrites the image's config: only the DiffIDs change, and fields this
// program does not know are kept.
func (j *job) config(layers []newLayer) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(j.img.ConfigBytes, &fields); err != nil {
		return nil, fserr.New(fserr.Corrupt, "decode", "config", err)
	}
	root := ocispec.RootFS{Type: "layers"}
	for _, l := range layers {
		root.DiffIDs = append(root.DiffIDs, l.diffID)
	}
	text, err := json.Marshal(root)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	fields["rootfs"] = text
	out, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return out, nil
}

func toDigest(d estargz.Digest) digest.Digest { return digest.Digest(d.String()) }
