package image

import (
	"context"
	"strings"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/fserr"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// The kinds of attach names.
const (
	AttachImage = "image/" // followed by a reference or a manifest digest
	AttachChain = "chain/" // followed by a chain ID
	AttachLayer = "layer/" // followed by a blob digest; whiteouts are shown as overlayfs wants them
	AttachTop   = "top/"   // followed by a chain ID: its uppermost layer alone, shown as AttachLayer does
)

// maxLayers bounds the layers of one tree.
const maxLayers = 512

// Open opens the tree of an attach name. release gives it back.
func (c *Catalog) Open(ctx context.Context, aname string) (Tree, func(), error) {
	aname = strings.TrimPrefix(aname, "/")
	wants, rec, err := c.wantsOf(ctx, aname)
	if err != nil {
		return Tree{}, nil, err
	}
	profiled := c.attached(ctx, rec)
	layers, err := c.acquireEach(ctx, wants, func() { profiled() }, func(i int, l *Layer) { profiled().layer(i, l) })
	if err != nil {
		return Tree{}, nil, err
	}
	if c.prefetch && profiled() == nil {
		for _, l := range layers {
			l.bytes.Prefetch(l.index.Info().PrefetchEnd)
		}
	}
	t, first, err := c.tree(layers, claims(wants), strings.HasPrefix(aname, AttachLayer) || strings.HasPrefix(aname, AttachTop))
	if err != nil {
		return Tree{}, nil, err
	}
	if err := c.enter(ctx, t); err != nil {
		return Tree{}, nil, err
	}
	if rec != nil {
		t.account.manifest.Store(&rec.Manifest)
	}
	if first {
		c.beginStart(t, rec.manifestDigest(), profiled())
	}
	return Tree{t}, func() { c.fill.leave(t); c.releaseTree(t) }, nil
}

// wantsOf gives the layers of an attach name, bottom first, and the image they are
// known to be, or nil.
func (c *Catalog) wantsOf(ctx context.Context, aname string) (wants []want, rec *imageRecord, err error) {
	if name, ok := strings.CutPrefix(aname, AttachImage); ok {
		if rec, err = c.resolve(ctx, name); err != nil {
			return nil, nil, err
		}
		wants, err = rec.wants()
		return wants, rec, err
	}
	if name, ok := strings.CutPrefix(aname, AttachChain); ok {
		if wants, err = c.chainWants(ctx, name); err != nil {
			return nil, nil, err
		}
		return wants, c.imageOfChain(ctx, wants), nil
	}
	if name, ok := strings.CutPrefix(aname, AttachTop); ok {
		if wants, err = c.chainWants(ctx, name); err != nil {
			return nil, nil, err
		}
		return wants[len(wants)-1:], nil, nil
	}
	if name, ok := strings.CutPrefix(aname, AttachLayer); ok {
		d, err := parseDigest("layer", name)
		return []want{{digest: d, any: true}}, nil, err
	}
	return nil, nil, fserr.Newf(fserr.NotExist, "attach", "", "the name is none of %s<reference>, %s<chain ID>, %s<digest>, %s<chain ID>", AttachImage, AttachChain, AttachLayer, AttachTop)
}

// Canonical gives the attach name that stands for the same tree for ever: a
// reference is replaced by the digest of the manifest it names now.
func (c *Catalog) Canonical(ctx context.Context, aname string) (string, error) {
	name, ok := strings.CutPrefix(strings.TrimPrefix(aname, "/"), AttachImage)
	if !ok {
		return aname, nil
	}
	rec, err := c.resolve(ctx, name)
	if err != nil {
		return "", err
	}
	return AttachImage + rec.Manifest, nil
}

// want is one layer to be opened.
type want struct {
	digest estargz.Digest

	// Of a layer of an image:
	ref      string
	desc     *ocispec.Descriptor
	diffID   string
	manifest string // digest
	soci     string // digest of the SOCI index that the image index names

	// Of one that was opened before, desc being nil:
	vouch estargz.Digest
	any   bool // whatever vouches for it
}

// acquireAll opens layers in parallel, with one user each, or none of them.
func (c *Catalog) acquireAll(ctx context.Context, wants []want) ([]*Layer, error) {
	return c.acquireEach(ctx, wants, func() {}, func(int, *Layer) {})
}

// acquireEach is acquireAll that does something else besides, and calls each with
// every layer as soon as it is open.
func (c *Catalog) acquireEach(ctx context.Context, wants []want, besides func(), each func(i int, l *Layer)) ([]*Layer, error) {
	if len(wants) > maxLayers {
		return nil, fserr.Newf(fserr.TooLarge, "open", "", "%d layers, more than %d", len(wants), maxLayers)
	}
	layers := make([]*Layer, len(wants))
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		besides()
		return nil
	})
	for i, w := range wants {
		g.Go(func() (err error) {
			if layers[i], err = c.acquire(gctx, w); err == nil {
				each(i, layers[i])
			}
			return err
		})
	}
	err := g.Wait()
	if err == nil {
		return layers, nil
	}
	for _, l := range layers {
		if l != nil {
			c.release(l)
		}
	}
	return nil, err
}

func (c *Catalog) imageLayers(ctx context.Context, name string) ([]*Layer, error) {
	rec, err := c.resolve(ctx, name)
	if err != nil {
		return nil, err
	}
	wants, err := rec.wants()
	if err != nil {
		return nil, err
	}
	return c.acquireAll(ctx, wants)
}

// wants lists the layers of an image, bottom first.
func (r *imageRecord) wants() ([]want, error) {
	wants := make([]want, len(r.Layers))
	for i := range r.Layers {
		d, err := parseDigest("layer", r.Layers[i].Digest.String())
		if err != nil {
			return nil, err
		}
		wants[i] = want{ref: r.Ref, digest: d, desc: &r.Layers[i], manifest: r.Manifest, soci: r.SOCI}
		if i < len(r.DiffIDs) {
			wants[i].diffID = r.DiffIDs[i]
		}
	}
	return wants, nil
}

// chainWants walks a chain down to its bottom layer.
func (c *Catalog) chainWants(ctx context.Context, id string) ([]want, error) {
	var wants []want
	for id != "" {
		var rec chainRecord
		if _, err := parseDigest("chain", id); err != nil {
			return nil, err
		}
		if err := c.load(ctx, keyChain+id, &rec); err != nil {
			return nil, err
		}
		d, err := parseDigest("layer", rec.Layer)
		if err != nil {
			return nil, err
		}
		w := want{digest: d, diffID: rec.DiffID}
		if rec.Vouch != "" {
			if w.vouch, err = parseDigest("index", rec.Vouch); err != nil {
				return nil, err
			}
		}
		wants = append(wants, w)
		if len(wants) > maxLayers {
			return nil, fserr.Newf(fserr.TooLarge, "chain", id, "more than %d layers", maxLayers)
		}
		id = rec.Parent
	}
	for i, j := 0, len(wants)-1; i < j; i, j = i+1, j-1 {
		wants[i], wants[j] = wants[j], wants[i]
	}
	return wants, nil
}
