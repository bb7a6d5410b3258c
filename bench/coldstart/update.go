package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/convert"
	"github.com/nineply/nineply/internal/source"
)

// updatedTag is the next version of the image: its layer with Python was made anew,
// with other content in every file that is code, as an update of the package makes it.
const updatedTag = "updated"

// updated starts the next version of an image on a node that ran the one before. What
// differs is whether the profile of that one is used.
func updated(name, config string, bars map[string]float64) variant {
	before := ""
	v := variant{name: name, snapshotter: "nineply", config: config, bars: bars}
	v.image = func(ctx context.Context, b *bench, plain string) (tag string, err error) {
		if before, err = converted("before-update", convert.Options{})(ctx, b, plain); err != nil {
			return "", err
		}
		if err := b.update(ctx, plain); err != nil {
			return "", fmt.Errorf("making the updated image: %w", err)
		}
		return converted(name, convert.Options{})(ctx, b, updatedTag)
	}
	v.before = func(ctx context.Context, r *run) error {
		if _, err := r.start(ctx, v.snapshotter, r.bench.far(before)); err != nil {
			return err
		}
		_, err := learnt(ctx, r)
		return err
	}
	return v
}

// update pushes the next version of an image, once.
func (b *bench) update(ctx context.Context, from string) (err error) {
	if b.updated {
		return nil
	}
	im, err := b.sources.Resolve(ctx, b.near(from), ocispec.Platform{})
	if err != nil {
		return err
	}
	pusher, err := b.sources.Pusher(ctx, b.near(updatedTag))
	if err != nil {
		return err
	}
	const python = 1 // the layer
	layer := &im.Manifest.Layers[python]
	blob, err := b.sources.Blob(ctx, im.Ref, *layer)
	if err != nil {
		return err
	}
	file := filepath.Join(b.bed.Dir, "updated.tar.gz")
	desc, diffID, err := rewriteLayer(ctx, blob, file)
	if err != nil {
		return err
	}
	desc.MediaType = layer.MediaType
	*layer, im.Config.RootFS.DiffIDs[python] = desc, diffID
	if err := pusher.PushBlob(ctx, desc, func() (io.ReadCloser, error) { return os.Open(file) }); err != nil {
		return err
	}
	b.updated = true
	return pushImage(ctx, pusher, im)
}

// rewriteLayer writes a layer anew in which every file of code is some bytes longer,
// behind what is read of it.
func rewriteLayer(ctx context.Context, blob source.Blob, to string) (desc ocispec.Descriptor, diffID digest.Digest, err error) {
	body, err := blob.Stream(ctx, 0)
	if err != nil {
		return desc, "", err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	unpacked, err := gzip.NewReader(body)
	if err != nil {
		return desc, "", err
	}
	f, err := os.Create(to)
	if err != nil {
		return desc, "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	packedSum, tarSum := digest.SHA256.Digester(), digest.SHA256.Digester()
	packed := gzip.NewWriter(io.MultiWriter(f, packedSum.Hash()))
	out := tar.NewWriter(io.MultiWriter(packed, tarSum.Hash()))
	if err := rewriteTar(tar.NewReader(unpacked), out); err != nil {
		return desc, "", err
	}
	if err := errors.Join(out.Close(), packed.Close()); err != nil {
		return desc, "", err
	}
	st, err := f.Stat()
	if err != nil {
		return desc, "", err
	}
	return ocispec.Descriptor{Digest: packedSum.Digest(), Size: st.Size()}, tarSum.Digest(), nil
}

func rewriteTar(in *tar.Reader, out *tar.Writer) error {
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var more []byte
		if h.Typeflag == tar.TypeReg && isCode(h) {
			more = []byte("another version\n")
		}
		h.Size += int64(len(more))
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, io.MultiReader(io.LimitReader(in, h.Size-int64(len(more))), bytes.NewReader(more))); err != nil {
			return err
		}
	}
}

// isCode reports whether a file is code that does not mind bytes behind its end.
func isCode(h *tar.Header) bool {
	switch path.Ext(h.Name) {
	case ".pyc", ".so":
		return true
	}
	return h.FileInfo().Mode()&0o111 != 0 && h.Size > 1<<20
}

// pushImage pushes config and manifest of an image whose layers are there.
func pushImage(ctx context.Context, pusher source.Pusher, im *source.Image) error {
	config, err := json.Marshal(im.Config)
	if err != nil {
		return err
	}
	im.Manifest.Config.Digest, im.Manifest.Config.Size = digest.FromBytes(config), int64(len(config))
	err = pusher.PushBlob(ctx, im.Manifest.Config, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(config)), nil })
	if err != nil {
		return err
	}
	text, err := json.Marshal(im.Manifest)
	if err != nil {
		return err
	}
	_, err = pusher.PushManifest(ctx, updatedTag, im.Descriptor.MediaType, text)
	return err
}
