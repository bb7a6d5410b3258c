package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/nineply/nineply/snapshotter"
)

// dialed is a client of a served snapshotter. Close ends client, server and
// snapshotter; the proxy of containerd alone would not reach the server.
type dialed struct {
	snapshots.Snapshotter
	snapshots.Cleaner
	stop func() error
}

func (d dialed) Close() error { return d.stop() }

// serveOver serves sn on a unix socket and gives a client of it.
func serveOver(sn snapshots.Snapshotter) (dialed, error) {
	dir, err := os.MkdirTemp("", "sn") // short: a socket's path is limited
	if err != nil {
		return dialed{}, err
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return dialed{}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- snapshotter.Serve(ctx, l, sn) }()
	conn, err := grpc.NewClient("unix:"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		cancel()
		return dialed{}, errors.Join(err, <-served)
	}
	client := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "any")
	cleaner, ok := client.(snapshots.Cleaner)
	if !ok {
		cancel()
		return dialed{}, errors.Join(fmt.Errorf("the proxy cannot clean up"), <-served)
	}
	closed := false
	return dialed{Snapshotter: client, Cleaner: cleaner, stop: func() error {
		if closed {
			return nil
		}
		closed = true
		cancel()
		return errors.Join(conn.Close(), <-served, sn.Close(), os.RemoveAll(dir))
	}}, nil
}

// open opens a snapshotter on root, directly or behind a socket.
func open(ctx context.Context, root string, b snapshotter.Backend, overSocket bool) (snapshots.Snapshotter, error) {
	sn, err := snapshotter.New(ctx, snapshotter.Options{Root: root, Backend: b})
	if err != nil {
		return nil, err
	}
	if !overSocket {
		return sn, nil
	}
	return serveOver(sn)
}

func TestContainerdSuite(t *testing.T) {
	needRoot(t)
	if testing.Short() {
		t.Skip("mounts 128 layers, twice")
	}
	for _, tt := range []struct {
		name       string
		overSocket bool
	}{{"in process", false}, {"over a socket", true}} {
		t.Run(tt.name, func(t *testing.T) {
			b := newFakeBackend(t)
			testsuite.SnapshotterSuite(t, "overlayfs", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
				sn, err := open(ctx, root, b, tt.overSocket)
				if err != nil {
					return nil, nil, err
				}
				return sn, sn.Close, nil
			})
		})
	}
}
