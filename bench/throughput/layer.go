package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/layerindex"
)

// converted gives the file of the layer as eStargz, made if it is not there.
func converted(ctx context.Context, layer string) (_ string, err error) {
	file := layer + ".esgz"
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	in, err := os.Open(layer)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.Create(file + ".tmp")
	if err != nil {
		return "", err
	}
	buffered := bufio.NewWriterSize(out, 1<<20)
	w := estargz.NewWriter(buffered, estargz.WriterOptions{})
	err = w.AppendTar(ctx, in)
	if err == nil {
		_, err = w.Close()
	}
	if err == nil {
		err = buffered.Flush()
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return "", fmt.Errorf("converting %s: %w", layer, err)
	}
	return file, os.Rename(out.Name(), file)
}

func describe(file string) (desc ocispec.Descriptor, err error) {
	f, err := os.Open(file)
	if err != nil {
		return desc, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fi, err := f.Stat()
	if err != nil {
		return desc, err
	}
	d, err := digest.FromReader(f)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: fi.Size()}, err
}

// buildIndex makes the index of a layer at hand.
func buildIndex(file string, desc ocispec.Descriptor, to string) (_ *layerindex.Index, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	blob, err := estargz.Open(f, desc.Size, estargz.DefaultLimits())
	if err != nil {
		return nil, err
	}
	d, err := estargz.ParseDigest(desc.Digest.String())
	if err != nil {
		return nil, err
	}
	b := layerindex.NewBuilder(layerindex.LayerInfo{
		Digest: d, TOCDigest: blob.TOCDigest(), BlobSize: desc.Size, DataEnd: blob.Footer().DataEnd(), Format: layerindex.FormatEStargz,
	}, layerindex.DefaultLimits())
	if err := blob.Entries(b.Add); err != nil {
		return nil, err
	}
	if err := b.WriteFile(to); err != nil {
		return nil, err
	}
	return layerindex.Open(to)
}
