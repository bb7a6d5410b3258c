package containerdstore

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

const (
	// leaseTime is how long what was written is kept at most without an image
	// that refers to it.
	leaseTime = 24 * time.Hour
	// releasePatience bounds how long the end of a lease is waited for.
	releasePatience = 10 * time.Second
)

// pusher writes into one namespace.
type pusher struct {
	*services
	ctx context.Context //nolint:containedctx // of Pusher: Close ends the lease even if it has ended

	mu    sync.Mutex
	lease string
}

var (
	_ source.Unpinner = (*pusher)(nil)
	_ source.Untagger = (*pusher)(nil)
)

// Pusher implements [source.PushTarget].
func (s *Store) Pusher(ctx context.Context, ref string) (source.Pusher, error) {
	v, err := s.open(ref)
	if err != nil {
		return nil, err
	}
	return &pusher{services: v, ctx: context.WithoutCancel(ctx)}, nil
}

// leased is ctx with the pusher's lease, which is made at the first call.
func (p *pusher) leased(ctx context.Context) (context.Context, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lease == "" {
		l, err := p.leases.Create(p.in(ctx), leases.WithRandomID(), leases.WithExpiration(leaseTime))
		if err != nil {
			return nil, p.failure("lease for", "", err)
		}
		p.lease = l.ID
	}
	return leases.WithLease(p.in(ctx), p.lease), nil
}

// Close implements [source.Unpinner].
func (p *pusher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lease == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(p.ctx, releasePatience)
	defer cancel()
	if err := p.leases.Delete(p.in(ctx), leases.Lease{ID: p.lease}); err != nil && !errdefs.IsNotFound(err) {
		return p.failure("end the lease for", "", err)
	}
	p.lease = ""
	return nil
}

// PushBlob implements [source.Pusher].
func (p *pusher) PushBlob(ctx context.Context, desc ocispec.Descriptor, open func() (io.ReadCloser, error)) error {
	return p.write(ctx, desc, open, nil)
}

func (p *pusher) write(ctx context.Context, desc ocispec.Descriptor, open func() (io.ReadCloser, error), labels map[string]string) error {
	if err := source.CheckDigest(desc.Digest); err != nil {
		return err
	}
	if desc.Size < 0 {
		return fserr.Newf(fserr.Invalid, "push", desc.Digest.String(), "negative size")
	}
	what := "blob " + desc.Digest.String()
	ctx, err := p.leased(ctx)
	if err != nil {
		return err
	}
	w, err := content.OpenWriter(ctx, p.content, content.WithRef("nineply-"+desc.Digest.String()),
		content.WithDescriptor(ocispec.Descriptor{Digest: desc.Digest, Size: desc.Size}))
	if errdefs.IsAlreadyExists(err) {
		return p.label(ctx, desc, labels)
	}
	if err != nil {
		return p.failure("push", what, err)
	}
	err = p.copy(ctx, w, desc, open, labels)
	if cerr := w.Close(); err == nil && cerr != nil {
		err = cerr
	}
	if err != nil {
		return p.failure("push", what, err)
	}
	return nil
}

// copy fills a writer from the beginning and commits it.
func (p *pusher) copy(ctx context.Context, w content.Writer, desc ocispec.Descriptor, open func() (io.ReadCloser, error), labels map[string]string) error {
	// What an earlier try left half-written may be anything.
	if err := w.Truncate(0); err != nil {
		return err
	}
	rc, err := open()
	if err != nil {
		return fmt.Errorf("open content: %w", err)
	}
	v := source.Verified(rc, desc.Digest, desc.Size)
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, v, make([]byte, streamBuffer))
	if cerr := v.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close content: %w", cerr)
	}
	if err != nil {
		return err
	}
	var opts []content.Opt
	if labels != nil {
		opts = append(opts, content.WithLabels(labels))
	}
	err = w.Commit(ctx, desc.Size, desc.Digest, opts...)
	if errdefs.IsAlreadyExists(err) { // somebody else was faster
		return p.label(ctx, desc, labels)
	}
	return err
}

// label adds labels to content that is there already. Content of the expected
// size is taken for what its digest says: containerd verified it.
func (p *pusher) label(ctx context.Context, desc ocispec.Descriptor, labels map[string]string) error {
	what := "blob " + desc.Digest.String()
	info, err := p.content.Info(ctx, desc.Digest)
	if err != nil {
		return p.failure("push", what, err)
	}
	if info.Size != desc.Size {
		return fserr.Newf(fserr.Corrupt, "push", what, "containerd has %d bytes under this digest, not %d", info.Size, desc.Size)
	}
	if len(labels) == 0 {
		return nil
	}
	paths := make([]string, 0, len(labels))
	for key := range labels {
		paths = append(paths, "labels."+key)
	}
	if _, err := p.content.Update(ctx, content.Info{Digest: desc.Digest, Labels: labels}, paths...); err != nil {
		return p.failure("label", what, err)
	}
	return nil
}

// PushManifest implements [source.Pusher].
func (p *pusher) PushManifest(ctx context.Context, target, mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if len(data) > source.MaxManifestBytes {
		return desc, fserr.Newf(fserr.TooLarge, "push", desc.Digest.String(), "%d bytes, at most %d are allowed", len(data), source.MaxManifestBytes)
	}
	name, err := p.nameFor(target, desc.Digest)
	if err != nil {
		return desc, err
	}
	labels, err := children(data)
	if err != nil {
		return desc, err
	}
	err = p.write(ctx, desc, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, labels)
	if err != nil || name == "" {
		return desc, err
	}
	return desc, p.name(ctx, name, desc)
}

// children gives the labels by which containerd's garbage collector finds what a
// manifest refers to.
func children(data []byte) (map[string]string, error) {
	var doc struct {
		Config    *ocispec.Descriptor
		Layers    []ocispec.Descriptor
		Manifests []ocispec.Descriptor
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fserr.New(fserr.Invalid, "decode", "manifest", err)
	}
	const prefix = "containerd.io/gc.ref.content."
	labels := map[string]string{}
	if doc.Config != nil && doc.Config.Digest != "" {
		labels[prefix+"config"] = doc.Config.Digest.String()
	}
	for i, l := range doc.Layers {
		labels[fmt.Sprintf("%sl.%d", prefix, i)] = l.Digest.String()
	}
	for i, m := range doc.Manifests {
		labels[fmt.Sprintf("%sm.%d", prefix, i)] = m.Digest.String()
	}
	return labels, nil
}

// nameFor reads what PushManifest was given: a tag, a whole reference, or
// nothing.
func (p *pusher) nameFor(target string, d digest.Digest) (string, error) {
	if target == "" || target == d.String() {
		return "", nil
	}
	if !source.IsContainerd(target) && !strings.Contains(target, "/") {
		full, err := source.WithTag(p.ref.String(), target)
		if err != nil {
			return "", err
		}
		target = full
	}
	parsed, err := ParseReference(target)
	switch {
	case err != nil:
		return "", err
	case parsed.Namespace != p.ref.Namespace:
		return "", fserr.Newf(fserr.Invalid, "push", target, "not in the namespace of %s", p.ref)
	case parsed.Digest != "" && d != "" && parsed.Digest != d:
		return "", fserr.Newf(fserr.Invalid, "push", target, "the manifest's digest is %s", d)
	case parsed.Digest != "":
		return "", nil
	}
	want, werr := source.TagOf(source.ContainerdPrefix + parsed.fullName())
	have, herr := source.WithTag(source.ContainerdPrefix+p.ref.fullName(), want)
	if werr != nil || herr != nil || have != source.ContainerdPrefix+parsed.fullName() {
		return "", fserr.Newf(fserr.Invalid, "push", target, "not in the repository of %s", p.ref)
	}
	return parsed.fullName(), nil
}

// name makes the image record, or changes what it points at.
func (p *pusher) name(ctx context.Context, name string, desc ocispec.Descriptor) error {
	ctx, err := p.leased(ctx)
	if err != nil {
		return err
	}
	img := &imagesapi.Image{Name: name, Target: &types.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest.String(), Size: desc.Size}}
	_, err = p.images.Create(ctx, &imagesapi.CreateImageRequest{Image: img})
	if errdefs.IsAlreadyExists(errgrpc.ToNative(err)) {
		_, err = p.images.Update(ctx, &imagesapi.UpdateImageRequest{Image: img, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"target"}}})
	}
	if err != nil {
		return p.failure("name", name, err)
	}
	return nil
}

// Untag implements [source.Untagger].
func (p *pusher) Untag(ctx context.Context, target string) error {
	name, err := p.nameFor(target, "")
	if err != nil {
		return err
	}
	_, err = p.images.Delete(p.in(ctx), &imagesapi.DeleteImageRequest{Name: name})
	if err != nil && !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		return p.failure("delete", name, err)
	}
	return nil
}
