package image

import (
	"context"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
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
func (c *Catalog) indexTOC(ctx context.Context, ref string, blob source.Blob, d estargz.Digest, claim estargz.Claim) (string, error) {
	id := layerID{blob: d, vouch: claimVouch(claim)}
	packed, footer, err := c.fetchTOC(ctx, ref, blob, id, claim)
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
		return "", unfitTOC(err)
	}
	if err := claim.CheckTOC(got); err != nil {
		return "", err
	}
	b.SetTOCDigest(got)
	if err := b.WriteFile(c.layerPath(id)); err != nil {
		return "", unfitTOC(err)
	}
	return format, nil
}

// unfitTOC says of a TOC that makes no tree that it is damaged.
func unfitTOC(err error) error {
	if fserr.KindOf(err) == fserr.Invalid {
		return fserr.New(fserr.Corrupt, "read", "TOC", err)
	}
	return err
}

// tocRequest is the search for the compressed TOC of one layer.
type tocRequest struct {
	src     source.Repository
	ref     string // an image that has the layer
	blob    source.Blob
	digest  estargz.Digest // of the blob
	claim   estargz.Claim
	fetched func(int64) // told how many bytes were asked for
}

// fetch brings the compressed TOC: by one request where the manifest says its
// place, else by the blob's tail, or from the TOC image that the tail refers to.
// It has been compared with the claim as far as its compressed form is claimed.
func (t *tocRequest) fetch(ctx context.Context) ([]byte, estargz.Footer, error) {
	if t.claim.Place.TOCSize > 0 {
		packed, err := t.placed(ctx)
		return packed, t.claim.Place, err
	}
	packed, footer, err := t.tail(ctx)
	if err == nil && footer.External {
		packed, err = t.external(ctx)
	}
	if err != nil {
		return nil, footer, err
	}
	return packed, footer, t.claim.CheckPacked(packed)
}

// placed reads the TOC at the place that the manifest vouches for.
func (t *tocRequest) placed(ctx context.Context) ([]byte, error) {
	off, n, err := t.claim.Place.TOCRange(t.blob.Size(), estargz.DefaultLimits())
	if err != nil {
		return nil, err
	}
	packed := make([]byte, n)
	if err := source.ReadVerified(ctx, t.blob, off, packed, t.claim.CheckPacked); err != nil {
		return nil, err
	}
	t.fetched(n)
	return packed, nil
}

// tail reads the end of the blob, and the TOC that its footer points at unless
// that is External.
func (t *tocRequest) tail(ctx context.Context) ([]byte, estargz.Footer, error) {
	size := t.blob.Size()
	n := min(size, max(minTail, min(maxTail, size/tailShare)))
	tail := make([]byte, n)
	if err := t.blob.ReadRange(ctx, size-n, tail); err != nil {
		return nil, estargz.Footer{}, err
	}
	t.fetched(n)
	footer, err := estargz.ParseFooter(tail)
	if err != nil {
		return nil, footer, err
	}
	if footer.External {
		return nil, footer.Outside(size), nil
	}
	off, length, err := footer.TOCRange(size, estargz.DefaultLimits())
	if err != nil {
		return nil, footer, err
	}
	if have := off - (size - n); have >= 0 {
		return tail[have : have+length], footer, nil
	}
	toc := make([]byte, length)
	rest := min(length, size-n-off)
	if err := t.blob.ReadRange(ctx, off, toc[:rest]); err != nil {
		return nil, footer, err
	}
	t.fetched(rest)
	copy(toc[rest:], tail)
	return toc, footer, nil
}
