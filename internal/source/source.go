package source

import (
	"context"
	"fmt"
	"io"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nineply/nineply/internal/fserr"
)

// Blob is one blob of a repository, read by byte ranges. It is safe for
// concurrent use, holds nothing that needs closing, and does not verify
// digests.
type Blob interface {
	// Size is the number of bytes in the blob.
	Size() int64

	// ReadRange fills p with the bytes from off on, or fails: it never returns
	// nil after fewer bytes. A range that reaches beyond Size is Invalid. On
	// failure the content of p is undefined.
	ReadRange(ctx context.Context, off int64, p []byte) error

	// Stream reads from off to the end: OpenRange(ctx, off, Size()-off).
	Stream(ctx context.Context, off int64) (io.ReadCloser, error)

	// OpenRange reads n bytes from off on as they arrive, with one request. A
	// connection that breaks is resumed where it broke. ctx governs the whole
	// stream, not only its start; Close releases it early.
	OpenRange(ctx context.Context, off, n int64) (io.ReadCloser, error)
}

// Image is one platform of an image, with every part verified.
type Image struct {
	// Ref is the normalised reference, such as
	// "docker.io/library/alpine:3.20". It can be resolved again.
	Ref string
	// Digest is that of the platform's manifest.
	Digest digest.Digest
	// Descriptor describes the platform's manifest.
	Descriptor ocispec.Descriptor
	// Top describes what the reference itself named: an index, or the same as
	// Descriptor.
	Top ocispec.Descriptor
	// Manifest is the decoded manifest. A Docker schema 2 manifest is decoded
	// into the same structure and keeps its media types.
	Manifest ocispec.Manifest
	// Config is the decoded image config.
	Config ocispec.Image
	// ManifestBytes and ConfigBytes are the exact bytes that were verified.
	ManifestBytes, ConfigBytes []byte
}

// Repository resolves references and opens blobs.
type Repository interface {
	// Resolve finds the image that ref names for a platform. What the platform
	// leaves open is that of this program.
	Resolve(ctx context.Context, ref string, platform ocispec.Platform) (*Image, error)

	// Blob opens the blob that desc describes in the repository of ref. Only
	// the repository part of ref matters. With desc.Size > 0 no request is
	// made: a blob that is not there shows at the first read.
	Blob(ctx context.Context, ref string, desc ocispec.Descriptor) (Blob, error)
}

// EarlyResolver is a Repository that tells of an image before it has all of it, so
// that its layers can be asked for beside its config.
type EarlyResolver interface {
	Repository
	// ResolveEarly is Resolve. early is called at most once, before ResolveEarly
	// returns, with the image as far as its manifest goes, which is verified and
	// does not change any more: Config and ConfigBytes are empty, and Top is. It must
	// not block. It is not called where only the config tells the platform.
	ResolveEarly(ctx context.Context, ref string, platform ocispec.Platform, early func(*Image)) (*Image, error)
}

// Fetcher reads a whole small object of a repository, such as a manifest that
// refers to an image.
type Fetcher interface {
	// FetchManifest returns the manifest that ref names, and its descriptor.
	// The bytes agree with the digest, at most MaxManifestBytes of them.
	FetchManifest(ctx context.Context, ref string) (ocispec.Descriptor, []byte, error)
}

// Pusher writes to one repository.
type Pusher interface {
	// PushBlob uploads the blob that desc describes, unless it is there
	// already. open starts the content from the beginning and may be called
	// again after a failure. The digest and the size are verified on the way.
	PushBlob(ctx context.Context, desc ocispec.Descriptor, open func() (io.ReadCloser, error)) error

	// PushManifest writes a manifest or an index. target is a tag, a full
	// reference into this pusher's repository, or empty, which makes the
	// manifest reachable by digest only.
	PushManifest(ctx context.Context, target, mediaType string, data []byte) (ocispec.Descriptor, error)
}

// Committer is a Pusher that shows nothing of what it was given before Commit:
// the file of an archive. The tags of one Commit appear together or not at all.
type Committer interface {
	Pusher
	Commit(ctx context.Context) error
}

// Unpinner is a Pusher that holds something until Close: a temporary file, or a
// lease on blobs that nothing refers to yet. Close is called once, after Commit
// if there is one, and undoes what was not committed.
type Unpinner interface {
	Pusher
	Close() error
}

// Untagger is a Pusher that can take back a tag that it wrote.
type Untagger interface {
	Pusher
	Untag(ctx context.Context, target string) error
}

// Mounter is a Pusher into a registry that may already hold the blobs to be
// pushed in another repository, and can link them from there.
type Mounter interface {
	Pusher
	// MountFrom adds the repository of ref to those to be asked.
	MountFrom(ref string)
}

// PushTarget opens a Pusher for the repository of ref.
type PushTarget interface {
	Pusher(ctx context.Context, ref string) (Pusher, error)
}

// VerifiedReader is a Blob that can ask another host when the bytes of the
// first one turn out wrong.
type VerifiedReader interface {
	Blob
	// ReadVerified is ReadRange followed by verify on the bytes, repeated with
	// other hosts while verify fails. verify must be callable several times and
	// must not keep p.
	ReadVerified(ctx context.Context, off int64, p []byte, verify func(p []byte) error) error
}

// ReadVerified fills p from off and applies verify, using whatever means the
// blob has to find right bytes. The error is of kind Corrupt when no source had
// bytes that verify accepts.
func ReadVerified(ctx context.Context, b Blob, off int64, p []byte, verify func(p []byte) error) error {
	if v, ok := b.(VerifiedReader); ok {
		return v.ReadVerified(ctx, off, p, verify)
	}
	if err := b.ReadRange(ctx, off, p); err != nil {
		return err
	}
	if err := verify(p); err != nil {
		return fserr.New(fserr.Corrupt, "verify", fmt.Sprintf("range [%d,%d)", off, off+int64(len(p))), err)
	}
	return nil
}

// Cost is what was learned about requests to the host of a blob.
type Cost struct {
	// RoundTrip is how long an answer takes to begin, at the shortest.
	RoundTrip time.Duration
	// BytesPerSecond is how fast bytes come, over all requests.
	BytesPerSecond float64
}

// WorthRequest is how many bytes take as long as one more round trip.
func (c Cost) WorthRequest() int64 { return int64(c.RoundTrip.Seconds() * c.BytesPerSecond) }

// Coster is a Blob whose host is being learned about.
type Coster interface {
	Blob
	// Cost is false while too little is known.
	Cost() (Cost, bool)
}

// CheckRange reports a range outside a blob of size bytes as Invalid. It does
// not overflow for any input.
func CheckRange(object string, size, off, n int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return fserr.Newf(fserr.Invalid, "read", object, "range of %d bytes at %d is outside the blob of %d bytes", n, off, size)
	}
	return nil
}
