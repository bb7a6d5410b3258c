package snapshotter_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/unpack"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"

	"github.com/nineply/nineply/internal/fserr"
)

// realImage is an image of real layers in a content store of containerd.
type realImage struct {
	manifest ocispec.Descriptor
	layers   []ocispec.Descriptor
	chain    string
}

// TestUnpacker runs containerd's own unpacker, metadata store and applier on the
// snapshotter, for images whose layers can all, partly, or not be served.
func TestUnpacker(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct {
		name   string
		served []bool
		// fetched counts layers containerd downloads: once one cannot be served, all
		// above it too.
		fetched int
	}{
		{"all served", []bool{true, true, true}, 0},
		{"top not served", []bool{true, true, false}, 1},
		{"middle not served", []bool{true, false, true}, 2},
		{"base not served", []bool{false, true, true}, 3},
		{"none served", []bool{false, false, false}, 3},
	} {
		t.Run(tt.name, func(t *testing.T) { testUnpack(t, tt.served, tt.fetched) })
	}
}

func testUnpack(t *testing.T, served []bool, fetched int) {
	r := newRig(t)
	ctx := namespaces.WithNamespace(t.Context(), "default")
	db, cs := openMetadata(t, r)
	img := writeImage(ctx, t, cs, r.b, served)
	got := runUnpacker(ctx, t, db, cs, img)
	if got != fetched {
		t.Errorf("containerd fetched %d layers, want %d", got, fetched)
	}
	sn := db.Snapshotter("nineply")
	gcRoot := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test"})
	m, err := sn.Prepare(ctx, "container", img.chain, gcRoot)
	if err != nil {
		t.Fatalf("container: %v", err)
	}
	mounted(t, m, func(dir string) {
		for _, name := range []string{"f0", "f1", "f2"} {
			wantFile(t, filepath.Join(dir, name), "content of "+name)
		}
	})
	if err := sn.Remove(ctx, "container"); err != nil {
		t.Error(err)
	}
	// Without a reference to the image, containerd collects everything.
	if err := cs.Delete(ctx, img.manifest.Digest); err != nil {
		t.Error(err)
	}
	if err := sn.Remove(ctx, img.chain); err != nil {
		t.Error(err)
	}
	if _, err := db.GarbageCollect(ctx); err != nil {
		t.Error(err)
	}
	r.wantState(state{})
}

func openMetadata(t *testing.T, r *rig) (*metadata.DB, content.Store) {
	t.Helper()
	dir := t.TempDir()
	store, err := local.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	bolt, err := bbolt.Open(filepath.Join(dir, "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bolt.Close(); err != nil {
			t.Error(err)
		}
	})
	db := metadata.NewDB(bolt, store, map[string]snapshots.Snapshotter{"nineply": r.Snapshotter})
	if err := db.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return db, db.ContentStore()
}

// writeImage writes an image with one file in each layer. Layers that are not
// served are unknown to the backend.
func writeImage(ctx context.Context, t *testing.T, cs content.Store, b *fakeBackend, served []bool) realImage {
	t.Helper()
	img := realImage{}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	for i, ok := range served {
		name := "f" + string(rune('0'+i))
		blob, diffID := layerBlob(t, name, "content of "+name)
		desc := writeBlob(ctx, t, cs, ocispec.MediaTypeImageLayerGzip, blob, nil)
		if ok {
			b.files[desc.Digest.String()] = map[string]string{name: "content of " + name}
		}
		img.layers = append(img.layers, desc)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	img.chain = identity.ChainID(append([]digest.Digest{}, config.RootFS.DiffIDs...)).String()
	configDesc := writeBlob(ctx, t, cs, ocispec.MediaTypeImageConfig, mustJSON(t, config), nil)
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: configDesc, Layers: img.layers,
	}
	img.manifest = writeBlob(ctx, t, cs, ocispec.MediaTypeImageManifest, mustJSON(t, manifest),
		map[string]string{"containerd.io/gc.root": "test", "containerd.io/gc.ref.content.config": configDesc.Digest.String()})
	return img
}

func layerBlob(t *testing.T, name, content string) ([]byte, digest.Digest) {
	t.Helper()
	var plain, packed bytes.Buffer
	tw := tar.NewWriter(&plain)
	if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	zw := gzip.NewWriter(&packed)
	if _, err := zw.Write(plain.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes(), digest.FromBytes(plain.Bytes())
}

func writeBlob(ctx context.Context, t *testing.T, cs content.Store, mediaType string, p []byte, labels map[string]string) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(p), Size: int64(len(p))}
	if err := content.WriteBlob(ctx, cs, desc.Digest.String(), bytes.NewReader(p), desc, content.WithLabels(labels)); err != nil {
		t.Fatal(err)
	}
	return desc
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	p, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// runUnpacker does the part of a pull after the manifest, and counts the layers
// that were fetched.
func runUnpacker(ctx context.Context, t *testing.T, db *metadata.DB, cs content.Store, img realImage) int {
	t.Helper()
	u, err := unpack.NewUnpacker(ctx, cs, unpack.WithUnpackPlatform(unpack.Platform{
		SnapshotterKey: "nineply",
		Snapshotter:    db.Snapshotter("nineply"),
		Applier:        apply.NewFileSystemApplier(cs),
	}))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	fetched := map[digest.Digest]struct{}{}
	fetch := images.HandlerFunc(func(_ context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if images.IsLayerType(desc.MediaType) {
			mu.Lock()
			defer mu.Unlock()
			fetched[desc.Digest] = struct{}{}
		}
		return nil, nil
	})
	h := snapshotters.AppendInfoHandlerWrapper(testRef)(images.Handlers(fetch, images.ChildrenHandler(cs)))
	if err := images.Dispatch(ctx, u.Unpack(h), nil, img.manifest); err != nil {
		t.Fatalf("dispatch: %v", err)
	}
	if _, err := u.Wait(); err != nil {
		t.Fatalf("unpack: %v", err)
	}
	return len(fetched)
}

// TestPoisonedLayerFailsThePull: a layer that contradicts its chain ID is not
// handed back either, as containerd would reuse what is there.
func TestPoisonedLayerFailsThePull(t *testing.T) {
	r := newRig(t)
	layers := r.b.addImage("app", 1)
	r.b.setHook(failing("AddLayer", fserr.New(fserr.Corrupt, "add layer", "x", nil)))
	if _, err := prepareLayer(r.ctx, r, layers, 0); err == nil {
		t.Error("the layer was handed back")
	}
	r.wantState(state{})
	if diff := cmp.Diff(uint64(1), r.Stats().Failed, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("failed (-want +got):\n%s", diff)
	}
}
