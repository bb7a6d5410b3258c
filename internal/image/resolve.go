package image

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/soci"
	"github.com/nineply/nineply/internal/source"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
)

// resolve finds the image that name stands for: a reference, or the digest of a
// manifest seen before. A reference is asked of its source, so that a moved tag
// is followed; when the source cannot answer, what it answered last is used.
func (c *Catalog) resolve(ctx context.Context, name string) (*imageRecord, error) {
	if strings.HasPrefix(name, "sha256:") {
		return c.known(ctx, name)
	}
	ref, err := normalize(name)
	if err != nil {
		return nil, err
	}
	if _, d, ok := strings.Cut(ref, "@"); ok {
		if rec, err := c.known(ctx, d); err == nil {
			return rec, nil
		}
	}
	rec, err := share(ctx, c, c.images, ref, func(ctx context.Context) (*imageRecord, error) {
		return c.ask(ctx, ref)
	})
	if err == nil {
		return rec, nil
	}
	if kind := fserr.KindOf(err); kind != fserr.Unavailable && kind != fserr.Unauthorized {
		return nil, err
	}
	last, lerr := c.lastKnown(ctx, ref)
	if lerr != nil {
		return nil, err
	}
	c.log.Warn("source unreachable, using the image as last seen", zap.String("image", ref), zap.String("manifest", last.Manifest), zap.Error(err))
	return last, nil
}

// normalize gives a reference its full form; the path of a layout is one already.
func normalize(name string) (string, error) {
	if source.IsLayout(name) {
		return name, nil
	}
	ref, err := source.ParseReference(name)
	if err != nil {
		return "", err
	}
	return ref.String(), nil
}

// known loads the record of a manifest digest.
func (c *Catalog) known(ctx context.Context, manifest string) (*imageRecord, error) {
	if _, err := parseDigest("manifest", manifest); err != nil {
		return nil, err
	}
	rec := new(imageRecord)
	if err := c.load(ctx, keyImage+manifest, rec); err != nil {
		return nil, err
	}
	return rec, nil
}

// lastKnown loads what ref stood for when it was last resolved.
func (c *Catalog) lastKnown(ctx context.Context, ref string) (*imageRecord, error) {
	text, err := c.records.Get(ctx, keyRef+ref)
	if err != nil {
		return nil, err
	}
	return c.known(ctx, string(text))
}

// ask resolves ref at its source and records the answer.
func (c *Catalog) ask(ctx context.Context, ref string) (*imageRecord, error) {
	img, err := c.resolveEarly(ctx, ref)
	if err != nil {
		return nil, err
	}
	rec := &imageRecord{Ref: img.Ref, Manifest: img.Digest.String(), Layers: img.Manifest.Layers, SOCI: img.Descriptor.Annotations[soci.AnnotationIndexDigest]}
	for _, d := range img.Config.RootFS.DiffIDs {
		rec.DiffIDs = append(rec.DiffIDs, d.String())
	}
	if len(rec.DiffIDs) != len(rec.Layers) {
		return nil, fserr.Newf(fserr.Corrupt, "resolve", ref, "the manifest has %d layers and its config %d diff IDs", len(rec.Layers), len(rec.DiffIDs))
	}
	rec.Named = img.Top.Digest != img.Digest || !strings.Contains(ref, "@")
	if old, err := c.known(ctx, rec.Manifest); err == nil && old.Named && !rec.Named {
		rec = old // it was found by a name that says more
	}
	if err := c.save(ctx, keyImage+rec.Manifest, rec); err != nil {
		return nil, err
	}
	if err := c.records.Put(ctx, keyRef+ref, []byte(rec.Manifest)); err != nil {
		return nil, err
	}
	return rec, nil
}

// resolveEarly asks for the layers' tables of contents as soon as the manifest is
// there.
func (c *Catalog) resolveEarly(ctx context.Context, ref string) (*source.Image, error) {
	if r, ok := c.source.(source.EarlyResolver); ok {
		return r.ResolveEarly(ctx, ref, c.platform, c.readEarly)
	}
	return c.source.Resolve(ctx, ref, c.platform)
}

// imageOf finds the image a layer belongs to: by its manifest digest, by what
// the reference stood for last, or by asking. The layer must be in it.
func (c *Catalog) imageOf(ctx context.Context, ref, manifest, layer string) (*imageRecord, int, error) {
	tries := []func() (*imageRecord, error){
		func() (*imageRecord, error) { return c.known(ctx, manifest) },
		func() (*imageRecord, error) { return c.lastKnown(ctx, ref) },
		func() (*imageRecord, error) { return c.resolve(ctx, withDigest(ref, manifest)) },
		func() (*imageRecord, error) { return c.resolve(ctx, ref) },
	}
	var errs []error
	for _, try := range tries {
		rec, err := try()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if i := rec.indexOf(layer); i >= 0 {
			return rec, i, nil
		}
	}
	if err := worst(errs); err != nil {
		return nil, 0, err
	}
	return nil, 0, fserr.Newf(fserr.NotExist, "layer", layer, "not a layer of %s", ref)
}

// withSOCI looks for the SOCI index of an image that was found by the digest of its
// manifest: it is the image index that names it, which ref may lead to. Only images
// with layers that could use one are asked for.
func (c *Catalog) withSOCI(ctx context.Context, rec *imageRecord, ref string) *imageRecord {
	plain := slices.ContainsFunc(rec.Layers, func(d ocispec.Descriptor) bool {
		_, reason := claimOf(d)
		return reason != ""
	})
	if rec.Named || !plain || !c.trust.SOCI || ref == "" {
		return rec
	}
	named, err := c.resolve(ctx, ref)
	if err != nil || named.Manifest != rec.Manifest {
		return rec // the name leads elsewhere by now
	}
	return named
}

// withDigest pins ref to a manifest digest, when there is one.
func withDigest(ref, manifest string) string {
	if manifest == "" {
		return ref
	}
	name, _, _ := strings.Cut(ref, "@")
	if slash, colon := strings.LastIndexByte(name, '/'), strings.LastIndexByte(name, ':'); colon > slash {
		name = name[:colon]
	}
	return name + "@" + manifest
}

// withTag prefers a reference that has a tag to one of the same repository that
// has only a digest: what lies beside an image is found by its tag.
func withTag(ref, tagged string) string {
	have, err := source.ParseReference(ref)
	if err != nil || have.Tag != "" || source.IsLayout(ref) {
		return ref
	}
	other, err := source.ParseReference(tagged)
	if err != nil || other.Tag == "" || other.Name() != have.Name() {
		return ref
	}
	return other.String()
}

// worst picks the error that says most about why an image cannot be had: one of
// its source, not one of a record that was never made.
func worst(errs []error) error {
	for i := len(errs) - 1; i >= 0; i-- {
		var e *fserr.Error
		if errors.As(errs[i], &e) && e.Kind != fserr.NotExist && e.Kind != fserr.Invalid {
			return errs[i]
		}
	}
	if len(errs) > 2 {
		return errs[len(errs)-1]
	}
	return nil
}

func (r *imageRecord) indexOf(layer string) int {
	for i, d := range r.Layers {
		if d.Digest.String() == layer {
			return i
		}
	}
	return -1
}
