package image

import (
	"context"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/layerindex"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The first request of a layer brings its tail, which should hold footer and
// TOC. The TOC of a layer of small files is about half a percent of its blob, so a
// hundredth is nearly always enough, and a second request brings the rest.
const (
	minTail   = 64 << 10
	maxTail   = 4 << 20
	tailShare = 100
)

// indexTOC makes a layer's index from its TOC.
func (c *Catalog) indexTOC(ctx context.Context, blob source.Blob, d estargz.Digest, desc ocispec.Descriptor) error {
	want, err := estargz.ParseDigest(desc.Annotations[estargz.AnnotationTOCDigest])
	if err != nil {
		return err
	}
	toc, footer, err := readTail(ctx, blob, func(n int64) { c.tocBytes.Add(n) })
	if err != nil {
		return err
	}
	lim := estargz.DefaultLimits()
	b := layerindex.NewBuilder(layerindex.LayerInfo{
		Digest: d, TOCDigest: want, BlobSize: blob.Size(), DataEnd: footer.TOCOffset, Format: layerindex.FormatEStargz,
	}, layerindex.DefaultLimits())
	got, err := estargz.ReadTOC(toc, footer, lim, b.Add)
	if err != nil {
		return err
	}
	if got != want {
		return fserr.Newf(fserr.Corrupt, "verify", "TOC", "its digest is %s, the manifest says %s", got, want)
	}
	return b.WriteFile(c.layerPath(d))
}

// readTail brings the compressed TOC, and tells fetched how many bytes of the
// blob that took.
func readTail(ctx context.Context, blob source.Blob, fetched func(int64)) ([]byte, estargz.Footer, error) {
	size := blob.Size()
	n := min(size, max(minTail, min(maxTail, size/tailShare)))
	tail := make([]byte, n)
	if err := blob.ReadRange(ctx, size-n, tail); err != nil {
		return nil, estargz.Footer{}, err
	}
	fetched(n)
	footer, err := estargz.ParseFooter(tail)
	if err != nil {
		return nil, footer, err
	}
	off, length, err := footer.TOCRange(size, estargz.DefaultLimits())
	if err != nil {
		return nil, footer, err
	}
	if have := off - (size - n); have >= 0 {
		return tail[have : have+length], footer, nil
	}
	toc := make([]byte, length)
	rest := size - n - off
	if err := blob.ReadRange(ctx, off, toc[:rest]); err != nil {
		return nil, footer, err
	}
	fetched(rest)
	copy(toc[rest:], tail)
	return toc, footer, nil
}
