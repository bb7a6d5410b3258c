package image

import (
	"context"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/layerindex"
)

// The first request of a layer brings its tail, which should hold footer and
// TOC. The TOC of a layer of small files is about half a percent of its blob, so a
// hundredth is nearly always enough, and a second request brings the rest.
const (
	minTail   = 64 << 10
	maxTail   = 4 << 20
	tailShare = 100
)

// indexTOC makes a layer's index from its TOC, and gives the layer's format.
func (c *Catalog) indexTOC(ctx context.Context, blob source.Blob, d estargz.Digest, claim estargz.Claim) (string, error) {
	packed, footer, err := fetchTOC(ctx, blob, claim, func(n int64) { c.tocBytes.Add(n) })
	if err != nil {
		return "", err
	}
	info := layerindex.LayerInfo{Digest: d, BlobSize: blob.Size(), DataEnd: footer.DataEnd(), Format: layerindex.FormatEStargz}
	format := formatEStargz
	if footer.Zstd {
		info.Format, format = layerindex.FormatZstdChunked, formatZstdChunked
	}
	b := layerindex.NewBuilder(info, layerindex.DefaultLimits())
	got, err := estargz.ReadTOC(packed, footer, estargz.DefaultLimits(), b.Add)
	if err != nil {
		return "", err
	}
	if err := claim.CheckTOC(got); err != nil {
		return "", err
	}
	b.SetTOCDigest(got)
	return format, b.WriteFile(c.layerPath(d))
}

// fetchTOC brings the compressed TOC: by one request where the manifest says its
// place, else by the blob's tail. It has been compared with the claim as far as
// its compressed form is claimed. fetched is told how many bytes of the blob
// that took.
func fetchTOC(ctx context.Context, blob source.Blob, claim estargz.Claim, fetched func(int64)) ([]byte, estargz.Footer, error) {
	if claim.Place.TOCSize == 0 {
		packed, footer, err := readTail(ctx, blob, fetched)
		if err == nil {
			err = claim.CheckPacked(packed)
		}
		return packed, footer, err
	}
	off, n, err := claim.Place.TOCRange(blob.Size(), estargz.DefaultLimits())
	if err != nil {
		return nil, claim.Place, err
	}
	packed := make([]byte, n)
	if err := blob.ReadRange(ctx, off, packed); err != nil {
		return nil, claim.Place, err
	}
	fetched(n)
	return packed, claim.Place, claim.CheckPacked(packed)
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
