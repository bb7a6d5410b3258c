package conformance_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/reference"
	stargzfs "github.com/containerd/stargz-snapshotter/fs"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/fs/source"
	"github.com/containerd/stargz-snapshotter/metadata"
	"github.com/containerd/stargz-snapshotter/nativeconverter/estargz/externaltoc"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/demoimage/treesum"
	"github.com/nineply/nineply/internal/testreg"
)

// TestStargzSnapshotterMountsOurs: the file system of stargz-snapshotter mounts
// our layers from a registry, verified and each without fetching it whole, and
// under the overlay of a snapshot they are what plain extraction gives.
func TestStargzSnapshotterMountsOurs(t *testing.T) {
	needRoot(t)
	want := extracted(t)
	for i := range want {
		if want[i].Path == "srv" { // the upper layer has no entry of it, and so no time
			want[i].Sec = 0
		}
	}
	for _, mode := range slices.Sorted(maps.Keys(modes)) {
		if modes[mode].Dialect != estargz.DialectStargz {
			continue // it mounts no layer that has no digest of its TOC
		}
		t.Run(mode, func(t *testing.T) {
			got := snapshotted(t, mode)
			diff := treesum.Compare{
				IgnoreRoot: true, IgnoreNsec: true, IgnoreDirLinks: true, IgnoreXattr: []string{"trusted.overlay.", "user.overlay."},
			}.Diff(want, got)
			for _, line := range diff {
				t.Error(line)
			}
		})
	}
}

// snapshotted lists the image as the snapshotter shows it.
func snapshotted(t *testing.T, mode string) []treesum.Node {
	t.Helper()
	reg := testreg.New(t)
	var image, tocs testreg.Image
	for _, text := range sources(t) {
		b := write(t, text, mode)
		image.Layers = append(image.Layers, testreg.Layer{Data: b.bytes, MediaType: b.MediaType, Annotations: b.Annotations})
		tocs.Layers = append(tocs.Layers, testreg.Layer{
			Data: b.ExternalTOC, Annotations: map[string]string{estargz.AnnotationLayerDigest: b.BlobDigest.String()},
		})
	}
	added := reg.AddImage("image", "latest", image)
	if tocs.Layers[0].Data != nil {
		reg.AddImage("image", "latest"+estargz.ExternalTOCSuffix, tocs)
	}
	dirs := mountLayers(t, reg.Ref("image", "latest"), added.Layers)
	var fetched int64
	for _, q := range reg.Requests(testreg.Match{}) {
		fetched += q.Bytes
	}
	last := added.Layers[len(added.Layers)-1]
	if fetched > last.Size/2 {
		t.Errorf("%d of %d bytes fetched to mount", fetched, last.Size)
	}
	slices.Reverse(dirs)
	merged := t.TempDir()
	must(t, unix.Mount("overlay", merged, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(dirs, ":")))
	nodes, err := treesum.Walk(merged, treesum.Options{})
	must(t, unix.Unmount(merged, 0))
	must(t, err)
	for i := range nodes {
		if nodes[i].Sec == (time.Time{}).Unix() { // what it shows for no time
			nodes[i].Sec = 0
		}
	}
	return nodes
}

// mountLayers mounts the layers of an image, bottom first, until the test ends.
func mountLayers(t *testing.T, ref string, layers []ocispec.Descriptor) (dirs []string) {
	t.Helper()
	fs, err := stargzfs.NewFilesystem(t.TempDir(), config.Config{NoPrefetch: true, NoBackgroundFetch: true, NoPrometheus: true},
		stargzfs.WithGetSources(source.FromDefaultLabels(plainHosts)),
		stargzfs.WithAdditionalDecompressors(func(ctx context.Context, hosts source.RegistryHosts, ref reference.Spec, desc ocispec.Descriptor) []metadata.Decompressor {
			return []metadata.Decompressor{externaltoc.NewRemoteDecompressor(ctx, hosts, ref, desc)}
		}))
	must(t, err)
	for _, l := range layers {
		labels := maps.Clone(l.Annotations)
		labels["containerd.io/snapshot/remote/stargz.reference"] = ref
		labels["containerd.io/snapshot/remote/stargz.digest"] = l.Digest.String()
		dir := filepath.Join(t.TempDir(), "layer")
		must(t, os.Mkdir(dir, 0o700))
		must(t, fs.Mount(t.Context(), dir, labels))
		t.Cleanup(func() { must(t, fs.Unmount(context.Background(), dir)) })
		dirs = append(dirs, dir)
	}
	return dirs
}

// plainHosts are registries on the loopback interface.
func plainHosts(ref reference.Spec) ([]docker.RegistryHost, error) {
	return docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost))(ref.Hostname())
}
