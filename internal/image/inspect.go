package image

import (
	"context"
	"strings"

	"github.com/containerd/platforms"
	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/soci"
	"github.com/nineply/nineply/internal/source"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// maxInspections is how many layers are looked at at once.
const maxInspections = 8

// Report describes one platform of an image without serving it.
type Report struct {
	Ref      string `json:"ref"`
	Digest   string `json:"digest"` // of the platform's manifest
	Platform string `json:"platform"`
	Size     int64  `json:"size"` // of all layers, bytes
	Lazy     bool   `json:"lazy"` // every layer is
	// ColdBytes and ColdRequests are what has to be fetched of the layers before the
	// first read of a container can be served, and what the image wants to be
	// fetched ahead of reads.
	ColdBytes    int64         `json:"coldBytes"`
	ColdRequests int           `json:"coldRequests"`
	Layers       []LayerReport `json:"layers"`
}

// LayerReport describes one layer of an image.
type LayerReport struct {
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
	Size      int64  `json:"size"` // of the blob, bytes
	Lazy      bool   `json:"lazy"`
	Reason    string `json:"reason,omitempty"` // why it is not lazy
	// Format is estargz or zstd:chunked, soci for a layer that the image's SOCI index
	// has a zTOC of, and for others how they are compressed: gzip, zstd or tar, as the
	// manifest says.
	Format  string `json:"format,omitempty"`
	Dialect string `json:"dialect,omitempty"` // of zstd:chunked: stargz or containers

	// ColdBytes and ColdRequests are this layer's part of the cold start.
	ColdBytes    int64 `json:"coldBytes"`
	ColdRequests int   `json:"coldRequests"`

	// Known for layers with a TOC only.
	TOCDigest   string `json:"tocDigest,omitempty"`
	TOCSize     int64  `json:"tocSize,omitempty"` // compressed, bytes; of a zTOC too
	ExternalTOC bool   `json:"externalTOC,omitempty"`
	Entries     int    `json:"entries,omitempty"`
	Files       int    `json:"files,omitempty"` // regular files
	Chunks      int    `json:"chunks,omitempty"`
	LargestRead int64  `json:"largestRead,omitempty"` // the largest chunk, bytes
	Members     int    `json:"members,omitempty"`     // compressed parts that can be read alone
	Content     int64  `json:"content,omitempty"`     // uncompressed bytes of all files
	Landmark    string `json:"landmark,omitempty"`    // prefetch, none
	Prefetch    int64  `json:"prefetch,omitempty"`    // bytes the landmark asks for
}

// Inspect describes the image that ref names, from its manifest and the TOCs of
// its layers.
func Inspect(ctx context.Context, src source.Reader, ref string, platform ocispec.Platform) (*Report, error) {
	all, err := InspectAll(ctx, src, ref, source.Selection{Platforms: []ocispec.Platform{platform}})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// InspectAll describes all the images that ref and a selection stand for. There
// is at least one.
func InspectAll(ctx context.Context, src source.Reader, ref string, sel source.Selection) ([]*Report, error) {
	images, err := imagesOf(ctx, src, ref, sel)
	if err != nil {
		return nil, err
	}
	reports := make([]*Report, len(images))
	for i, img := range images {
		if reports[i], err = inspectImage(ctx, src, img); err != nil {
			return nil, err
		}
	}
	return reports, nil
}

// imagesOf resolves a reference to the selected images: at least one.
func imagesOf(ctx context.Context, src source.Reader, ref string, sel source.Selection) ([]*source.Image, error) {
	family, err := source.ResolveFamily(ctx, src, ref, sel)
	if err != nil {
		return nil, err
	}
	var images []*source.Image
	for _, m := range family.Members {
		if m.Image != nil {
			images = append(images, m.Image)
		}
	}
	if len(images) == 0 {
		return nil, fserr.Newf(fserr.NotExist, "resolve", ref, "nothing in it is the image of a container")
	}
	return images, nil
}

func inspectImage(ctx context.Context, src source.Reader, img *source.Image) (*Report, error) {
	r := &Report{
		Ref: img.Ref, Digest: img.Digest.String(), Lazy: true,
		Platform: platforms.Format(img.Config.Platform),
		Layers:   make([]LayerReport, len(img.Manifest.Layers)),
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxInspections)
	for i, desc := range img.Manifest.Layers {
		r.Size += desc.Size
		g.Go(func() error { return r.Layers[i].fill(gctx, src, img.Ref, desc) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := r.beside(ctx, src, img); err != nil {
		return nil, err
	}
	for _, l := range r.Layers {
		r.Lazy = r.Lazy && l.Lazy
		r.ColdBytes += l.ColdBytes
		r.ColdRequests += l.ColdRequests
	}
	return r, nil
}

// beside finds what the SOCI index that the image index names has for layers that
// are not lazy by themselves.
func (r *Report) beside(ctx context.Context, src source.Reader, img *source.Image) error {
	named := img.Descriptor.Annotations[soci.AnnotationIndexDigest]
	if named == "" {
		return nil
	}
	x, err := readSOCI(ctx, src, img.Ref, digest.Digest(named))
	if err != nil && !unusable(err) && !fserr.Is(err, fserr.NotExist) {
		return err
	}
	for i := range r.Layers {
		l := &r.Layers[i]
		if l.Lazy {
			continue
		}
		if err != nil {
			l.Reason += "; SOCI index: " + err.Error()
			continue
		}
		if desc, ok := x.ZTOC(l.Digest); ok {
			l.Lazy, l.Reason, l.Format, l.TOCSize = true, "", formatSOCI, desc.Size
			l.ColdBytes, l.ColdRequests = desc.Size, 1
		}
	}
	return nil
}

func readSOCI(ctx context.Context, src source.Fetcher, ref string, d digest.Digest) (*soci.Index, error) {
	if err := source.CheckDigest(d); err != nil {
		return nil, err
	}
	pinned, err := source.WithDigest(ref, d)
	if err != nil {
		return nil, err
	}
	_, data, err := src.FetchManifest(ctx, pinned)
	if err != nil {
		return nil, err
	}
	return soci.ParseIndex(data, soci.DefaultLimits())
}

// fill looks at one layer.
func (l *LayerReport) fill(ctx context.Context, src source.Repository, ref string, desc ocispec.Descriptor) error {
	*l = LayerReport{Digest: desc.Digest.String(), MediaType: desc.MediaType, Size: desc.Size, Format: compression(desc.MediaType)}
	claim, reason := claimOf(desc)
	if reason == "" {
		t, err := l.request(ctx, src, ref, desc, claim)
		if err != nil {
			return err
		}
		packed, footer, err := t.fetch(ctx)
		if err == nil {
			err = l.count(packed, footer, claim)
		}
		switch kind := fserr.KindOf(err); {
		case err == nil:
			l.TOCSize, l.ExternalTOC = int64(len(packed)), footer.External
			l.named(footer, desc)
			return nil
		case kind == fserr.Corrupt || kind == fserr.TooLarge || kind == fserr.Unsupported:
			reason = err.Error()
		default:
			return err
		}
	}
	l.Lazy, l.Reason = false, reason
	l.ColdBytes, l.ColdRequests = l.Size, 1
	return nil
}

// request prepares the search for the layer's TOC, which counts into the report.
func (l *LayerReport) request(ctx context.Context, src source.Repository, ref string, desc ocispec.Descriptor, claim estargz.Claim) (*tocRequest, error) {
	blob, err := src.Blob(ctx, ref, desc)
	if err != nil {
		return nil, err
	}
	d, err := parseDigest("layer", desc.Digest.String())
	if err != nil {
		return nil, err
	}
	return &tocRequest{src: src, ref: ref, blob: blob, digest: d, claim: claim, fetched: func(n int64) {
		l.ColdBytes += n
		l.ColdRequests++
	}}, nil
}

// named says what a layer with a TOC is.
func (l *LayerReport) named(footer estargz.Footer, desc ocispec.Descriptor) {
	l.Lazy, l.Format = true, formatEStargz
	if footer.Zstd {
		l.Format, l.Dialect = formatZstdChunked, "stargz"
		if _, ok := desc.Annotations[estargz.AnnotationContainersChecksum]; ok {
			l.Dialect = "containers"
		}
	}
	if l.Prefetch > 0 {
		l.ColdBytes += l.Prefetch
		l.ColdRequests++
	}
}

// compression is what a media type says of a layer.
func compression(mediaType string) string {
	switch {
	case strings.HasSuffix(mediaType, "gzip"):
		return "gzip"
	case strings.HasSuffix(mediaType, "zstd"):
		return "zstd"
	case strings.HasSuffix(mediaType, "tar"):
		return "tar"
	}
	return ""
}

// count reads a TOC's figures.
func (l *LayerReport) count(packed []byte, footer estargz.Footer, claim estargz.Claim) error {
	last := int64(-1)
	got, err := estargz.ReadTOC(packed, footer, estargz.DefaultLimits(), func(e *estargz.Entry) error {
		switch e.Name {
		case estargz.PrefetchLandmark:
			l.Landmark, l.Prefetch = "prefetch", e.Offset
			return nil
		case estargz.NoPrefetchLandmark:
			l.Landmark = "none"
			return nil
		}
		if e.Type != estargz.TypeChunk {
			l.Entries++
		}
		if e.Type == estargz.TypeReg {
			l.Files++
			l.Content += e.Size
		}
		if e.ChunkSize > 0 && !e.Hole {
			l.Chunks++
			l.LargestRead = max(l.LargestRead, e.ChunkSize)
			if e.Offset != last {
				l.Members++
				last = e.Offset
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	l.TOCDigest = got.String()
	return claim.CheckTOC(got)
}

// Wanted is what a layer should be already, so that it need not be converted.
type Wanted struct {
	Zstd       bool  // zstd:chunked, else eStargz
	Containers bool  // the dialect of containers/storage
	ChunkSize  int64 // of the largest chunk, bytes; 0: any
}

// Check gives a function that tells whether a layer is as wanted: by its format
// and by its TOC, which has to be inside it and is read and checked. The layer's
// bytes are not read.
func (w Wanted) Check(src source.Repository) func(ctx context.Context, ref string, desc ocispec.Descriptor) (bool, error) {
	return func(ctx context.Context, ref string, desc ocispec.Descriptor) (bool, error) {
		var l LayerReport
		if err := l.fill(ctx, src, ref, desc); err != nil {
			return false, err
		}
		format, dialect := formatEStargz, ""
		if w.Zstd {
			format, dialect = formatZstdChunked, "stargz"
			if w.Containers {
				dialect = "containers"
			}
		}
		fits := w.ChunkSize == 0 || l.LargestRead <= w.ChunkSize
		return l.Lazy && !l.ExternalTOC && l.Format == format && l.Dialect == dialect && fits, nil
	}
}
