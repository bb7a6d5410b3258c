package image

import (
	"context"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Report describes an image without serving it.
type Report struct {
	Ref      string        `json:"ref"`
	Digest   string        `json:"digest"` // of the platform's manifest
	Platform string        `json:"platform"`
	Size     int64         `json:"size"` // of all layers, bytes
	Lazy     bool          `json:"lazy"` // every layer is
	Layers   []LayerReport `json:"layers"`
}

// LayerReport describes one layer of an image.
type LayerReport struct {
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
	Size      int64  `json:"size"` // of the blob, bytes
	Lazy      bool   `json:"lazy"`
	Reason    string `json:"reason,omitempty"` // why it is not lazy
	Format    string `json:"format,omitempty"` // estargz or zstd:chunked

	// Known for lazy layers only.
	TOCDigest string `json:"tocDigest,omitempty"`
	TOCSize   int64  `json:"tocSize,omitempty"` // compressed, bytes
	Entries   int    `json:"entries,omitempty"`
	Files     int    `json:"files,omitempty"` // regular files
	Chunks    int    `json:"chunks,omitempty"`
	Content   int64  `json:"content,omitempty"`  // uncompressed bytes of all files
	Landmark  string `json:"landmark,omitempty"` // prefetch, none
	Prefetch  int64  `json:"prefetch,omitempty"` // bytes the landmark asks for
}

// Inspect describes the image that ref names, from its manifest and the TOCs of
// its layers.
func Inspect(ctx context.Context, src source.Repository, ref string, platform ocispec.Platform) (*Report, error) {
	img, err := src.Resolve(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	r := &Report{
		Ref: img.Ref, Digest: img.Digest.String(), Lazy: true,
		Platform: img.Config.OS + "/" + img.Config.Architecture,
		Layers:   make([]LayerReport, len(img.Manifest.Layers)),
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, desc := range img.Manifest.Layers {
		r.Size += desc.Size
		g.Go(func() error { return r.Layers[i].fill(gctx, src, img.Ref, desc) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, l := range r.Layers {
		r.Lazy = r.Lazy && l.Lazy
	}
	return r, nil
}

func (l *LayerReport) fill(ctx context.Context, src source.Repository, ref string, desc ocispec.Descriptor) error {
	*l = LayerReport{Digest: desc.Digest.String(), MediaType: desc.MediaType, Size: desc.Size}
	claim, reason := claimOf(desc)
	if l.Reason = reason; reason != "" {
		return nil
	}
	blob, err := src.Blob(ctx, ref, desc)
	if err != nil {
		return err
	}
	d, err := parseDigest("layer", l.Digest)
	if err != nil {
		return err
	}
	toc := tocRequest{src: src, ref: ref, blob: blob, digest: d, claim: claim, fetched: func(int64) {}}
	packed, footer, err := toc.fetch(ctx)
	if err == nil {
		l.TOCSize, l.Format = int64(len(packed)), formatEStargz
		if footer.Zstd {
			l.Format = formatZstdChunked
		}
		err = l.count(packed, footer, claim)
	}
	switch kind := fserr.KindOf(err); {
	case err == nil:
		l.Lazy = true
	case kind == fserr.Corrupt || kind == fserr.TooLarge || kind == fserr.Unsupported:
		l.Reason = err.Error()
	default:
		return err
	}
	return nil
}

// count reads a TOC's figures.
func (l *LayerReport) count(packed []byte, footer estargz.Footer, claim estargz.Claim) error {
	digest, err := estargz.ReadTOC(packed, footer, estargz.DefaultLimits(), func(e *estargz.Entry) error {
		switch {
		case e.Name == estargz.PrefetchLandmark:
			l.Landmark, l.Prefetch = "prefetch", e.Offset
			return nil
		case e.Name == estargz.NoPrefetchLandmark:
			l.Landmark = "none"
			return nil
		case e.Type == estargz.TypeChunk:
			l.Chunks++
			return nil
		case e.Type == estargz.TypeReg:
			l.Files++
			l.Content += e.Size
			if e.Size > 0 {
				l.Chunks++
			}
		}
		l.Entries++
		return nil
	})
	if err != nil {
		return err
	}
	l.TOCDigest = digest.String()
	return claim.CheckTOC(digest)
}
