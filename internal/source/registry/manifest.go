package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
	"github.com/nineply/nineply/internal/source/hosts"
)

// Resolve implements [source.Repository].
func (r *Registry) Resolve(ctx context.Context, ref string, platform ocispec.Platform) (*source.Image, error) {
	return r.ResolveEarly(ctx, ref, platform, nil)
}

// ResolveEarly implements [source.EarlyResolver].
func (r *Registry) ResolveEarly(ctx context.Context, ref string, platform ocispec.Platform, early func(*source.Image)) (*source.Image, error) {
	parsed, err := source.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	if early != nil {
		r.prepare(ctx, parsed.Host)
	}
	return source.ResolveImageEarly(ctx, parsed.String(), objects{r, parsed}, platform, early)
}

// prepare makes connections to the host that will be asked first.
func (r *Registry) prepare(ctx context.Context, registry string) {
	all, err := r.endpoints(registry)
	if err != nil {
		return // the resolution will say so
	}
	if pulling := capable(all, hosts.Pull); len(pulling) > 0 {
		pulling[0].prepare(ctx)
	}
}

// FetchManifest implements [source.Fetcher].
func (r *Registry) FetchManifest(ctx context.Context, ref string) (ocispec.Descriptor, []byte, error) {
	parsed, err := source.ParseReference(ref)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	return objects{r, parsed}.Top(ctx)
}

// objects reads small things of one repository.
type objects struct {
	registry *Registry
	ref      source.Reference
}

// Top implements [source.Objects].
func (o objects) Top(ctx context.Context) (ocispec.Descriptor, []byte, error) {
	want := hosts.Pull
	if o.ref.Digest == "" {
		want = hosts.Pull | hosts.Resolve
	}
	return o.manifest(ctx, o.ref.Target(), o.ref.Digest, -1, want)
}

// Manifest implements [source.Objects].
func (o objects) Manifest(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	_, data, err := o.manifest(ctx, desc.Digest.String(), desc.Digest, desc.Size, hosts.Pull)
	return data, err
}

// Config implements [source.Objects].
func (o objects) Config(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	b, err := o.registry.blob(ctx, o.ref, desc)
	if err != nil {
		return nil, err
	}
	if b.size > source.MaxConfigBytes {
		return nil, fserr.Newf(fserr.TooLarge, "read", b.object(), "%d bytes, at most %d are read", b.size, source.MaxConfigBytes)
	}
	data := make([]byte, b.size)
	verify := func(p []byte) error {
		if desc.Digest.Algorithm().FromBytes(p) != desc.Digest {
			return errDigest
		}
		return nil
	}
	if b.probe(ctx, data) && verify(data) == nil {
		return data, nil
	}
	return data, b.ReadVerified(ctx, 0, data, verify)
}

var errDigest = errors.New("content does not have this digest")

// manifest asks the hosts for a manifest. want may be empty and size negative
// if unknown.
func (o objects) manifest(ctx context.Context, target string, want digest.Digest, size int64, c hosts.Capability) (ocispec.Descriptor, []byte, error) {
	all, err := o.registry.endpoints(o.ref.Host)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	var desc ocispec.Descriptor
	var data []byte
	err = o.registry.run(ctx, task{
		op: "read", object: o.ref.String() + " manifest " + target, endpoints: capable(all, c),
		try: func(ctx context.Context, e *endpoint) error {
			var err error
			desc, data, err = o.fromHost(ctx, e, target, want, size)
			return err
		},
	})
	return desc, data, err
}

func (o objects) fromHost(ctx context.Context, e *endpoint, target string, want digest.Digest, size int64) (ocispec.Descriptor, []byte, error) {
	var none ocispec.Descriptor
	resp, err := e.exchange(ctx, request{
		method: http.MethodGet, url: e.url(o.ref.Repository, "manifests", target),
		header:     http.Header{"Accept": {strings.Join(source.ManifestTypes(), ", ")}},
		repository: o.ref.Repository, actions: actionsPull,
	})
	if err != nil {
		return none, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return none, nil, answerFailure(resp.Response)
	}
	defer func() { _ = resp.Body.Close() }() // the bytes are verified below
	if resp.ContentLength > source.MaxManifestBytes {
		return none, nil, fail(fserr.TooLarge, "a manifest of %d bytes, at most %d are read", resp.ContentLength, source.MaxManifestBytes)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, source.MaxManifestBytes+1))
	switch {
	case err != nil:
		return none, nil, bodyFailure(err)
	case len(data) > source.MaxManifestBytes:
		return none, nil, fail(fserr.TooLarge, "a manifest of more than %d bytes", source.MaxManifestBytes)
	case size >= 0 && int64(len(data)) != size:
		return none, nil, failAgain(fserr.Corrupt, "%d bytes instead of %d", len(data), size)
	}
	if want == "" {
		want = announced(resp.Header)
	}
	algorithm := digest.Canonical
	if want != "" {
		algorithm = want.Algorithm()
	}
	got := algorithm.FromBytes(data)
	if want != "" && got != want {
		return none, nil, failAgain(fserr.Corrupt, "%w: it is %s, not %s", errDigest, got, want)
	}
	mediaType := source.ManifestType(source.BareType(resp.Header.Get("Content-Type")), data)
	return ocispec.Descriptor{MediaType: mediaType, Digest: got, Size: int64(len(data))}, data, nil
}

// announced is the digest that a host says a manifest has, if it is usable.
func announced(h http.Header) digest.Digest {
	d, err := digest.Parse(h.Get("Docker-Content-Digest"))
	if err != nil {
		return ""
	}
	return d
}
