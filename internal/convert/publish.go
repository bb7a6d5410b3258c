package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// maxPushes is how many blobs are on their way at once.
const maxPushes = 4

// publish writes everything to the target, the tag last.
func (j *job) publish(ctx context.Context) (Result, error) {
	for _, p := range j.images {
		if err := p.compose(); err != nil {
			return Result{}, err
		}
	}
	if err := j.pushLayers(ctx); err != nil {
		return Result{}, err
	}
	for _, m := range j.aside {
		if err := j.copyAside(ctx, m); err != nil {
			return Result{}, fmt.Errorf("attestation %s: %w", m.Descriptor.Digest, err)
		}
	}
	for _, p := range j.images {
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(p.config), Size: int64(len(p.config))}
		if err := j.to.PushBlob(ctx, desc, opener(p.config)); err != nil {
			return Result{}, fmt.Errorf("config: %w", err)
		}
	}
	toc, err := j.pushTOCs(ctx)
	if err != nil {
		return Result{}, err
	}
	text, mediaType, err := j.top(ctx)
	if err != nil {
		return Result{}, err
	}
	top, err := j.name(ctx, toc, text, mediaType)
	if err != nil {
		return Result{}, err
	}
	return j.result(top, toc), nil
}

func opener(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// pushLayers brings the layers to the target, each different blob once.
func (j *job) pushLayers(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxPushes)
	var done atomic.Int64
	seen := map[digest.Digest]bool{}
	for _, l := range j.stage.layers {
		if seen[l.out.Digest] {
			done.Add(1)
			continue
		}
		seen[l.out.Digest] = true
		g.Go(func() error {
			if err := j.to.PushBlob(ctx, l.out, j.stage.open(ctx, l)); err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
			j.stage.report(l, done.Add(1), true)
			return nil
		})
	}
	return g.Wait()
}

// copyAside copies a manifest that is no image, with its blobs.
func (j *job) copyAside(ctx context.Context, m source.Member) error {
	pinned, err := source.WithDigest(j.family.Ref, m.Descriptor.Digest)
	if err != nil {
		return err
	}
	desc, data, err := j.from.FetchManifest(ctx, pinned)
	if err != nil {
		return err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(data, &manifest); err != nil {
		return fserr.New(fserr.Corrupt, "decode", "manifest", err)
	}
	for _, b := range append(manifest.Layers, manifest.Config) {
		open := func() (io.ReadCloser, error) {
			blob, err := j.from.Blob(ctx, j.family.Ref, b)
			if err != nil {
				return nil, err
			}
			return blob.Stream(ctx, 0)
		}
		if err := j.to.PushBlob(ctx, b, open); err != nil {
			return err
		}
	}
	got, err := j.to.PushManifest(ctx, "", desc.MediaType, data)
	if err == nil && got.Digest != m.Descriptor.Digest {
		err = fserr.Newf(fserr.Internal, "copy", "", "became %s", got.Digest)
	}
	return err
}

// top gives the document that the tag is for: the manifest of the only image, or
// an index, whose manifests it pushes.
func (j *job) top(ctx context.Context) (text []byte, mediaType string, err error) {
	if j.family.Index == nil {
		return j.images[0].text, ocispec.MediaTypeImageManifest, nil
	}
	index := newIndex(j.family.Index)
	renamed := map[digest.Digest]digest.Digest{}
	for _, p := range j.images {
		if _, err := j.to.PushManifest(ctx, "", ocispec.MediaTypeImageManifest, p.text); err != nil {
			return nil, "", fmt.Errorf("manifest of %s: %w", p.platform(), err)
		}
		renamed[p.member.Descriptor.Digest] = p.desc.Digest
		index.Manifests = append(index.Manifests, p.desc)
	}
	for _, m := range j.aside {
		index.Manifests = append(index.Manifests, asideDescriptor(m, renamed[m.About]))
	}
	text, err = json.Marshal(index)
	return text, ocispec.MediaTypeImageIndex, err
}

// name gives out the tags: that of the TOC image first, so that the image is
// lazy from the moment it is there.
func (j *job) name(ctx context.Context, toc *tocImage, text []byte, mediaType string) (ocispec.Descriptor, error) {
	undo := func(err error) error { return err }
	if toc != nil {
		before := j.before(ctx, toc.ref)
		if _, err := j.to.PushManifest(ctx, toc.ref, ocispec.MediaTypeImageManifest, toc.text); err != nil {
			return ocispec.Descriptor{}, j.takeBack(ctx, toc, before, fmt.Errorf("manifest of the TOC image: %w", err))
		}
		undo = func(err error) error { return j.takeBack(ctx, toc, before, err) }
	}
	desc, err := j.to.PushManifest(ctx, j.dstRef, mediaType, text)
	if err == nil {
		if c, ok := j.to.(source.Committer); ok {
			err = c.Commit(ctx)
		}
	}
	if err != nil {
		return desc, undo(fmt.Errorf("manifest: %w", err))
	}
	return desc, nil
}

// previous is what had a tag before.
type previous struct {
	mediaType string
	text      []byte
}

// before looks up what a tag of the target names now; nil if nothing, or if the
// target cannot say.
func (j *job) before(ctx context.Context, ref string) *previous {
	fetcher, ok := j.dst.(source.Fetcher)
	if !ok {
		return nil
	}
	desc, text, err := fetcher.FetchManifest(ctx, ref)
	if err != nil {
		return nil // most likely it is not there; what goes wrong here shows with the push
	}
	return &previous{desc.MediaType, text}
}

// takeBack undoes the tag of a TOC image after the failure err.
func (j *job) takeBack(ctx context.Context, toc *tocImage, before *previous, err error) error {
	if _, ok := j.to.(source.Committer); ok {
		return err // nothing was shown yet
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
	defer cancel()
	var uerr error
	switch p, ok := j.to.(source.Untagger); {
	case before != nil:
		_, uerr = j.to.PushManifest(ctx, toc.ref, before.mediaType, before.text)
	case ok:
		uerr = p.Untag(ctx, toc.ref)
	default:
		uerr = errors.New("the target cannot delete tags")
	}
	if uerr != nil {
		return errors.Join(err, fmt.Errorf("the TOC image %s stayed behind: %w", toc.ref, uerr))
	}
	return err
}

func (j *job) result(top ocispec.Descriptor, toc *tocImage) Result {
	res := Result{
		Ref: j.dstRef, MediaType: top.MediaType, SourceDigest: j.family.Top.Digest, Digest: top.Digest,
		Notes: append([]string{}, j.notes...),
	}
	if j.family.Index == nil {
		res.SourceDigest = j.images[0].member.Image.Digest
	}
	if toc != nil {
		res.TOCRef, res.TOCDigest = toc.ref, digest.FromBytes(toc.text)
	}
	for _, p := range j.images {
		res.Images = append(res.Images, p.result())
	}
	for _, l := range j.stage.layers {
		res.SourceSize += l.source.Size
		res.Size += l.out.Size
	}
	res.NotFound = j.stage.notFound()
	if res.Digest != res.SourceDigest {
		res.Notes = append(res.Notes, fmt.Sprintf("digests changed: signatures of %s do not cover %s, which has to be signed anew", res.SourceDigest, res.Digest))
	}
	return res
}

func (p *picture) platform() string { return platforms.Format(p.member.Image.Config.Platform) }

func (p *picture) result() ImageResult {
	img := p.member.Image
	res := ImageResult{
		Platform: p.platform(), SourceDigest: img.Digest, Digest: p.desc.Digest,
		SameConfig: bytes.Equal(p.config, img.ConfigBytes), Layers: []LayerResult{},
	}
	for _, l := range p.layers {
		res.Layers = append(res.Layers, LayerResult{
			SourceDigest: l.source.Digest, Digest: l.out.Digest, DiffID: l.newID,
			SourceSize: l.source.Size, Size: l.out.Size, Reused: l.reused,
			First: l.found(), Prefetch: l.front.end,
		})
	}
	return res
}
