package containerdstore

import (
	"context"
	"errors"
	"strings"
	"sync"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/v2/core/content"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/leases"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/nineply/nineply/internal/fserr"
	"github.com/nineply/nineply/internal/source"
)

// What is used when nothing else is said.
const (
	DefaultAddress   = "/run/containerd/containerd.sock"
	DefaultNamespace = "default"
)

// maxMessage is containerd's own limit on a message, bytes.
const maxMessage = 16 << 20

// Options configures a Store.
type Options struct {
	Address   string // path of containerd's socket; DefaultAddress if empty
	Namespace string // for references without one; DefaultNamespace if empty
}

// Store is the source for references to a containerd. It connects at the first
// use, and is safe for concurrent use.
type Store struct {
	opts Options

	mu   sync.Mutex
	conn *grpc.ClientConn
}

var _ source.Backend = (*Store)(nil)

// New makes a Store. Close it after use.
func New(opts Options) *Store {
	if opts.Address == "" {
		opts.Address = DefaultAddress
	}
	if opts.Namespace == "" {
		opts.Namespace = DefaultNamespace
	}
	return &Store{opts: opts}
}

// Close ends the connection.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return nil
	}
	err := s.conn.Close()
	s.conn = nil
	return err
}

// services are containerd's, in one namespace.
type services struct {
	ref     Reference
	space   string
	images  imagesapi.ImagesClient
	content content.Store
	leases  leases.Manager
}

// open reads a reference and connects.
func (s *Store) open(ref string) (*services, error) {
	parsed, err := ParseReference(ref)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		s.conn, err = grpc.NewClient("unix:"+strings.TrimPrefix(s.opts.Address, "unix://"),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
		if err != nil {
			return nil, fserr.New(fserr.Unavailable, "connect to containerd at", s.opts.Address, err)
		}
	}
	v := &services{
		ref: parsed, space: parsed.Namespace,
		images:  imagesapi.NewImagesClient(s.conn),
		content: contentproxy.NewContentStore(contentapi.NewContentClient(s.conn)),
		leases:  leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(s.conn)),
	}
	if v.space == "" {
		v.space = s.opts.Namespace
	}
	return v, nil
}

// in adds the namespace to what a call carries.
func (v *services) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, v.space)
}

// failure says what could not be done, with the kind that containerd's error has
// here.
func (v *services) failure(op, what string, err error) error {
	if _, ok := status.FromError(err); ok {
		err = errgrpc.ToNative(err)
	}
	kind := fserr.KindOf(err)
	switch {
	case kind != fserr.Internal:
	case errdefs.IsNotFound(err):
		kind = fserr.NotExist
	case errdefs.IsInvalidArgument(err):
		kind = fserr.Invalid
	case errdefs.IsPermissionDenied(err), errdefs.IsUnauthorized(err):
		kind = fserr.Unauthorized
	case errdefs.IsCanceled(err):
		kind = fserr.Canceled
	default:
		kind = fserr.Unavailable
	}
	return fserr.New(kind, op, strings.TrimSpace(v.ref.String()+" "+what), err)
}

// Resolve implements [source.Repository].
func (s *Store) Resolve(ctx context.Context, ref string, platform ocispec.Platform) (*source.Image, error) {
	v, err := s.open(ref)
	if err != nil {
		return nil, err
	}
	return source.ResolveImage(ctx, v.ref.String(), v, platform)
}

// FetchManifest implements [source.Fetcher].
func (s *Store) FetchManifest(ctx context.Context, ref string) (ocispec.Descriptor, []byte, error) {
	v, err := s.open(ref)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	return v.Top(ctx)
}

// Top implements [source.Objects].
func (v *services) Top(ctx context.Context) (ocispec.Descriptor, []byte, error) {
	desc := ocispec.Descriptor{Digest: v.ref.Digest, Size: -1}
	if v.ref.Digest == "" {
		var err error
		if desc, err = v.target(ctx); err != nil {
			return ocispec.Descriptor{}, nil, err
		}
	}
	data, err := v.read(ctx, desc, source.MaxManifestBytes)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	desc.Size = int64(len(data))
	desc.MediaType = source.ManifestType(desc.MediaType, data)
	return desc, data, nil
}

// target asks for the image record.
func (v *services) target(ctx context.Context) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	var first error
	for _, name := range v.ref.names() {
		answer, err := v.images.Get(v.in(ctx), &imagesapi.GetImageRequest{Name: name})
		if err == nil {
			t := answer.GetImage().GetTarget()
			desc := ocispec.Descriptor{MediaType: t.GetMediaType(), Digest: digest.Digest(t.GetDigest()), Size: t.GetSize(), Annotations: t.GetAnnotations()}
			if err := source.CheckDigest(desc.Digest); err != nil {
				return none, fserr.New(fserr.Corrupt, "read record of", v.ref.String(), err)
			}
			return desc, nil
		}
		if err = v.failure("resolve", "", err); !fserr.Is(err, fserr.NotExist) {
			return none, err
		}
		if first == nil {
			first = err
		}
	}
	return none, first
}

// Manifest implements [source.Objects].
func (v *services) Manifest(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	return v.read(ctx, desc, source.MaxManifestBytes)
}

// Config implements [source.Objects].
func (v *services) Config(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	return v.read(ctx, desc, source.MaxConfigBytes)
}

// read reads a small object whole. A negative size means that of the content.
func (v *services) read(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	b, err := v.blob(ctx, desc)
	if err != nil {
		return nil, err
	}
	desc.Size = b.length
	if desc.Size > limit {
		return nil, fserr.Newf(fserr.TooLarge, "read", b.object, "%d bytes, at most %d are read", desc.Size, limit)
	}
	rc, err := b.Stream(ctx, 0)
	if err != nil {
		return nil, err
	}
	data, err := source.ReadObject(rc, desc, limit)
	if err != nil {
		return nil, fserr.New(fserr.KindOf(err), "read", b.object, err)
	}
	return data, nil
}

// Blob implements [source.Repository].
func (s *Store) Blob(ctx context.Context, ref string, desc ocispec.Descriptor) (source.Blob, error) {
	v, err := s.open(ref)
	if err != nil {
		return nil, err
	}
	if desc.Size < 0 {
		return nil, fserr.Newf(fserr.Invalid, "open", v.ref.String()+" blob "+desc.Digest.String(), "negative size")
	}
	if desc.Size == 0 && desc.Digest.Validate() == nil && desc.Digest != desc.Digest.Algorithm().FromBytes(nil) {
		desc.Size = -1
	}
	return v.blob(ctx, desc)
}

// errNotThere explains the commonest reason for a missing layer.
var errNotThere = errors.New("not in containerd's content store: never pulled, pulled lazily, or discarded after unpacking")
