package corpus

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/externaltoc"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// level is gzip's usual one: upstream's default takes twice the time.
const level = 6

// estargzOptions choose what upstream's builder does.
type estargzOptions struct {
	chunk, minChunk int
	zstd            bool
	first           bool // the first regular file is to be prefetched
}

// estargzBuild is upstream's builder, which orders and rewrites the tar.
func estargzBuild(o estargzOptions) Writer {
	return func(ctx context.Context, t *Tarball, w io.Writer) (Made, error) {
		made := Made{MediaType: ocispec.MediaTypeImageLayerGzip}
		options := []estargz.Option{
			estargz.WithContext(ctx), estargz.WithParallelism(2),
			estargz.WithChunkSize(o.chunk), estargz.WithMinChunkSize(o.minChunk),
		}
		if o.zstd {
			made.MediaType, made.Annotations = ocispec.MediaTypeImageLayerZstd, map[string]string{}
			options = append(options, estargz.WithCompression(&zstdCompression{
				&zstdchunked.Decompressor{}, &zstdchunked.Compressor{CompressionLevel: zstd.SpeedDefault, Metadata: made.Annotations},
			}))
		} else {
			options = append(options, estargz.WithCompressionLevel(level))
		}
		if o.first {
			name, err := firstFile(t)
			if err != nil {
				return Made{}, err
			}
			options = append(options, estargz.WithPrioritizedFiles([]string{name}))
		}
		return built(t, w, made, options)
	}
}

type zstdCompression struct {
	*zstdchunked.Decompressor
	*zstdchunked.Compressor
}

// built runs the builder and completes what the descriptor says.
func built(t *Tarball, w io.Writer, made Made, options []estargz.Option) (Made, error) {
	blob, err := estargz.Build(t.section(), options...)
	if err != nil {
		return Made{}, err
	}
	_, err = io.Copy(w, blob)
	if err := errors.Join(err, blob.Close()); err != nil {
		return Made{}, err
	}
	size, err := blob.UncompressedSize()
	made.DiffID = blob.DiffID()
	made.Annotations = annotate(made.Annotations, blob.TOCDigest(), size)
	return made, err
}

// annotate adds what stargz-snapshotter's converters say of a layer.
func annotate(have map[string]string, toc digest.Digest, size int64) map[string]string {
	all := map[string]string{
		estargz.TOCJSONDigestAnnotation:         toc.String(),
		estargz.StoreUncompressedSizeAnnotation: strconv.FormatInt(size, 10),
	}
	maps.Copy(all, have)
	return all
}

// firstFile is the name of the first regular file with content.
func firstFile(t *Tarball) (string, error) {
	for archive := tar.NewReader(t.section()); ; {
		h, err := archive.Next()
		if err != nil {
			return "", fmt.Errorf("no file to prefetch: %w", err)
		}
		if h.Typeflag == tar.TypeReg && h.Size > 0 {
			return h.Name, nil
		}
	}
}

// lossless cuts the tar as it is into members, as BuildKit has it done.
func lossless(outside bool, minChunk int) Writer {
	return func(_ context.Context, t *Tarball, w io.Writer) (Made, error) {
		diff := digest.Canonical.Digester()
		ew := estargz.NewWriterLevel(w, level)
		outer := externaltoc.NewGzipCompressorWithLevel(level)
		if outside {
			ew = estargz.NewWriterWithCompressor(w, outer)
		}
		ew.MinChunkSize = minChunk
		if err := ew.AppendTarLossLess(io.TeeReader(t.section(), diff.Hash())); err != nil {
			return Made{}, err
		}
		toc, err := ew.Close()
		if err != nil {
			return Made{}, err
		}
		made := Made{MediaType: ocispec.MediaTypeImageLayerGzip, DiffID: digest.Digest(ew.DiffID())}
		made.Annotations = annotate(nil, toc, t.Size)
		if outside {
			made.DiffID = t.DiffID
			if got := diff.Digest(); got != t.DiffID {
				return Made{}, fmt.Errorf("the lossless writer read %s of %s", got, t.DiffID)
			}
			made.TOC, err = tocOf(outer)
		}
		return made, err
	}
}

func external(keep bool) Writer {
	if keep {
		return lossless(true, 0)
	}
	return func(ctx context.Context, t *Tarball, w io.Writer) (Made, error) {
		outer := externaltoc.NewGzipCompressionWithLevel(nil, level).(*externaltoc.GzipCompression)
		made, err := built(t, w, Made{MediaType: ocispec.MediaTypeImageLayerGzip}, []estargz.Option{
			estargz.WithContext(ctx), estargz.WithParallelism(1), estargz.WithCompression(outer),
		})
		if err != nil {
			return Made{}, err
		}
		made.TOC, err = tocOf(outer.GzipCompressor)
		return made, err
	}
}

func tocOf(c *externaltoc.GzipCompressor) ([]byte, error) {
	var toc bytes.Buffer
	_, err := c.WriteTOCTo(&toc)
	return toc.Bytes(), err
}

// legacyFooter gives the blob the footer of 47 bytes that came before eStargz.
func legacyFooter(ctx context.Context, t *Tarball, w io.Writer) (Made, error) {
	var blob bytes.Buffer
	made, err := estargzBuild(estargzOptions{})(ctx, t, &blob)
	if err != nil {
		return Made{}, err
	}
	const sub = len("SG\x16\x00") // the header of a subfield, which the old form has not
	body, footer := blob.Bytes()[:blob.Len()-estargz.FooterSize], blob.Bytes()[blob.Len()-estargz.FooterSize:]
	old := append([]byte{}, footer[:10]...)
	old = append(old, footer[10]-byte(sub), 0)
	old = append(old, footer[12+sub:]...)
	_, err = w.Write(append(body, old...))
	return made, err
}
