package containerdstore_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"github.com/containerd/errdefs/pkg/errgrpc"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// containerd is the part of one that the store talks to: containerd's own
// metadata and content store, behind containerd's own API, with a garbage
// collector that runs when a test says so.
type containerd struct {
	address string
	db      *metadata.DB
	store   images.Store
	leases  leases.Manager
}

func startContainerd(t *testing.T) *containerd {
	t.Helper()
	dir, err := os.MkdirTemp("", "c") // a socket's path must be short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	blobs, err := local.NewStore(filepath.Join(dir, "content"))
	must(t, err)
	bolt, err := bbolt.Open(filepath.Join(dir, "meta.db"), 0o600, nil)
	must(t, err)
	t.Cleanup(func() { _ = bolt.Close() })
	db := metadata.NewDB(bolt, blobs, nil)
	must(t, db.Init(t.Context()))
	c := &containerd{address: filepath.Join(dir, "c.sock"), db: db, store: metadata.NewImageStore(db), leases: metadata.NewLeaseManager(db)}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			return handle(incoming(ctx), req)
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			return handle(srv, serverStream{s, incoming(s.Context())})
		}))
	contentapi.RegisterContentServer(server, contentserver.New(db.ContentStore()))
	imagesapi.RegisterImagesServer(server, imageServer{store: c.store})
	leasesapi.RegisterLeasesServer(server, leaseServer{leases: c.leases})
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", c.address)
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return c
}

// incoming takes the namespace and the lease out of a call's header.
func incoming(ctx context.Context) context.Context {
	if ns, ok := namespaces.Namespace(ctx); ok {
		ctx = namespaces.WithNamespace(ctx, ns)
	}
	if id, ok := leases.FromContext(ctx); ok {
		ctx = leases.WithLease(ctx, id)
	}
	return ctx
}

type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s serverStream) Context() context.Context { return s.ctx }

// collect runs the garbage collector and says what is left in a namespace.
func (c *containerd) collect(t *testing.T, space string) map[digest.Digest]bool {
	t.Helper()
	_, err := c.db.GarbageCollect(t.Context())
	must(t, err)
	left := map[digest.Digest]bool{}
	must(t, c.db.ContentStore().Walk(namespaces.WithNamespace(t.Context(), space), func(info contentInfo) error {
		left[info.Digest] = true
		return nil
	}))
	return left
}

type imageServer struct {
	imagesapi.UnimplementedImagesServer
	store images.Store
}

func fromAPI(i *imagesapi.Image) images.Image {
	return images.Image{Name: i.Name, Labels: i.Labels, Target: ocispec.Descriptor{
		MediaType: i.Target.MediaType, Digest: digest.Digest(i.Target.Digest), Size: i.Target.Size}}
}

func (s imageServer) Get(ctx context.Context, r *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	i, err := s.store.Get(ctx, r.Name)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &imagesapi.GetImageResponse{Image: &imagesapi.Image{Name: i.Name, Target: &types.Descriptor{
		MediaType: i.Target.MediaType, Digest: i.Target.Digest.String(), Size: i.Target.Size}}}, nil
}

func (s imageServer) Create(ctx context.Context, r *imagesapi.CreateImageRequest) (*imagesapi.CreateImageResponse, error) {
	if _, err := s.store.Create(ctx, fromAPI(r.Image)); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &imagesapi.CreateImageResponse{}, nil
}

func (s imageServer) Update(ctx context.Context, r *imagesapi.UpdateImageRequest) (*imagesapi.UpdateImageResponse, error) {
	if _, err := s.store.Update(ctx, fromAPI(r.Image), r.UpdateMask.GetPaths()...); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &imagesapi.UpdateImageResponse{}, nil
}

func (s imageServer) Delete(ctx context.Context, r *imagesapi.DeleteImageRequest) (*emptypb.Empty, error) {
	if err := s.store.Delete(ctx, r.Name); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &emptypb.Empty{}, nil
}

type leaseServer struct {
	leasesapi.UnimplementedLeasesServer
	leases leases.Manager
}

func (s leaseServer) Create(ctx context.Context, r *leasesapi.CreateRequest) (*leasesapi.CreateResponse, error) {
	l, err := s.leases.Create(ctx, leases.WithID(r.ID), leases.WithLabels(r.Labels))
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &leasesapi.CreateResponse{Lease: &leasesapi.Lease{ID: l.ID, Labels: l.Labels}}, nil
}

func (s leaseServer) Delete(ctx context.Context, r *leasesapi.DeleteRequest) (*emptypb.Empty, error) {
	if err := s.leases.Delete(ctx, leases.Lease{ID: r.ID}); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &emptypb.Empty{}, nil
}
