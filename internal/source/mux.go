package source

import (
	"context"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
)

// LayoutPrefix begins the references that name an OCI image layout on disk.
const LayoutPrefix = "oci:"

// ArchivePrefix begins the references that name a tar file of an OCI image
// layout.
const ArchivePrefix = "oci-archive:"

// IsLayout reports whether ref names an image layout on disk rather than
// something in a registry.
func IsLayout(ref string) bool {
	return strings.HasPrefix(ref, LayoutPrefix) || strings.HasPrefix(ref, ArchivePrefix)
}

// Backend is what a Mux chooses between.
type Backend interface {
	Repository
	Fetcher
	PushTarget
}

// Mux is the Backend that passes each reference to the one it belongs to. A nil
// field makes its references Unsupported.
type Mux struct {
	Registry   Backend
	Layout     Backend
	Containerd Backend
}

var (
	_ Backend       = Mux{}
	_ EarlyResolver = Mux{}
)

func (m Mux) pick(ref string) (Backend, error) {
	b := m.Registry
	switch {
	case IsLayout(ref):
		b = m.Layout
	case IsContainerd(ref):
		b = m.Containerd
	}
	if b == nil {
		return nil, fserr.Newf(fserr.Unsupported, "open", clip(ref, maxReferenceBytes), "no source for such references")
	}
	return b, nil
}

// Resolve implements [Repository].
func (m Mux) Resolve(ctx context.Context, ref string, platform ocispec.Platform) (*Image, error) {
	b, err := m.pick(ref)
	if err != nil {
		return nil, err
	}
	return b.Resolve(ctx, ref, platform)
}

// ResolveEarly implements [EarlyResolver], also for sources that are none.
func (m Mux) ResolveEarly(ctx context.Context, ref string, platform ocispec.Platform, early func(*Image)) (*Image, error) {
	b, err := m.pick(ref)
	if err != nil {
		return nil, err
	}
	if e, ok := b.(EarlyResolver); ok {
		return e.ResolveEarly(ctx, ref, platform, early)
	}
	return b.Resolve(ctx, ref, platform)
}

// Blob implements [Repository].
func (m Mux) Blob(ctx context.Context, ref string, desc ocispec.Descriptor) (Blob, error) {
	b, err := m.pick(ref)
	if err != nil {
		return nil, err
	}
	return b.Blob(ctx, ref, desc)
}

// FetchManifest implements [Fetcher].
func (m Mux) FetchManifest(ctx context.Context, ref string) (ocispec.Descriptor, []byte, error) {
	b, err := m.pick(ref)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	return b.FetchManifest(ctx, ref)
}

// Pusher implements [PushTarget].
func (m Mux) Pusher(ctx context.Context, ref string) (Pusher, error) {
	b, err := m.pick(ref)
	if err != nil {
		return nil, err
	}
	return b.Pusher(ctx, ref)
}

// Referrers implements [Referrers].
func (m Mux) Referrers(ctx context.Context, ref string, subject digest.Digest) (list []ocispec.Descriptor, kept bool, err error) {
	b, err := m.pick(ref)
	if err != nil {
		return nil, false, err
	}
	if r, ok := b.(Referrers); ok {
		return r.Referrers(ctx, ref, subject)
	}
	return nil, false, nil
}
