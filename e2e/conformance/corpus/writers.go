package corpus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage/pkg/chunked/compressor"
)

// Tarball is a layer's tar, to be read from any place.
type Tarball struct {
	*os.File
	Size   int64
	DiffID digest.Digest
}

// section reads the tarball from its start.
func (t *Tarball) section() *io.SectionReader { return io.NewSectionReader(t.File, 0, t.Size) }

// Made is what the descriptor of a written layer says beside digest and size.
type Made struct {
	MediaType   string
	Annotations map[string]string
	DiffID      digest.Digest // empty: the tarball's
	TOC         []byte        // layer of the TOC image, if the TOC is kept outside
}

// Writer writes a layer with the content of a tarball.
type Writer func(ctx context.Context, t *Tarball, w io.Writer) (Made, error)

// Variant is a writer and the name of its image.
type Variant struct {
	Name string
	Doc  string
	Lazy string // the format in which it can be read lazily from the start; "" if in none
	Make Writer
}

// Variants are all writers, in a fixed order.
func Variants() []Variant {
	return []Variant{
		{"estargz", "upstream eStargz, defaults", "estargz", estargzBuild(estargzOptions{})},
		{"estargz-chunks", "upstream eStargz, chunks of 64 KiB", "estargz", estargzBuild(estargzOptions{chunk: 64 << 10})},
		{"estargz-min", "upstream eStargz, members shared by files", "estargz", estargzBuild(estargzOptions{minChunk: 50_000})},
		{"estargz-prefetch", "upstream eStargz, with a file to prefetch", "estargz", estargzBuild(estargzOptions{first: true})},
		{"estargz-lossless", "upstream eStargz as BuildKit writes it", "estargz", lossless(false, 0)},
		{"estargz-legacy", "upstream eStargz with the footer of stargz", "estargz", legacyFooter},
		{"external", "upstream eStargz, TOC in another image", "estargz", external(false)},
		{"external-lossless", "the same with the DiffID kept", "estargz", external(true)},
		{"zstdchunked", "upstream zstd:chunked", "zstd:chunked", estargzBuild(estargzOptions{zstd: true})},
		{"zstdchunked-min", "upstream zstd:chunked, frames shared by files", "zstd:chunked", estargzBuild(estargzOptions{zstd: true, minChunk: 50_000})},
		{"containers", "zstd:chunked of containers/storage", "zstd:chunked", containers},
		{"gzip", "gzip", "", gzipped(0)},
		{"gzip-members", "gzip in members of 1 MB", "", gzipped(1_000_000)},
		{"pigz", "gzip by pigz", "", command(ocispec.MediaTypeImageLayerGzip, "pigz", "-n", "-p", "2", "-c")},
		{"pigz-independent", "gzip by pigz, blocks without history", "", command(ocispec.MediaTypeImageLayerGzip, "pigz", "-n", "-i", "-p", "2", "-c")},
		{"tar", "no compression", "", plain},
		{"zstd", "zstd, one frame", "", zstandard},
		{"zstd-command", "zstd by its command", "", command(ocispec.MediaTypeImageLayerZstd, "zstd", "-q", "-3", "-c")},
	}
}

// containers is the writer behind podman, buildah and skopeo.
func containers(_ context.Context, t *Tarball, w io.Writer) (Made, error) {
	annotations := map[string]string{}
	level := 3
	cw, err := compressor.ZstdCompressor(w, annotations, &level)
	if err != nil {
		return Made{}, err
	}
	_, err = io.Copy(cw, t.section())
	return Made{MediaType: ocispec.MediaTypeImageLayerZstd, Annotations: annotations}, errors.Join(err, cw.Close())
}

// gzipped compresses in members of so many bytes, one if it is 0.
func gzipped(member int64) Writer {
	return func(_ context.Context, t *Tarball, w io.Writer) (Made, error) {
		size := member
		if size == 0 {
			size = t.Size
		}
		for off := int64(0); off < t.Size; off += size {
			zw, err := gzip.NewWriterLevel(w, 6)
			if err != nil {
				return Made{}, err
			}
			_, err = io.Copy(zw, io.NewSectionReader(t.File, off, min(size, t.Size-off)))
			if err := errors.Join(err, zw.Close()); err != nil {
				return Made{}, err
			}
		}
		return Made{MediaType: ocispec.MediaTypeImageLayerGzip}, nil
	}
}

func zstandard(_ context.Context, t *Tarball, w io.Writer) (Made, error) {
	zw, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return Made{}, err
	}
	_, err = io.Copy(zw, t.section())
	return Made{MediaType: ocispec.MediaTypeImageLayerZstd}, errors.Join(err, zw.Close())
}

func plain(_ context.Context, t *Tarball, w io.Writer) (Made, error) {
	_, err := io.Copy(w, t.section())
	return Made{MediaType: ocispec.MediaTypeImageLayer}, err
}

// command compresses with a program that filters.
func command(mediaType string, argv ...string) Writer {
	return func(ctx context.Context, t *Tarball, w io.Writer) (Made, error) {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = t.section(), w, os.Stderr
		if err := cmd.Run(); err != nil {
			return Made{}, fmt.Errorf("%q: %w", argv, err)
		}
		return Made{MediaType: mediaType}, nil
	}
}
