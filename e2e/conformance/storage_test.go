package conformance_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"go.podman.io/storage"
	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/chunked"
	"go.podman.io/storage/pkg/chunked/compressor"

	"github.com/nineply/nineply/estargz"
	"github.com/nineply/nineply/internal/demoimage"
	"github.com/nineply/nineply/internal/demoimage/treesum"
)

// TestContainersStorageAppliesOurs: containers/storage takes our zstd:chunked
// layers in pieces, rebuilds the tar with our tar-split data to prove the DiffID –
// the flag that would spare it the proof is not set – and mounts what it mounts
// when its own writer made the layers. Their contents are those of extraction.
func TestContainersStorageAppliesOurs(t *testing.T) {
	needRoot(t)
	var tars [][]byte
	for _, text := range sources(t) {
		tars = append(tars, without(t, text, "srv/lower/.wh.back"))
	}
	want := applied(t, tars, theirs)
	sums := map[string]string{}
	for _, n := range want {
		sums[n.Path] = n.Sum
	}
	for _, n := range extracted(t) {
		if sums[n.Path] != n.Sum {
			t.Errorf("%s has content %s applied, %s extracted", n.Path, sums[n.Path], n.Sum)
		}
	}
	for mode, options := range modes {
		if options.Dialect != estargz.DialectContainers {
			continue
		}
		t.Run(mode, func(t *testing.T) {
			got := applied(t, tars, func(t *testing.T, text []byte) *blob { return write(t, text, mode) })
			for _, line := range (treesum.Compare{}).Diff(want, got) {
				t.Error(line)
			}
		})
	}
}

// theirs writes a layer with the writer of containers/storage.
func theirs(t *testing.T, text []byte) *blob {
	t.Helper()
	var out bytes.Buffer
	annotations := map[string]string{}
	w, err := compressor.ZstdCompressor(&out, annotations, nil)
	must(t, err)
	_, err = w.Write(text)
	must(t, errors.Join(err, w.Close()))
	return &blob{estargz.Result{
		BlobDigest: estargz.Sum(out.Bytes()), BlobSize: int64(out.Len()), DiffID: estargz.Sum(text), Annotations: annotations,
	}, out.Bytes()}
}

// applied lists an image that containers/storage made of blobs. Times of nodes
// that it gives none are left out.
func applied(t *testing.T, tars [][]byte, write func(*testing.T, []byte) *blob) []treesum.Node {
	t.Helper()
	start := time.Now().Unix()
	store := newStore(t)
	var parent string
	for i, text := range tars {
		id := digest.FromString(strconv.Itoa(i)).Encoded()
		apply(t, store, write(t, text), id, parent)
		parent = id
	}
	dir, err := store.Mount(parent, "")
	must(t, err)
	nodes, err := treesum.Walk(dir, treesum.Options{})
	must(t, err)
	for i := range nodes {
		if nodes[i].Sec >= start {
			nodes[i].Sec, nodes[i].Nsec = 0, 0
		}
	}
	_, err = store.Unmount(parent, true)
	must(t, err)
	return nodes
}

// without drops an entry from a tar. containers/storage cannot apply a layer that
// hides a name and has it, whoever wrote it: its whiteout is in the way.
func without(t *testing.T, text []byte, name string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for r := tar.NewReader(bytes.NewReader(text)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if h.Name == name {
			continue
		}
		must(t, w.WriteHeader(h))
		_, err = io.Copy(w, r)
		must(t, err)
	}
	must(t, w.Close())
	return out.Bytes()
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("it needs root")
	}
	t.Skip("it needs root")
}

// extracted lists what GNU tar makes of the image.
func extracted(t *testing.T) []treesum.Node {
	t.Helper()
	im, err := smallImage()
	must(t, err)
	var layers []string
	for _, l := range im.Layers {
		layers = append(layers, l.Path)
	}
	dir := t.TempDir()
	must(t, demoimage.Untar(t.Context(), layers, dir))
	nodes, err := treesum.Walk(dir, treesum.Options{})
	must(t, err)
	return nodes
}

// newStore is an empty store that pulls images in part.
func newStore(t *testing.T) storage.Store {
	t.Helper()
	dir := t.TempDir()
	store, err := storage.GetStore(storage.StoreOptions{
		RunRoot: filepath.Join(dir, "run"), GraphRoot: filepath.Join(dir, "root"), GraphDriverName: "overlay",
		PullOptions: map[string]string{"enable_partial_images": "true"},
	})
	must(t, err)
	t.Cleanup(func() {
		if _, err := store.Shutdown(true); err != nil {
			t.Error(err)
		}
	})
	return store
}

// apply makes a layer of a blob.
func apply(t *testing.T, store storage.Store, b *blob, id, parent string) {
	t.Helper()
	source := &ranges{blob: b.bytes}
	differ, err := chunked.NewDiffer(t.Context(), store, digest.Digest(b.BlobDigest.String()), b.BlobSize, b.Annotations, source)
	must(t, err)
	var options graphdriver.ApplyDiffWithDifferOpts
	out, err := store.PrepareStagedLayer(&options, differ)
	must(t, err)
	must(t, differ.Close())
	if got := out.UncompressedDigest.String(); got != b.DiffID.String() {
		t.Errorf("it rebuilt a tar with digest %s, the DiffID is %s", got, b.DiffID)
	}
	if source.served >= b.BlobSize {
		t.Errorf("it asked for %d bytes of a blob of %d", source.served, b.BlobSize)
	}
	_, err = store.ApplyStagedLayer(storage.ApplyStagedLayerOptions{ID: id, ParentLayer: parent, DiffOutput: out, DiffOptions: &options})
	must(t, err)
}

// ranges serves parts of a blob as a registry would.
type ranges struct {
	blob   []byte
	served int64
}

func (r *ranges) GetBlobAt(chunks []chunked.ImageSourceChunk) (chan io.ReadCloser, chan error, error) {
	for _, c := range chunks {
		if c.Offset+c.Length > uint64(len(r.blob)) {
			return nil, nil, fmt.Errorf("bytes %d+%d of %d", c.Offset, c.Length, len(r.blob))
		}
		r.served += int64(c.Length)
	}
	parts, errs := make(chan io.ReadCloser), make(chan error)
	go func() {
		defer close(errs)
		defer close(parts)
		for _, c := range chunks {
			parts <- io.NopCloser(bytes.NewReader(r.blob[c.Offset:][:c.Length]))
		}
	}()
	return parts, errs, nil
}
